"""The arithmetic counted from shapes is that of the products in a traced meta-gradient."""

import dataclasses
import importlib
import math

import pytest

from benchmarks import settings


def _products(jaxpr):
    """Operations of every `dot_general`, in the jaxprs inside too."""
    total = 0
    for equation in jaxpr.eqns:
        assert "conv" not in equation.primitive.name or "convert" in equation.primitive.name
        assert equation.primitive.name not in ("while", "scan")  # would count once, run often
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                total += _products(value.jaxpr)
            elif hasattr(value, "eqns"):
                total += _products(value)
    return total


CASES = [(name, {}) for name in settings.SETTINGS] + [
    ("sinusoid", {"inner_steps": 3}),
    ("omniglot_5way_1shot_dense", {"first_order": True, "queries": 4}),
    ("miniimagenet_5way_1shot", {"first_order": True}),
]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_count_is_that_of_the_traced_products(name, changes):
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    peer = importlib.import_module("benchmarks.peers.jax_vmap")
    setting = dataclasses.replace(settings.SETTINGS[name], **changes)
    if setting.inner_steps == 5:  # tracing is slow, and the third step is like the second
        setting = dataclasses.replace(setting, inner_steps=2)
    weights, data = settings.initial_weights(setting), settings.random_task_batch(setting)
    traced = jax.make_jaxpr(jax.grad(lambda weights: peer.meta_loss(setting, weights, data)))
    assert _products(traced(weights).jaxpr) == settings.floating_point_operations(setting)


def test_dense_layer_by_hand():
    # Two tasks of one example through 1 -> 40 -> 40 -> 1, a second-order step: the first layer
    # costs 6 F, the others 12 F, with F of 2 * 2 * (40, 1600, 40).
    setting = dataclasses.replace(settings.SETTINGS["sinusoid"], tasks=2, shots=1, queries=1)
    assert settings.floating_point_operations(setting) == 4 * (6 * 40 + 12 * 1640)


def test_omniglot_is_ten_gigaflop():
    count = settings.floating_point_operations(settings.SETTINGS["omniglot_5way_1shot"])
    assert count == pytest.approx(10.2e9, rel=0.05)


def test_same_padding_is_tensorflows():
    assert settings.same_padding(28, 2) == (0, 1)
    assert settings.same_padding(7, 2) == (1, 1)
    assert settings.same_padding(84, 1) == (1, 1)
