"""The peers compute what the original graph computed, so timing them beside it is fair."""

import dataclasses
import importlib
import pathlib

import numpy as np
import pytest
from helpers import slow, slow_but

from benchmarks import settings

DATA = pathlib.Path(__file__).parents[1] / "data"
PEERS = ("torch_func", "jax_vmap", "graph")


def _peer(name):
    pytest.importorskip({"torch_func": "torch", "jax_vmap": "jax", "graph": "tensorflow"}[name])
    if name == "jax_vmap":
        pytest.importorskip("optax")
    return importlib.import_module(f"benchmarks.peers.{name}")


def _golden(name):
    path = DATA / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {path.name} in tests/data")
    golden = np.load(path)
    weights, gradient = {}, {}
    for key in golden:
        group, _, weight = key.partition("/")
        if weight.startswith("model/"):  # model/0/beta:0 is the first layer's offset
            weight = f"beta{int(weight.split('/')[1]) + 1}"
        {"w": weights, "g": gradient}.get(group, {})[weight] = golden[key]
    data = {key: golden[key] for key in ("support_x", "support_y", "query_x", "query_y")}
    if name == "sine":
        setting = dataclasses.replace(settings.SETTINGS["sinusoid"], tasks=3, step_size=0.001)
    else:
        setting = dataclasses.replace(settings.SETTINGS["omniglot_5way_1shot"], tasks=3)
        for part in ("support", "query"):
            data[f"{part}_x"] = data[f"{part}_x"].reshape(3, 5, 28, 28, 1)
            data[f"{part}_y"] = data[f"{part}_y"].argmax(-1).astype(np.int32)
    return setting, weights, data, golden["losses"][1], gradient


def _assert_close(actual, expected, tolerance=5e-4):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        error = np.linalg.norm(actual[name] - value) / np.linalg.norm(value)
        assert error < tolerance, f"{name}: relative error {error:.2g}"


@pytest.mark.parametrize(
    ("peer", "golden"),
    [*((peer, "sine") for peer in PEERS), ("graph", "omni5")]
    + [slow(peer, "omni5") for peer in PEERS[:2]],
)
@pytest.mark.cases(2)
def test_peer_reproduces_the_original(peer, golden):
    module = _peer(peer)
    setting, weights, data, loss, gradient = _golden(golden)
    actual_loss, actual = module.build(setting, weights, data).meta_gradient()
    np.testing.assert_allclose(actual_loss, loss, rtol=1e-4)
    _assert_close(actual, gradient)


SMALL = {  # one step of a convolutional network, because compiling takes long
    "omniglot_5way_1shot_first_order": {"filters": 4},
    "omniglot_5way_1shot_dense": {"inner_steps": 2},
    "miniimagenet_5way_1shot": {"filters": 4, "queries": 2, "inner_steps": 1, "image_size": 20},
}


@pytest.mark.parametrize("name", slow_but({"omniglot_5way_1shot_first_order"}, SMALL))
@pytest.mark.parametrize("one", PEERS[:2])
def test_peers_agree(one, name):
    changes = {"tasks": 2, "step_size": 0.01, **SMALL[name]}
    setting = dataclasses.replace(settings.SETTINGS[name], **changes)
    data = settings.random_task_batch(setting)
    (loss, gradient), (other_loss, other) = (
        _peer(peer).build(setting, None, data).meta_gradient() for peer in (one, "graph")
    )
    np.testing.assert_allclose(loss, other_loss, rtol=1e-4)
    scale = max(np.abs(value).max() for value in gradient.values())
    for key, value in gradient.items():
        np.testing.assert_allclose(other[key], value, atol=1e-3 * scale, err_msg=key)


@pytest.mark.parametrize("peer", PEERS)
def test_steps_lower_the_loss(peer):
    setting = settings.SETTINGS["sinusoid"]
    step = _peer(peer).build(setting, None, settings.random_task_batch(setting))
    losses = [step() for _ in range(20)]
    assert losses[-1] < losses[0]
