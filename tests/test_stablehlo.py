"""Programs for JAX, run by JAX, against the learner itself."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, randomize, slow_but
from keras import layers

import maml_tf
from maml_tf import Batch, MetaLearner, Task, losses
from maml_tf.cli.main import run
from maml_tf.saving import stablehlo
from maml_tf.system import checksums

pytest.importorskip("jax", reason="pip install maml-tf[stablehlo]")
TASKS, SUPPORT, QUERIES = 4, 6, 3
SIZES = {"support_examples": SUPPORT, "query_examples": QUERIES, "platforms": ["cpu", "cuda"]}


def convolutional():
    model = keras.Sequential(
        [
            keras.Input([8, 7, 1]),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ]
    )
    return model, losses.cross_entropy


def functional():
    x = keras.Input([5])
    h = layers.LayerNormalization()(layers.Dense(6, "elu")(x))
    h = layers.add([h, layers.Dense(6, "tanh")(h)])
    return keras.Model(x, layers.Dense(3)(h)), keras.losses.SparseCategoricalCrossentropy(True)


def two_inputs():
    image, tokens = keras.Input([6, 6, 2], name="image"), keras.Input([3], name="tokens")
    h = layers.concatenate([layers.Flatten()(image), layers.Dense(4, "sigmoid")(tokens)])
    return keras.Model({"image": image, "tokens": tokens}, layers.Dense(2)(h)), "mse"


CASES = {
    "convolutional": (convolutional, {"clip_norm": 0.5}, {}),
    "inductive": (convolutional, {"pieces": 2}, {"transductive": False}),
    "functional": (functional, {"learn_step_size": "layer_and_step"}, {"steps": 3}),
    "two inputs": (two_inputs, {"inner_optimizer": "momentum"}, {"step_size": 0.2}),
    "prototypes": (functional, {"head_initialization": "prototypes"}, {}),
    "annealed": (
        convolutional,
        {"multi_step_loss": 2, "per_step_normalization": True, "second_order_after": 1},
        {},
    ),
    "running": (convolutional, {"running_statistics": True}, {"running": True, "steps": 3}),
}


def program(directory, name):
    import jax
    import jax.export

    jax.config.update("jax_enable_x64", True)
    return jax.jit(jax.export.deserialize(bytearray((directory / name).read_bytes())).call)


def drawn(learner, seed):
    """A meta-batch, as arrays by name and as a `Task`."""
    inputs = learner.model.inputs
    names = [i.name for i in inputs] if len(inputs) > 1 else []
    shape = {i.name: i.shape[1:] for i in inputs} if names else inputs[0].shape[1:]
    arrays, sets = {}, []
    for part, count in (("support", SUPPORT), ("query", QUERIES)):

        def x(own, key, part=part, count=count):
            value = normal(seed + len(arrays), TASKS, count, *own).numpy().astype("float32")
            arrays[f"{part}_{key}"] = value
            return tf.constant(value)

        examples = {n: x(shape[n], n) for n in names} if names else x(shape, "x")
        y = np.arange(TASKS * count, dtype="int32").reshape(TASKS, count) % 3
        if names:
            y = normal(seed + 9, TASKS, count, 2).numpy().astype("float32")
        arrays[f"{part}_y"] = y
        sets.append(Batch(examples, tf.constant(y)))
    return arrays, Task(*sets)


@pytest.mark.parametrize("name", slow_but({"two inputs"}, CASES))
def test_jax_computes_what_the_learner_does(name, tmp_path):
    make, how, options = CASES[name]
    model, loss = make()
    learner = MetaLearner(
        randomize(model),
        loss,
        step_size=0.1,
        inner_steps=2,
        meta_batch_size=TASKS,
        optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
        **how,
    )
    maml_tf.export(learner, tmp_path / "it", format="stablehlo", **SIZES, **options)
    checksums.verify(tmp_path / "it" / "SHA256SUMS", ["maml_tf.json"])
    step, adapt, predict = (
        program(tmp_path / "it", f"{name}.jax") for name in ("meta_step", "adapt", "predict")
    )
    with np.load(tmp_path / "it" / "variables.npz", allow_pickle=False) as stored:
        variables = dict(stored)
    batches = [drawn(learner, 10 * seed) for seed in range(3)]
    for index, (arrays, _) in enumerate(batches):
        moved, seen = step(variables, {**arrays, "index": np.int64(index)})
        variables |= moved
    told = learner.meta_steps([task for _, task in batches], 0, 3)
    for key, value in seen.items():
        np.testing.assert_allclose(value, getattr(told, key)[-1], rtol=2e-5, atol=1e-6)
    running = learner.running.variables if learner.running else []
    assert len(running) == 2 * (name == "running")
    for variable in [*learner.variables, *running]:
        key = next(k for k in variables if k == variable.path.replace("/", "_"))
        np.testing.assert_allclose(variables[key], variable.numpy(), rtol=1e-4, atol=1e-6)

    arrays, task = batches[0]
    one = {k: v[0] for k, v in arrays.items()}
    _, adapted = adapt(variables, {k: v for k, v in one.items() if k.startswith("support")})
    queries = {
        ("x" if k == "query_x" else k.removeprefix("query_")): v
        for k, v in one.items()
        if k.startswith("query") and k != "query_y"
    }
    _, made = predict(variables, {**queries, **adapted})
    first = tf.nest.map_structure(lambda a: a[:1], task)
    numbers = {k: v for k, v in options.items() if k == "step_size"}
    steps = options.get("steps", learner.inner_steps)
    weights = learner.adapt_weights(first.support, steps, **numbers).weights[-1]
    predicting = {"inductive": not options.get("transductive", True)}
    if "running" in options:
        predicting = {"running_after": steps}
    expected = learner.predict(weights, first.support, first.query.x, **predicting)[0]
    np.testing.assert_allclose(made["predictions"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_products_are_of_full_float32_unless_asked_for():
    model, loss = functional()
    learner = MetaLearner(model, loss, step_size=0.1, meta_batch_size=TASKS)
    import jax.export

    def text(**options):
        made = learner.programs(**SIZES, **options).functions["adapt"]
        return jax.export.deserialize(bytearray(made)).mlir_module()

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    assert "HIGHEST" in text()
    assert "HIGHEST" not in text(tf32=True)
    assert tf.config.experimental.tensor_float_32_execution_enabled() == before


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    model, loss = functional()
    learner = MetaLearner(model, loss, step_size=0.1)
    with pytest.raises(ValueError, match="sets of one size; give support_examples"):
        maml_tf.export(learner, tmp_path / "it", format="stablehlo")
    policy = type("MetaPolicy", (), {"servable": 1})()
    with pytest.raises(ValueError, match="MetaPolicy has no programs for JAX"):
        maml_tf.export(policy, tmp_path / "it", format="stablehlo")
    monkeypatch.setattr(stablehlo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "maml-tf\[stablehlo\]"'):
        maml_tf.export(learner, tmp_path / "it", format="stablehlo", **SIZES)
    assert not (tmp_path / "it").exists()


def test_a_variable_of_nobody_is_refused():
    other = tf.Variable(1.0)
    with pytest.raises(ValueError, match="none of its weights"):
        stablehlo.lower(lambda x: {"y": x * other}, {"x": tf.TensorSpec([2])}, {})


def test_constants_are_part_of_the_program():
    import jax.export

    table = tf.constant([1.0, 2.0])
    made = stablehlo.lower(lambda x: {"y": x * table}, {"x": tf.TensorSpec([2])}, {})
    _, results = jax.export.deserialize(bytearray(made)).call({}, {"x": np.ones(2, "float32")})
    np.testing.assert_array_equal(results["y"], [1.0, 2.0])


def test_from_the_command_line(tmp_path):
    target = tmp_path / "sinusoid"
    words = ["export", "--init=models/sinusoid_10shot", "--format=stablehlo", f"--to={target}"]
    assert run(words) == 0
    described = json.loads((target / "maml_tf.json").read_text())
    assert (described["support_examples"], described["query_examples"]) == (10, 10)
