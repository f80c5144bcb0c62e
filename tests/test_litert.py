"""Files for LiteRT, run by its interpreter, against the learner itself."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import error_of, normal, randomize, slow, slow_but
from keras import layers

import maml_tf
from maml_tf import Batch, MetaLearner, losses, networks
from maml_tf.cli.main import run
from maml_tf.engine.inner_loop import UNROLLED
from maml_tf.saving import litert
from maml_tf.system import checksums

SUPPORT, QUERIES, STEPS = 6, 4, 2
RELEASES = {"sinusoid_10shot": (10, 10), "omniglot_5way_1shot": (5, 5)}


def interpreter_of(path):
    """LiteRT's interpreter, else the one that TensorFlow has had so far."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = getattr(getattr(tf, "lite", None), "Interpreter", None)
        if Interpreter is None:
            pytest.skip("no interpreter: pip install ai-edge-litert")
    return Interpreter(model_path=str(path), num_threads=1)


def sinusoid():
    model = keras.Sequential([keras.Input([1]), layers.Dense(8, "relu"), layers.Dense(1)])
    return model, losses.mean_squared_error


def convolutional():
    model = keras.Sequential(
        [
            keras.Input([8, 7, 1]),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(5, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3),
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
    h = layers.Flatten()(layers.DepthwiseConv2D(3, activation="relu")(image))
    h = layers.concatenate([h, layers.Dense(4, "sigmoid")(tokens)])
    return keras.Model({"image": image, "tokens": tokens}, layers.Dense(2)(h)), "mse"


CASES = {
    "sinusoid": (sinusoid, {}, {}),
    "sinusoid in a loop": (sinusoid, {}, {"steps": UNROLLED + 2}),
    "convolutional": (convolutional, {}, {}),
    "convolutional, inductive": (convolutional, {}, {"transductive": False}),
    "functional": (functional, {"learn_step_size": True}, {}),
    "step sizes per step": (
        functional,
        {"learn_step_size": "layer_and_step"},
        {"steps": STEPS + 1},
    ),
    "the same in a loop": (
        *(functional, {"learn_step_size": "layer_and_step"}),
        {"steps": UNROLLED + 2},
    ),
    "two inputs": (two_inputs, {}, {"step_size": 0.2}),
    "momentum": (functional, {"inner_optimizer": "momentum", "inner_clip": 0.1}, {}),
    "adam": (convolutional, {"inner_optimizer": "adam"}, {}),
    "adam in a loop": (
        *(sinusoid, {"inner_optimizer": "adam", "inner_clip": 0.1}),
        {"steps": UNROLLED + 2},
    ),
}


def sets(runner, seed):
    """Arrays for `adapt_and_predict`, by name; class indices stand for labels."""

    def draw(seed, spec):
        if spec["dtype"] == np.int32:
            return np.arange(SUPPORT, dtype="int32") % 3
        return normal(seed, *spec["shape"]).numpy().astype("float32")

    specs = runner.get_input_details()
    return {name: draw(seed + i, spec) for i, (name, spec) in enumerate(sorted(specs.items()))}


def structure(given, name, prefix):
    """What a learner takes of the arrays by name: one, or a dictionary by its own names."""
    named = {n.removeprefix(prefix): v for n, v in given.items() if n.startswith(prefix)}
    return given.get(name, named)


def expected(learner, support_x, support_y, query_x, *, steps=STEPS, step_size=None, inductive):
    """The learner's own answer, for one task."""
    with_task = lambda x: tf.nest.map_structure(lambda a: tf.constant(a)[None], x)  # noqa: E731
    support = Batch(with_task(support_x), with_task(support_y))
    weights = learner.adapt_weights(support, steps, step_size=step_size).weights[-1]
    return learner.predict(weights, support, with_task(query_x), inductive=inductive)[0]


@pytest.mark.parametrize("name", slow_but({"convolutional", "two inputs"}, CASES))
@pytest.mark.cases(1)
def test_the_file_computes_what_the_learner_does(name, tmp_path):
    make, how, options = CASES[name]
    model, loss = make()
    learner = MetaLearner(randomize(model), loss, step_size=0.1, inner_steps=STEPS, **how)
    for alpha in learner.step_sizes:
        alpha.assign(alpha + np.random.default_rng(0).uniform(0, 0.1, alpha.shape))
    path = tmp_path / "it"
    sizes = {"support_examples": SUPPORT, "query_examples": QUERIES}
    maml_tf.export(learner, path, format="litert", **sizes, **options)
    described = json.loads((path / "maml_tf.json").read_text())
    assert described["select"] == []  # all of it is built in
    model = interpreter_of(path / "model.tflite")
    signatures = ("initial_weights", "adapt", "predict", "adapt_and_predict")
    initial_weights, adapt, predict, both = map(model.get_signature_runner, signatures)
    names = {*described["weights"], *described["batch_statistics"]}
    inductive = not options.get("transductive", True)
    numbers = {k: v for k, v in options.items() if k in ("steps", "step_size")}
    for seed in 10, 20:  # nothing is kept from one task to the next
        given = sets(both, seed)
        y = given["support_y"]
        x = structure({k: v for k, v in given.items() if v is not y}, "support_x", "support_")
        query = structure(given, "query_x", "query_")
        want = expected(learner, x, y, query, inductive=inductive, **numbers)
        at_once = both(**given)
        adapted = adapt(**{k: v for k, v in given.items() if k.startswith("support_")})
        assert set(adapted) == names
        got = predict(**(query if isinstance(query, dict) else {"x": query}), **adapted)
        np.testing.assert_allclose(got["predictions"], want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(at_once["predictions"], want, rtol=1e-4, atol=1e-4)
    initial = initial_weights()
    assert set(initial) == names
    for kept, variable in zip(described["weights"], learner.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(initial[kept], variable)


# --- what is on disk, and what is refused ---------------------------------------------------------


def small(**options):
    return MetaLearner(networks.dense_network(1, 1, (3,)), losses.mean_squared_error, **options)


def test_a_directory_with_a_description_or_a_file_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "convert", lambda servable: (b"TFL3", ["Erf"]))
    learner, place = small(inner_steps=3), tmp_path / "deep" / "it"
    maml_tf.export(learner, place, format="litert", support_examples=2)
    assert {p.name for p in place.iterdir()} == {"model.tflite", "maml_tf.json", "SHA256SUMS"}
    assert checksums.verify(place / "SHA256SUMS", ["model.tflite", "maml_tf.json"]) == 2
    described = json.loads((place / "maml_tf.json").read_text())
    assert described["defaults"] == {"steps": 3, "step_size": 0.01, "transductive": True}
    assert (described["support_examples"], described["query_examples"]) == (2, 2)
    assert described["select"] == ["Erf"]
    maml_tf.export(learner, place, format="litert", support_examples=4, query_examples=1)
    described = json.loads((place / "maml_tf.json").read_text())
    assert (described["support_examples"], described["query_examples"]) == (4, 1)
    with pytest.raises(ValueError, match="holds an export of the format litert"):
        maml_tf.export(learner, place)
    with pytest.raises(ValueError, match="file for LiteRT; load it by"):
        maml_tf.load_export(place)
    file = tmp_path / "alone" / "it.tflite"
    maml_tf.export(learner, file, format="litert", support_examples=2)
    assert file.read_bytes() == b"TFL3" and list(file.parent.iterdir()) == [file]


def test_what_needs_select_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(litert, "convert", lambda servable: (b"TFL3", ["Cholesky", "Erf"]))
    maml_tf.export(small(), tmp_path / "it", format="litert", support_examples=2)
    assert "needs TensorFlow Select, for Cholesky, Erf." in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx", "support_examples": 2}, "format must be 'saved_model' or 'litert'"),
        ({}, "give support_examples, N .* for N ways"),
        ({"support_examples": 0}, "support_examples must be 1 or more"),
        ({"support_examples": 2, "query_examples": 0.5}, "query_examples must be a whole number"),
        ({"support_examples": 2, "transductive": "no"}, "transductive must be"),
        ({"support_examples": 2, "steps": -1}, "steps must be 0 or more"),
    ],
)
def test_impossible_options_are_refused_and_leave_nothing(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        maml_tf.export(small(), tmp_path / "a" / "it", **{"format": "litert", **options})
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_an_operation_that_cannot_be_converted_is_named(tmp_path):
    def rounded(x):
        return tf.ensure_shape(tf.numpy_function(np.round, [x], tf.float32), x.shape)

    model = keras.Sequential([keras.Input([1]), layers.Lambda(rounded), layers.Dense(1)])
    learner = MetaLearner(model, losses.mean_squared_error)
    with pytest.raises(ValueError, match="LiteRT, which has no operation PyFunc; take") as raised:
        maml_tf.export(learner, tmp_path / "a" / "it", format="litert", support_examples=2)
    assert "\n" not in str(raised.value)
    assert not any(tmp_path.iterdir())


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sinusoid_10shot", slow("omniglot_5way_1shot")])
@pytest.mark.slow
def test_a_release_is_exported_by_the_command_line(name, tmp_path):
    support_examples, query_examples = RELEASES[name]
    path = tmp_path / "it"
    release = f"--init=models/{name}"
    assert run(["export", release, "--format=litert", f"--to={path}"]) == 0
    described = json.loads((path / "maml_tf.json").read_text())
    sizes = [described[n] for n in ("support_examples", "query_examples")]
    assert sizes == [support_examples, query_examples] and described["select"] == []
    both = interpreter_of(path / "model.tflite").get_signature_runner("adapt_and_predict")
    learner = maml_tf.load(f"models/{name}")
    draw = np.random.default_rng(0)
    shape = learner.model.input_shape[1:]
    x, query = (draw.random((n, *shape), "float32") for n in (support_examples, query_examples))
    y = np.arange(5, dtype="int32") if "omniglot" in name else np.sin(x)
    want = expected(learner, x, y, query, steps=1, inductive=False)
    got = both(support_x=x, support_y=y, query_x=query)["predictions"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_flags_say_the_sizes_and_the_steps(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(litert, "convert", lambda servable: made.append(servable) or (b"TFL3", []))
    flags = ["--support_examples=3", "--query_examples=1", "--batch_statistics=inductive"]
    flags += ["--test_steps=4", "--test_step_size=0.3"]
    release = ["export", "--init=models/omniglot_5way_1shot_dense", "--format=litert"]
    assert run([*release, f"--to={tmp_path / 'it.tflite'}", *flags]) == 0
    described = made[0].description
    assert described["defaults"] == {"steps": 4, "step_size": 0.3, "transductive": False}
    assert (described["support_examples"], described["query_examples"]) == (3, 1)
    assert "--format must be one of" in error_of(["export", "--format=onnx"], capsys)
