"""What Keras takes for a loss or a metric, against Keras itself on one task at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal

from maml_tf import losses
from maml_tf.objectives.base import Objective
from maml_tf.objectives.resolve import objective

TASKS, EXAMPLES, WAYS = 3, 4, 5

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(TASKS, EXAMPLES, WAYS))
POSITIVE = np.exp(0.3 * RNG.normal(size=(TASKS, EXAMPLES, WAYS)))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
SHARES = 1 / (1 + np.exp(-LOGITS))
REAL = RNG.normal(size=(TASKS, EXAMPLES, WAYS))
INDICES = RNG.integers(0, WAYS, (TASKS, EXAMPLES))
ONE_HOT = np.eye(WAYS)[INDICES]
BITS = RNG.integers(0, 2, (TASKS, EXAMPLES, WAYS)).astype(float)
SIGNS = 2 * BITS - 1
K = keras.losses

CASES = {
    "mse": (lambda **o: K.MeanSquaredError(**o), LOGITS, REAL),
    "mae": (lambda **o: K.MeanAbsoluteError(**o), LOGITS, REAL),
    "mape": (lambda **o: K.MeanAbsolutePercentageError(**o), LOGITS, POSITIVE),
    "msle": (lambda **o: K.MeanSquaredLogarithmicError(**o), POSITIVE, POSITIVE[::-1].copy()),
    "huber": (lambda **o: K.Huber(delta=0.7, **o), LOGITS, REAL),
    "log_cosh": (lambda **o: K.LogCosh(**o), LOGITS, REAL),
    "poisson": (lambda **o: K.Poisson(**o), POSITIVE, BITS),
    "cosine": (lambda **o: K.CosineSimilarity(**o), LOGITS, REAL),
    "kl": (lambda **o: K.KLDivergence(**o), PROBABILITIES, PROBABILITIES[::-1].copy()),
    "hinge": (lambda **o: K.Hinge(**o), LOGITS, SIGNS),
    "hinge 01": (lambda **o: K.Hinge(**o), LOGITS, BITS),
    "squared hinge": (lambda **o: K.SquaredHinge(**o), LOGITS, SIGNS),
    "categorical hinge": (lambda **o: K.CategoricalHinge(**o), LOGITS, ONE_HOT),
    "binary": (lambda **o: K.BinaryCrossentropy(**o), SHARES, BITS),
    "binary logits": (
        lambda **o: K.BinaryCrossentropy(from_logits=True, label_smoothing=0.1, **o),
        LOGITS,
        BITS,
    ),
    "binary focal": (lambda **o: K.BinaryFocalCrossentropy(**o), SHARES, BITS),
    "binary focal logits": (
        lambda **o: K.BinaryFocalCrossentropy(from_logits=True, apply_class_balancing=True, **o),
        LOGITS,
        BITS,
    ),
    "categorical": (lambda **o: K.CategoricalCrossentropy(**o), PROBABILITIES, ONE_HOT),
    "categorical logits": (
        lambda **o: K.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, **o),
        LOGITS,
        ONE_HOT,
    ),
    "focal": (lambda **o: K.CategoricalFocalCrossentropy(**o), PROBABILITIES, ONE_HOT),
    "focal logits": (
        lambda **o: K.CategoricalFocalCrossentropy(from_logits=True, **o),
        LOGITS,
        ONE_HOT,
    ),
    "sparse": (lambda **o: K.SparseCategoricalCrossentropy(**o), PROBABILITIES, INDICES),
    "sparse logits": (
        lambda **o: K.SparseCategoricalCrossentropy(from_logits=True, **o),
        LOGITS,
        INDICES,
    ),
    "ignoring": (
        lambda **o: K.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1, **o),
        LOGITS,
        INDICES,
    ),
    "dice": (lambda **o: K.Dice(**o), SHARES, BITS),
    "tversky": (lambda **o: K.Tversky(alpha=0.3, beta=0.7, **o), SHARES, BITS),
}
WHOLE_SET = ("dice", "tversky")
MASK = np.array([[True, True, True, True], [True, True, False, False], [False, True, False, True]])
WEIGHTS = np.array([[1.0, 2.0, 0.5, 0.0], [1.0, 1.0, 3.0, 1.0], [0.2, 0.4, 0.6, 0.8]])


def keras_alone(loss, outputs, y, weights=None, mask=None):
    """Keras' value of each task, with examples that do not exist left out of its set."""
    values = []
    for t in range(TASKS):
        there = slice(None) if mask is None else mask[t]
        weight = [] if weights is None else [weights[t][there]]
        values.append(float(loss(y[t][there], outputs[t][there], *weight)))
    return values


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.cases(30)
def test_a_keras_loss_is_what_keras_gives_for_each_task_alone(float64, name, reduction):
    make, outputs, y = CASES[name]
    loss = make(reduction=reduction)
    ours = objective(loss)
    # To 1e-7: of what is masked, Keras 3.10 divides by the number plus an epsilon.
    np.testing.assert_allclose(ours(outputs_of(outputs), y), keras_alone(loss, outputs, y), 1e-7)
    # Padding may hold anything.
    padded = np.where(MASK.reshape(*MASK.shape, *[1] * (y.ndim - 2)), y, -1 if y is INDICES else 7)
    expected = keras_alone(loss, outputs, y, mask=MASK)
    masked = ours(outputs_of(outputs), padded, (), MASK)
    np.testing.assert_allclose(masked, expected, 1e-7)
    if name in WHOLE_SET:
        with pytest.raises(ValueError, match="one number for a whole set"):
            ours(outputs_of(outputs), y, WEIGHTS)
        return
    expected = keras_alone(loss, outputs, y, WEIGHTS)
    np.testing.assert_allclose(ours(outputs_of(outputs), y, WEIGHTS), expected, 1e-7)
    expected = keras_alone(loss, outputs, y, WEIGHTS, MASK)
    np.testing.assert_allclose(ours(outputs_of(outputs), padded, WEIGHTS, MASK), expected, 1e-7)


def outputs_of(values):
    return tf.constant(values, keras.config.floatx())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.cases(5)
def test_both_derivatives_of_a_keras_loss_are_right(float64, name):
    make, outputs, y = CASES[name]
    ours = objective(make())
    y = tf.constant(y)

    @tf.function(autograph=False)
    def slopes(x, along):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(ours(x, y))
            gradient = inner.gradient(value, x)
            slope = tf.reduce_sum(gradient * along)
        hessian = outer.gradient(slope, x, unconnected_gradients="zero")
        return value, gradient, hessian

    x = outputs_of(outputs)
    along, other = normal(1, *x.shape), normal(2, *x.shape)
    # One example of a task alone: another task's must not enter.
    step = 1e-5
    (ahead, gradient_ahead, _), (behind, gradient_behind, _) = (
        slopes(x + sign * step * other, along) for sign in (1, -1)
    )
    _, gradient, hessian = slopes(x, along)
    expected = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(tf.reduce_sum(gradient * other), expected, rtol=1e-6, atol=1e-8)
    expected = tf.reduce_sum(along * (gradient_ahead - gradient_behind)) / (2 * step)
    np.testing.assert_allclose(tf.reduce_sum(hessian * other), expected, rtol=1e-5, atol=1e-7)
    if name not in ("mae", "mape", "hinge", "hinge 01", "categorical hinge", *WHOLE_SET):
        assert abs(expected) > 1e-4


# --- metrics ---

M = keras.metrics
METRICS = {
    "rmse": (lambda: M.RootMeanSquaredError(), LOGITS, REAL),
    "mean of mae": (lambda: M.MeanAbsoluteError(), LOGITS, REAL),
    "accuracy of classes": (lambda: M.SparseCategoricalAccuracy(), LOGITS, INDICES),
    "top 2": (lambda: M.SparseTopKCategoricalAccuracy(k=2), LOGITS, INDICES),
    "categorical": (lambda: M.CategoricalAccuracy(), LOGITS, ONE_HOT),
    "binary": (lambda: M.BinaryAccuracy(threshold=0.4), SHARES, BITS),
    "auc": (lambda: M.AUC(num_thresholds=20), SHARES, BITS),
    "several auc": (lambda: M.AUC(num_thresholds=20, multi_label=True), SHARES, BITS),
    "precision": (lambda: M.Precision(), SHARES, BITS),
    "f1": (lambda: M.F1Score(average="macro"), SHARES, BITS),
    "r2": (lambda: M.R2Score(), LOGITS, REAL),
    "iou": (lambda: M.OneHotMeanIoU(num_classes=WAYS), SHARES, ONE_HOT),
    "cosine": (lambda: M.CosineSimilarity(), LOGITS, REAL),
    "entropy": (lambda: M.SparseCategoricalCrossentropy(from_logits=True), LOGITS, INDICES),
    "false": (lambda: M.FalsePositives(), SHARES, BITS),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.cases(3)
def test_a_keras_metric_is_what_keras_gives_for_each_task_alone(name):
    make, outputs, y = METRICS[name]

    def alone(weights=None, mask=None):
        values = []
        for t in range(TASKS):
            there = slice(None) if mask is None else mask[t]
            metric, more = make(), [] if weights is None else [weights[t][there]]
            metric.update_state(y[t][there], outputs[t][there].astype("float32"), *more)
            values.append(float(metric.result()))
        return values

    ours = objective(make(), role="metric")
    compute = tf.function(lambda *a: ours(*a), autograph=False)
    x, close = outputs_of(outputs), {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(compute(x, tf.constant(y)), alone(), **close)
    np.testing.assert_allclose(compute(x, tf.constant(y)), alone(), **close)  # holds no state
    np.testing.assert_allclose(ours(x, y, (), MASK), alone(mask=MASK), **close)
    if name != "several auc":
        np.testing.assert_allclose(ours(x, y, WEIGHTS), alone(WEIGHTS), **close)


def test_a_metric_of_several_numbers_is_refused():
    with pytest.raises(ValueError, match="several numbers"):
        objective(M.F1Score(), role="metric")(outputs_of(SHARES), BITS)


@pytest.mark.parametrize(
    ("what", "lower"),
    [
        ("accuracy", False),
        ("mae", True),
        (M.RootMeanSquaredError(), True),
        (M.CosineSimilarity(), False),
        (M.AUC, False),
        (M.FalseNegatives, True),
        (K.MeanSquaredError(), True),
        (K.mean_squared_error, True),
        (M.sparse_categorical_accuracy, False),
        (losses.accuracy, False),
        (losses.cross_entropy, True),
        (M.Mean, None),
        (lambda outputs, y: outputs, None),
        (lambda y_true, y_pred: y_pred, None),
    ],
)
def test_the_direction_of_a_metric_is_keras_own_or_not_known(what, lower):
    assert objective(what, role="metric").lower_is_better is lower


def test_a_direction_given_fills_in_and_does_not_contradict():
    def f(outputs, y):
        return tf.zeros([3])

    assert objective(f, role="metric", lower_is_better=False).lower_is_better is False
    assert objective("mae", role="metric", lower_is_better=True).lower_is_better is True
    with pytest.raises(ValueError, match="'mae' is better lower"):
        objective("mae", role="metric", lower_is_better=False)


class Total(M.Metric):
    """Whose result is the variable itself; `late` makes it when it is first called."""

    def __init__(self, late):
        super().__init__()
        self.total = None if late else self.add_weight(initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        if self.total is None:
            self.total = self.add_weight(initializer="zeros")
        self.total.assign_add(keras.ops.sum(keras.ops.abs(y_true - y_pred)))

    def result(self):
        return self.total


@pytest.mark.parametrize("late", [False, True])
def test_a_metric_of_ones_own(late):
    ours = objective(Total(late), role="metric")
    for compute in (tf.function(lambda *a: ours(*a), autograph=False), ours):
        got = compute(outputs_of(LOGITS), outputs_of(REAL))
        np.testing.assert_allclose(got, np.abs(LOGITS - REAL).sum((1, 2)), rtol=1e-5)
    assert ours.lower_is_better is None


class OwnLoss(K.Loss):
    def call(self, y_true, y_pred):
        return tf.reduce_mean((y_true - y_pred) ** 2, -1)


class OwnCall(K.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return tf.reduce_mean((y_true - y_pred) ** 2)


class Doubled(K.SparseCategoricalCrossentropy):
    def call(self, y_true, y_pred):
        return 2 * super().call(y_true, y_pred)


def test_losses_of_ones_own():
    x, y = outputs_of(LOGITS), outputs_of(REAL)
    for make in (OwnLoss, OwnCall):
        expected = losses.mean_squared_error(x, y)
        np.testing.assert_allclose(objective(make())(x, y), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="overrides Loss.__call__"):
        objective(OwnCall())(x, y, (), MASK)
    # A subclass of what has a fast form is not that.
    doubled = objective(Doubled(from_logits=True))(x, tf.constant(INDICES))
    np.testing.assert_allclose(doubled, 2 * losses.cross_entropy(x, INDICES), rtol=1e-5)


def test_outputs_and_labels_of_more_axes():
    x = tf.stack([outputs_of(LOGITS)] * 2, 2)
    y = tf.stack([tf.constant(INDICES)] * 2, 2)
    for what in (losses.cross_entropy, K.SparseCategoricalCrossentropy(from_logits=True)):
        got = objective(what)(x, y)
        np.testing.assert_allclose(got, losses.cross_entropy(outputs_of(LOGITS), INDICES), 1e-5)


# --- names, classes, functions ---


@pytest.mark.parametrize(
    "what",
    [
        "mse",
        "mean_squared_error",
        "MeanSquaredError",
        K.MeanSquaredError,
        K.mean_squared_error,
        {"class_name": "MeanSquaredError", "config": {}},
        [K.MeanSquaredError()],
        losses.mean_squared_error,
        lambda outputs, y: tf.reduce_mean((outputs - tf.cast(y, outputs.dtype)) ** 2, [1, 2]),
        lambda y_true, y_pred: (y_true - y_pred) ** 2,
        lambda y_true, y_pred: tf.reduce_mean((y_true - y_pred) ** 2),
        keras.losses.MeanSquaredError().call.__self__,
    ],
)
def test_every_way_to_say_mean_squared_error(what):
    got = objective(what)(outputs_of(LOGITS), outputs_of(REAL))
    np.testing.assert_allclose(got, ((LOGITS - REAL) ** 2).mean((1, 2)), rtol=1e-5)
    assert got.shape == [TASKS]


def test_one_of_the_packages_own_is_itself():
    assert objective(losses.cross_entropy) is losses.cross_entropy
    assert losses.cross_entropy.name == "cross_entropy"
    assert not isinstance(losses.cross_entropy, Objective)


@pytest.mark.parametrize(
    ("shape", "targets", "name"),
    [
        ([WAYS], [], "sparse_categorical_accuracy"),
        ([WAYS], [1], "sparse_categorical_accuracy"),
        ([WAYS], [WAYS], "categorical_accuracy"),
        ([1], [], "binary_accuracy"),
        ([1], [1], "binary_accuracy"),
    ],
)
def test_accuracy_is_chosen_by_the_shapes_as_keras_does(shape, targets, name):
    shapes = (tf.TensorShape([3, 4, *s]) for s in (targets, shape))
    ours = objective("accuracy", role="metric")
    assert ours.for_shapes(*shapes).name == name
    x, y = RNG.uniform(size=(3, 4, *shape)), RNG.integers(0, 2, (3, 4, *targets)).astype("float32")
    metric = getattr(M, name)
    expected = [np.mean(metric(y[t], x[t])) for t in range(3)]
    if name != "binary_accuracy" or targets:
        np.testing.assert_allclose(ours(outputs_of(x), y), expected)
    else:
        np.testing.assert_allclose(ours(outputs_of(x), y), ((x[..., 0] > 0.5) == y).mean(1))


def test_the_word_crossentropy_is_chosen_by_the_shapes_too():
    got = objective("crossentropy")(outputs_of(PROBABILITIES), INDICES)
    expected = -np.log((PROBABILITIES * ONE_HOT).sum(-1)).mean(1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nonsense", "no loss that Keras can make"),
        ("auc", "a metric, which has no gradient"),
        (M.AUC(), "a metric, which has no gradient"),
        (K.Loss, None),
        (3, "3 is no loss"),
        (lambda labels, logits: 0, "swap them, or name them y_true and y_pred"),
        (K.MeanSquaredError(reduction=None), "gives no number per task"),
        (K.CTC(), "no second derivative"),
    ],
)
def test_what_is_no_loss_is_refused(what, message):
    if message is None:
        with pytest.raises(NotImplementedError):
            objective(what)(outputs_of(LOGITS), REAL)
        return
    with pytest.raises(ValueError, match=message):
        objective(what)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda outputs, y: tf.reduce_mean(outputs), r"shape \(\) for 3 tasks"),
        (lambda outputs, y: tf.reduce_mean(outputs, -1), r"shape \(3, 4\) for 3 tasks"),
        (lambda outputs, y: tf.zeros([4]), r"shape \(4,\) for 3 tasks"),
        (lambda outputs, y: tf.zeros([3], tf.int32), "returned int32"),
        (lambda outputs, y: None, "returned NoneType"),
    ],
)
def test_what_gives_no_number_per_task_is_refused(what, said):
    with pytest.raises(ValueError, match=said):
        objective(what)(outputs_of(LOGITS), REAL)


@pytest.mark.parametrize("what", ["mse", "mae", "huber", losses.mean_squared_error, "poisson"])
def test_targets_that_would_broadcast_are_refused(what):
    with pytest.raises(ValueError, match="broadcast"):
        objective(what)(outputs_of(LOGITS), REAL[..., :1])
    with pytest.raises(ValueError):
        objective(what)(outputs_of(LOGITS), REAL[..., 0])


@pytest.mark.parametrize("what", ["mse", "mae", "binary_crossentropy", "hinge"])
def test_a_last_axis_of_one_is_squeezed_as_keras_squeezes(what):
    x, y = SHARES[..., :1], BITS[..., 0]
    expected = [float(objective_alone(what, x[t], y[t])) for t in range(TASKS)]
    np.testing.assert_allclose(objective(what)(outputs_of(x), y), expected, rtol=1e-5)


def objective_alone(name, outputs, y):
    """As `Model.compile` does."""
    return keras.src.trainers.compile_utils.get_loss(name, y, outputs)(y, outputs)


def test_one_hot_labels_of_a_sparse_loss_and_indices_of_a_categorical_one_are_refused():
    for what in ("sparse_categorical_crossentropy", losses.cross_entropy, losses.accuracy):
        with pytest.raises(ValueError, match="argmax"):
            objective(what)(outputs_of(LOGITS), ONE_HOT)
    with pytest.raises(ValueError, match="to_categorical"):
        objective("categorical_crossentropy")(outputs_of(LOGITS), INDICES)


def test_a_softmax_is_undone_as_keras_undoes_it_and_refused_by_the_packages_own():
    logits = outputs_of(40 * LOGITS)  # saturated: of the probabilities, the loss would be clipped
    softmax = keras.activations.softmax(logits)
    expected = losses.cross_entropy(logits, INDICES)
    for loss in (
        K.SparseCategoricalCrossentropy(),
        K.SparseCategoricalCrossentropy(from_logits=True),
    ):
        np.testing.assert_allclose(objective(loss)(softmax, INDICES), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="probabilities"):
        losses.cross_entropy(softmax, tf.constant(INDICES))


def test_a_function_of_ones_own_must_say_that_it_takes_weights_or_a_mask():
    plain = objective(lambda outputs, y: tf.reduce_mean(outputs, [1, 2]))
    with pytest.raises(ValueError, match="have a sample_weight"):
        plain(outputs_of(LOGITS), REAL, WEIGHTS)
    with pytest.raises(ValueError, match="have a mask"):
        plain(outputs_of(LOGITS), REAL, (), MASK)

    def taking(outputs, y, mask=()):
        return losses.mean_squared_error(outputs, y, mask=mask)

    got = objective(taking)(outputs_of(LOGITS), REAL, (), MASK)
    expected = keras_alone(K.MeanSquaredError(), LOGITS, REAL, mask=MASK)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# --- several outputs ---

OUTPUTS = {"a": outputs_of(LOGITS), "b": outputs_of(REAL)}
TARGETS = {"a": INDICES, "b": LOGITS}
CE = losses.cross_entropy(OUTPUTS["a"], INDICES)
MSE = losses.mean_squared_error(OUTPUTS["b"], LOGITS)
SCCE = K.SparseCategoricalCrossentropy(from_logits=True)
TWO = {"output_names": ["a", "b"], "num_outputs": 2}


@pytest.mark.parametrize("outputs", [OUTPUTS, list(OUTPUTS.values()), tuple(OUTPUTS.values())])
@pytest.mark.parametrize("loss", [{"b": "mse", "a": SCCE}, [SCCE, "mse"], (SCCE, "mse")])
@pytest.mark.parametrize("weights", [None, {"b": 0.5}, [1.0, 0.5]])
def test_a_loss_of_each_output(outputs, loss, weights):
    got = objective(loss, weights=weights, **TWO)(outputs, TARGETS)
    np.testing.assert_allclose(got, CE + (MSE if weights is None else 0.5 * MSE), rtol=1e-5)


def test_one_loss_of_all_outputs_is_summed():
    both = objective(losses.mean_squared_error, **TWO)
    got = both({"a": OUTPUTS["a"], "b": OUTPUTS["b"]}, {"b": LOGITS, "a": REAL})
    np.testing.assert_allclose(got, 2 * MSE, rtol=1e-5)
    got = objective("mse", **TWO)(list(OUTPUTS.values()), [REAL, LOGITS], [WEIGHTS, ()], MASK)
    weighed = losses.mean_squared_error(OUTPUTS["a"], REAL, WEIGHTS, MASK)
    plain = losses.mean_squared_error(OUTPUTS["b"], LOGITS, (), MASK)
    np.testing.assert_allclose(got, weighed + plain, rtol=1e-5)


def test_an_output_without_a_loss_needs_no_targets():
    for loss, y in (({"b": "mse"}, {"b": LOGITS}), ([None, "mse"], [LOGITS])):
        got = objective(loss, **TWO)(list(OUTPUTS.values()), y)
        np.testing.assert_allclose(got, MSE, rtol=1e-5)


def test_outputs_within_outputs():
    nested = [OUTPUTS["a"], [OUTPUTS["b"]]]
    got = objective([SCCE, ["mse"]], num_outputs=2)(nested, [INDICES, [LOGITS]])
    np.testing.assert_allclose(got, CE + MSE, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ({"c": "mse"}, TARGETS, "names 'c'"),
        (["mse"] * 3, TARGETS, "3 entries"),
        ("mse", {"a": REAL}, "no targets for output 'b'"),
        ("mse", [REAL, LOGITS], "dictionary by these names"),
        ("mse", REAL, "2 outputs"),
    ],
)
def test_structures_that_differ_are_refused(loss, y, message):
    with pytest.raises(ValueError, match=message):
        objective(loss, **TWO)(OUTPUTS, y)


def test_a_metric_is_of_one_output():
    metric = objective({"a": "accuracy"}, role="metric", **TWO)
    expected = losses.accuracy(OUTPUTS["a"], INDICES)
    np.testing.assert_allclose(metric(OUTPUTS, TARGETS), expected)
    assert metric.lower_is_better is False and metric.name == "accuracy"
    with pytest.raises(ValueError, match="say which one"):
        objective("accuracy", role="metric", **TWO)
