"""Exports, loaded where neither Keras nor maml_tf can be imported, against the learner itself."""

import functools
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import slow, slow_but

from maml_tf import losses, networks
from maml_tf.engine import served_weights
from maml_tf.saving.export import export
from maml_tf.supervised.learner import MetaLearner
from maml_tf.types import Batch

WAYS, SHOTS, STEPS = 3, (1, 5), (0, 1, 3)
GIVEN_STEP_SIZE = 0.07

ELSEWHERE = """
import sys
sys.modules["keras"] = sys.modules["maml_tf"] = None  # importing either now fails
import numpy as np, tensorflow as tf
results = {}
for name in sys.argv[1:]:
    model, data = tf.saved_model.load(name), np.load(name + ".npz")
    adapt, predict, both = (model.signatures[n] for n in ("adapt", "predict", "adapt_and_predict"))
    query = tf.constant(data["query_x"])
    for case in data["cases"]:
        shots, steps, transductive, step_size = case
        support = [tf.constant(data[f"{which}{int(shots)}"]) for which in "xy"]
        how = {"steps": tf.constant(int(steps)), "step_size": tf.constant(step_size, tf.float32)}
        t = tf.constant(bool(transductive))
        named = dict(zip(("support_x", "support_y"), support), **how)
        results[f"{name} {case} routes"] = [
            model.predict(query, model.adapt(*support, **how), transductive=t),
            model.adapt_and_predict(*support, query, **how, transductive=t),
            predict(x=query, transductive=t, **adapt(**named))["predictions"],
            both(query_x=query, transductive=t, **named)["predictions"],
        ]
    x, y = data["x5"].astype("float64"), data["y5"].tolist()  # as numpy and Python have them
    results[name + " default"] = model.adapt_and_predict(x, y, query)
    results[name + " default two"] = model.predict(query, model.adapt(x, y))
    results[name + " initial"] = model.predict(query, model.initial_weights())
    functions = [model.adapt, model.adapt_and_predict]
    before = [f.experimental_get_tracing_count() for f in functions]
    model.adapt_and_predict(x, y, query), model.predict(query, model.adapt(x, y))
    results[name + " traces"] = [
        f.experimental_get_tracing_count() - n for f, n in zip(functions, before)
    ]
    shots = tf.constant(data["x5"])
    labels = [tf.cast(y, t) for t in (tf.int32, tf.int64, tf.float32, tf.float64)]
    results[name + " types"] = [
        model.adapt_and_predict(tf.cast(shots, t), label, tf.cast(query, u), steps=steps)
        for t in (tf.float32, tf.float64)
        for u in (tf.float32, tf.float64)
        for label in labels[2 * (name != "conv") :]
        for steps in (tf.constant(2), tf.constant(2, tf.int64))
    ]
    labels = {t: tf.cast(y, t) for t in (tf.int32, tf.int64, tf.float32)}
    squares = tf.floor(10 * data["x5"] ** 2)
    whole = [tf.cast(squares, t) for t in (tf.uint8, tf.int32, tf.int64, tf.float32)]
    kinds = [tf.int64, tf.int32, tf.int64, tf.int32] if name == "conv" else [tf.float32] * 4
    results[name + " whole"] = (
        [model.adapt_and_predict(x8, labels[u], x8) for x8, u in zip(whole, kinds)]
        + [model.predict(x8, model.adapt(x8, labels[u])) for x8, u in zip(whole, kinds)]
        + [model.adapt_and_predict(whole[0].numpy(), y, whole[0].numpy())]
    )
    with tf.GradientTape() as tape:
        tape.watch(query)
        total = tf.reduce_sum(model.adapt_and_predict(x, y, query) ** 2)
    results[name + " gradient"] = tape.gradient(total, query)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:  # as TensorFlow Serving: defaults
        graph = tf.compat.v1.saved_model.load(session, ["serve"], name)
        signature = graph.signature_def["adapt_and_predict"]
        feed = {"support_x": x, "support_y": y, "query_x": data["query_x"]}
        feed = {signature.inputs[n].name: value for n, value in feed.items()}
        predictions = signature.outputs["predictions"].name
        results[name + " session"] = session.run(predictions, feed)
        results[name + " declared"] = sorted(signature.defaults)
np.savez("results.npz", **results)
"""


def _scatter(variables, seed=0, scale=0.3):
    """Gives every number of a variable a value of its own."""
    rng = np.random.default_rng(seed)
    for v in variables:
        v.assign(v + scale * rng.normal(size=v.shape))


def _conv_learner():
    layers = [keras.layers.Conv2D(4, 3, 2), keras.layers.BatchNormalization()]
    layers += [keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(WAYS)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    _scatter(model.trainable_variables)
    return MetaLearner(model, losses.summed_cross_entropy, step_size=0.1, inner_steps=2)


def _regression_learner(learn_step_size=False):
    model = networks.dense_network(1, 1, (8, 8))
    _scatter(model.trainable_variables)
    learner = MetaLearner(
        *(model, losses.mean_squared_error),
        step_size=0.05,
        learn_step_size=learn_step_size,
        inner_steps=2 if learn_step_size == "layer_and_step" else 1,
    )
    for seed, alpha in enumerate(learner.step_sizes):
        alpha.assign(np.random.default_rng(seed).uniform(0, 0.1, alpha.shape))
    return learner


def _data(learner):
    rng = np.random.default_rng(1)
    shape = learner.model.input_shape[1:]
    data = {"query_x": rng.normal(size=(7, *shape)).astype("float32")}
    for shots in SHOTS:
        x = rng.normal(size=(WAYS * shots, *shape)).astype("float32")
        classes = np.repeat(np.arange(WAYS, dtype="int32"), shots)
        targets = np.sin(x).astype("float32")
        classifies = learner.loss is losses.summed_cross_entropy
        data |= {f"x{shots}": x, f"y{shots}": classes if classifies else targets}
    return data


def _cases(name):
    own = {"conv": 0.1, "regression": 0.05}.get(name, np.nan)
    sizes = [own, GIVEN_STEP_SIZE] if np.isnan(own) else [own]
    return [(k, s, t, a) for k in SHOTS for s in STEPS for t in (0, 1) for a in sizes]


def _expected(learner, data, shots, steps, transductive, step_size=np.nan):
    """The learner's own predictions."""
    support = Batch(*(tf.constant(data[f"{which}{shots}"][None]) for which in "xy"))
    given = None if np.isnan(step_size) else step_size
    weights = learner.adapt_weights(support, steps, step_size=given).weights[-1]
    seen = None if transductive else learner.apply.statistics(weights, support.x)
    return learner.apply(weights, data["query_x"][None], statistics=seen)[0]


MAKE = {
    "conv": _conv_learner,
    "regression": _regression_learner,
    "learned": lambda: _regression_learner(learn_step_size=True),
    "each step": lambda: _regression_learner(learn_step_size="layer_and_step"),
}
FAST = ("conv",)
NAMES = slow_but(FAST, MAKE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By name: a learner, its data, and what its export gave in another process."""

    @functools.cache
    def one(name):
        folder = tmp_path_factory.mktemp("exports")
        learner = MAKE[name]()
        data = _data(learner)
        export(learner, folder / name)
        np.savez(folder / f"{name}.npz", cases=np.array(_cases(name)), **data)
        command = [sys.executable, "-c", ELSEWHERE, name]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        results = np.load(folder / "results.npz")
        return types.SimpleNamespace(
            folder=folder, learner=learner, data=data, results=results, stderr=run.stderr
        )

    return one


CASES = [(name, case) for name in MAKE for case in _cases(name)]


@pytest.mark.parametrize(
    ("name", "case"), [case if case[0] in FAST else slow(*case) for case in CASES]
)
@pytest.mark.cases(9)
def test_every_route_predicts_as_the_learner_does(exported, name, case):
    made = exported(name)
    expected = _expected(made.learner, made.data, *case)
    routes = made.results[f"{name} {np.array(case, float)} routes"]
    assert len(routes) == 4
    for route in routes:
        np.testing.assert_allclose(route, expected, atol=1e-5, rtol=1e-5)


def test_the_cases_tell_settings_apart(exported):
    """Else the comparison above would not notice an ignored input."""
    conv = exported("conv")
    for case in ((5, 1, 1), (5, 2, 0), (1, 2, 1)):
        other = _expected(conv.learner, conv.data, *case)
        assert np.abs(other - conv.results["conv default"]).max() > 1e-2


@pytest.mark.parametrize(("name", "steps"), [("learned", 1), ("each step", 2)])
@pytest.mark.slow
def test_the_cases_tell_learned_step_sizes_from_one(exported, name, steps):
    learned = exported(name)
    other = _expected(learned.learner, learned.data, 5, steps, 1, 0.05)
    assert np.abs(other - learned.results[f"{name} default"]).max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_learners_and_the_papers(exported, name):
    learner, data, results = exported(name).learner, exported(name).data, exported(name).results
    expected = _expected(learner, data, 5, learner.inner_steps, True)
    for route in ("default", "default two", "session"):
        np.testing.assert_allclose(results[f"{name} {route}"], expected, atol=1e-5, rtol=1e-5)
    assert list(results[f"{name} declared"]) == ["step_size", "steps", "transductive"]
    initial = _expected(learner, data, 5, 0, True)
    np.testing.assert_allclose(results[f"{name} initial"], initial, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_is_not_traced_again(exported, name):
    assert list(exported(name).results[f"{name} traces"]) == [0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_any_type_are_taken(exported, name):
    """Indices as int64, which TensorFlow's own functions give, and float64, NumPy's own."""
    results = exported(name).results[f"{name} types"]
    assert len(results) == (32 if name == "conv" else 16)
    expected = _expected(exported(name).learner, exported(name).data, 5, 2, True)
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_and_whole_numbers_go_in_as_they_are(exported, name):
    results = exported(name).results[f"{name} whole"]
    as_floats = results[3]
    assert len(results) == 9 and np.ptp(as_floats) > 1e-3
    for result in results:
        np.testing.assert_allclose(result, as_floats, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_can_be_differentiated_and_load_without_warnings(exported, name):
    learner, data = exported(name).learner, dict(exported(name).data)
    data["query_x"] = query = tf.constant(data["query_x"])
    with tf.GradientTape() as tape:
        tape.watch(query)
        total = tf.reduce_sum(_expected(learner, data, 5, learner.inner_steps, True) ** 2)
    gradient = tape.gradient(total, query)
    np.testing.assert_allclose(
        exported(name).results[f"{name} gradient"], gradient, atol=1e-4 * np.abs(gradient).max()
    )
    assert "custom gradient" not in exported(name).stderr


def test_bad_tasks_are_refused_by_the_loaded_model(exported):
    conv = exported("conv")
    model, data = tf.saved_model.load(str(conv.folder / "conv")), conv.data
    x, y = data["x5"], data["y5"]
    for labels in (y + 1, y - 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"class indices 0 \.\.\. 2"):
            model.adapt(x, labels)
    with pytest.raises(tf.errors.InvalidArgumentError, match="steps must be 0 or more"):
        model.adapt(x, y, steps=-1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="call adapt first"):
        model.predict(x, model.initial_weights(), transductive=False)
    for wrong in (x[:, :4], x[0], x[..., None]):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"support_x takes.*\(8, 8, 1\)"):
            model.adapt(wrong, y)
    with pytest.raises(tf.errors.InvalidArgumentError, match="support_y must be whole numbers"):
        model.adapt(x, tf.constant(y + 0.5))


# --- models of other kinds ---


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2)

    def call(self, x):
        return self.head(self.hidden(x))


def _subclassed():
    model = _Subclassed()
    model(tf.zeros([1, 3]))
    return model


def _partly_frozen():
    frozen = keras.layers.Dense(4, trainable=False)
    layers = [keras.Input((3,)), frozen, keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    return keras.Sequential(layers)


@pytest.mark.parametrize("make", [_subclassed, _partly_frozen])
@pytest.mark.cases(1)
def test_other_models_and_losses_of_ones_own(make, tmp_path):
    def loss(outputs, y):
        return losses.cross_entropy(outputs, y)

    learner = MetaLearner(make(), loss, step_size=0.5)
    export(learner, tmp_path / "it", steps=4, step_size=0.25, target=tf.TensorSpec([None], "int64"))
    x = tf.random.stateless_normal([6, 3], [0, 1])
    y = tf.constant([0, 1, 0, 1, 0, 1], tf.int64)
    weights = learner.adapt_weights(Batch(x[None], y[None]), 4, step_size=0.25).weights[-1]
    loaded = tf.saved_model.load(str(tmp_path / "it"))
    expected = learner.apply(weights, x[None])[0]
    np.testing.assert_allclose(loaded.adapt_and_predict(x, y, x), expected, atol=1e-5)


def test_names_are_unique_and_clear_of_other_inputs():
    names = served_weights.unique_names(
        ["x", "a/b", "a_b", "_c/d-e", "transductive"], ("x", "transductive")
    )
    assert names == ["x_2", "a_b", "a_b_2", "c_d_e", "transductive_2"]
