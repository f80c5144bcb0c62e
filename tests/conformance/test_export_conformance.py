"""Exports of all models, run where neither Keras nor maml_tf is, against the learner itself."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import randomize
from keras import layers

from conformance.models import MODELS, Spec
from conformance.test_conformance import squared_error
from maml_tf import Batch, MetaLearner, functional
from maml_tf.saving.export import export
from maml_tf.supervised import serving_arguments as argument_types

STEPS = 2
SHOTS, QUERIES = 5, 4

ELSEWHERE = """
import sys, pathlib
sys.modules["keras"] = sys.modules["maml_tf"] = None  # importing either now fails
import numpy as np, tensorflow as tf

def feed(model, name, arrays):
    # All arrays that a signature asks for, in its types.
    wanted = model.signatures[name].structured_input_signature[1]
    return {n: tf.constant(arrays[n], s.dtype) for n, s in wanted.items() if n in arrays}

def run(folder, results):
    model, data = tf.saved_model.load(str(folder)), dict(np.load(folder / "data.npz"))
    def given(prefix):  # an array, or a dictionary of such
        named = {n.split("|")[1]: v for n, v in data.items() if n.startswith(prefix + "|")}
        return named or data[prefix]
    support, query = (given("support_x"), given("support_y")), given("query_x")
    flat = {n.replace("|", "_").replace("_x_", "_"): v for n, v in data.items()}
    flat |= {n.removeprefix("query_x|"): v for n, v in data.items() if n.startswith("query_x|")}
    flat["x"] = data.get("query_x")
    two = {"steps": tf.constant(2), "step_size": tf.constant(float("nan"))}
    two["step_size"] = tf.constant(0.1)
    adapted = model.adapt(*support, steps=2)
    signed = model.signatures["adapt"](**feed(model, "adapt", flat), **two)
    for switch in (True, False):
        t = {"transductive": tf.constant(switch)}
        routes = {
            "two calls": model.predict(query, adapted, transductive=switch),
            "one call": model.adapt_and_predict(*support, query, steps=2, transductive=switch),
            "two signatures": model.signatures["predict"](
                **feed(model, "predict", flat), **signed, **t
            ),
            "one signature": model.signatures["adapt_and_predict"](
                **feed(model, "adapt_and_predict", flat), **two, **t
            ),
        }
        for route, outputs in routes.items():
            if not isinstance(outputs, dict):
                outputs = {"predictions": outputs}
            for name, value in outputs.items():
                results[f"{folder.name}|{switch}|{route}|{name}"] = value

results = {}
for folder in sorted(p for p in pathlib.Path(".").iterdir() if p.is_dir()):
    try:
        run(folder, results)
    except Exception as error:
        results[f"{folder.name}|failed"] = f"{type(error).__name__}: {error}"
np.savez("results.npz", **results)
"""


def normalised_twice():
    x, norm = keras.Input([4]), layers.BatchNormalization()
    h = norm(layers.Dense(3, "tanh")(norm(layers.Dense(3)(x))))
    return keras.Model(x, layers.Dense(2)(h))


SPECS = MODELS | {"normalised twice": Spec(normalised_twice, [4])}

FAST = [
    *("masked text, functional", "subclassed model", "two inputs by name", "outputs by name"),
    *("vectorized text", "normalised twice", "frozen batch normalisation"),
]


def made(name):
    spec = SPECS[name]
    model = functional(spec.make()).model
    return (model if spec.large else randomize(model)), spec


def data_of(model, spec):
    """A support set and a query set of one task, in float32."""

    def draw(seed, examples):
        x = spec.inputs(seed, tasks=1, examples=examples)
        return tf.nest.map_structure(
            lambda a: a[0].astype("float32") if a.dtype.kind == "f" else a[0], x
        )

    x, query = draw(1, SHOTS), draw(2, QUERIES)
    outputs = model(tf.nest.map_structure(tf.constant, x), training=False)
    rng = np.random.default_rng(3)
    y = tf.nest.map_structure(lambda o: rng.normal(size=o.shape).astype("float32"), outputs)
    return x, y, query


def by_name(what, structure, names):
    """A dictionary for several arrays, in the order that `names` says; else the array."""
    flat = tf.nest.flatten(structure)
    if len(flat) == 1:
        return {what: flat[0]}
    if isinstance(structure, dict):
        return {f"{what}|{n}": value for n, value in structure.items()}
    return {f"{what}|{n}": value for n, value in zip(names, flat, strict=True)}


def exported(name, folder):
    """Exports a model; returns what its predictions must be, by whether they are transductive."""
    model, spec = made(name)
    learner = MetaLearner(model, squared_error, step_size=0.1)
    x, y, query = data_of(model, spec)
    export(learner, folder / name)
    inputs = ["input_0", "input_1"]  # where nobody named them
    arrays = by_name("support_x", x, inputs) | by_name("query_x", query, inputs)
    arrays |= by_name("support_y", y, getattr(model, "output_names", []))
    np.savez(folder / name / "data.npz", **arrays)
    support, many = tf.nest.map_structure(lambda a: tf.constant(a)[None], (Batch(x, y), query))
    weights = learner.adapt_weights(support, STEPS).weights[-1]
    seen = learner.apply.statistics(weights, support.x)
    by_batch = learner.apply(weights, many)
    by_support = learner.apply(weights, many, statistics=seen)
    expected = {True: by_batch, False: by_support}
    names = model.output_names if len(tf.nest.flatten(by_batch)) > 1 else ["predictions"]
    if name != "normalised twice":
        # What one process has at hand: a Keras model.
        adapted = learner.adapt(x, y, steps=STEPS)
        assert_close(adapted(query, training=False), by_support)
    return {
        switch: by_name("", tf.nest.map_structure(lambda o: o[0], outputs), names)
        if len(names) > 1
        else {"|predictions": tf.nest.flatten(outputs)[0][0]}
        for switch, outputs in expected.items()
    }


def assert_close(got, expected):
    for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b[0], atol=2e-4, rtol=2e-4)


EVERY_MIX = argument_types.mixes


def usual_types(*sets):
    return [next(iter(EVERY_MIX(*sets)))]


def compare(names, folder, monkeypatch):
    """Exports, runs elsewhere, and compares every route of every model with this process."""
    # Mixes of types, which test_serving.py tries, would take most of the time.
    monkeypatch.setattr(argument_types, "mixes", usual_types)
    wanted = {name: exported(name, folder) for name in names}
    command = [sys.executable, "-c", ELSEWHERE]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    results = dict(np.load(folder / "results.npz"))
    failed = [f"{name}: {what}" for name, what in results.items() if name.endswith("|failed")]
    assert not failed, "\n".join(failed)
    compared = 0
    for name, by_switch in wanted.items():
        for switch, outputs in by_switch.items():
            for route in ("two calls", "one call", "two signatures", "one signature"):
                for output, value in outputs.items():
                    got = results[f"{name}|{switch}|{route}{output}"]
                    np.testing.assert_allclose(
                        got, value, atol=2e-4, rtol=2e-4, err_msg=f"{name} {switch} {route}"
                    )
                    compared += 1
    assert compared == len(results)


@pytest.mark.slow
def test_exports_adapt_as_the_learner_does(tmp_path, monkeypatch):
    compare(FAST, tmp_path, monkeypatch)


SEQUENTIAL = ["lambda, sequential", "dropout and noise, sequential"]  # others differ by nothing
REST = [n for n in SPECS if n in SEQUENTIAL or (n not in FAST and "sequential" not in n)]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_exports_of_all_other_models_adapt_as_the_learner_does(part, tmp_path, monkeypatch):
    compare(REST[part::6], tmp_path, monkeypatch)
