"""Wrong calls of the Python API are refused in one line of the package's own words."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import Batch, MetaLearner, MultitaskLearner, Task, losses, tasks
from maml_tf.networks import conv_network, dense_network

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
Y = np.array([0, 1, 2, 2, 1, 0])
IMAGES = np.random.default_rng(1).normal(size=(6, 8, 8, 3)).astype("float32")
CLASSES = np.random.default_rng(2).integers(0, 255, size=(5, 6, 8, 8, 3)).astype("uint8")
FLAT, LABELS = CLASSES.reshape(-1, 8, 8, 3), np.repeat(np.arange(5), 6)
CE = losses.cross_entropy
DATA = tf.data.Dataset.from_tensor_slices((X, Y)).batch(6)
WHOLE = "must be a whole number"
NUMBER = "must be one number"


def source(index, num_tasks):
    x = tf.random.stateless_normal([num_tasks, 6, 4], [1, tf.cast(index, tf.int32)])
    y = tf.tile(tf.constant(Y)[None], [num_tasks, 1])
    return (x, y), (x, y)


@pytest.fixture(scope="module")
def learner():
    return MetaLearner(dense_network(4, 3, (5,)), CE, step_size=0.3, meta_batch_size=2)


@pytest.fixture(scope="module")
def images():
    model = conv_network((8, 8, 3), 3, filters=4)
    return MetaLearner(model, CE, step_size=0.1, meta_batch_size=2)


def refused(call, message):
    """The call's message, which is one line and the package's own."""
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert type(raised.value) is ValueError or "." in type(raised.value).__module__
    said = str(raised.value)
    assert "\n" not in said and "{{" not in said and "Received:" not in said and len(said) < 420
    return said


def make(**options):
    options = {"step_size": 0.3, "meta_batch_size": 2, **options}
    model = options.pop("model", None) or dense_network(4, 3, (5,))
    return MetaLearner(model, options.pop("loss", CE), **options)


# --- numbers of every kind ---

INTEGERS = {3.5: WHOLE, 3.0: WHOLE, True: WHOLE, "3": WHOLE, (3,): WHOLE, float("nan"): WHOLE}
NEGATIVE = {-1: "or more|needs at least|>= "}
SIZES = [0.1, 0, -1, "0.1", True, (0.1,), float("nan"), float("inf"), np.zeros(3), [0.1, 0.2], {}]


def training(**options):
    options = {"iterations": 1, "progress": False, "validation_steps": 1, **options}
    return maml_tf.train(make(), source, **options)


def evaluating(**options):
    return maml_tf.evaluate(make(), source, **{"num_tasks": 2, "steps": 1, **options})


def episodes(images=CLASSES, **options):
    return tasks.Episodes(images, **{"ways": 3, "shots": 1, **options})


WHOLE_ARGUMENTS = {
    "MetaLearner": (make, "inner_steps meta_batch_size pieces"),
    "train": (
        training,
        "iterations log_every validate_every save_every validation_tasks validation_steps "
        "best_after",
    ),
    "evaluate": (evaluating, "num_tasks steps"),
    "export": (lambda **o: maml_tf.export(make(), "nowhere", **o), "steps"),
    "Episodes": (episodes, "ways shots queries"),
    "Sinusoid": (lambda **o: tasks.Sinusoid(**{"shots": 1, **o}), "shots queries"),
    "dense_network": (lambda **o: dense_network(**{"inputs": 4, "outputs": 3, **o}), "outputs"),
    "conv_network": (
        lambda **o: conv_network(**{"image_shape": (8, 8, 3), "ways": 3, **o}),
        "ways filters",
    ),
    "adapt": (lambda **o: make().adapt(X, Y, **o), "steps"),
    "meta_steps": (
        lambda **o: make().meta_steps(source, **{"start": 0, "count": 1, **o}),
        "start count",
    ),
}


@pytest.mark.parametrize("value", [*INTEGERS, *NEGATIVE], ids=repr)
@pytest.mark.parametrize(
    "where, name",
    [(where, name) for where, (_, names) in WHOLE_ARGUMENTS.items() for name in names.split()],
)
def test_whole_numbers(where, name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = {**INTEGERS, **NEGATIVE}[value]
    assert name in refused(lambda: WHOLE_ARGUMENTS[where][0](**{name: value}), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["Episodes", "Sinusoid", "dense_network", "conv_network"])
@pytest.mark.parametrize("value", [*INTEGERS, None, [3]], ids=repr)
def test_seeds(where, value):
    refused(lambda: WHOLE_ARGUMENTS[where][0](seed=value), f"seed {WHOLE}")


@pytest.mark.parametrize("value", [np.int64(2), np.uint8(2), tf.constant(2)], ids=repr)
def test_whole_numbers_of_numpy_and_tensorflow_are_taken(value, learner):
    assert make(inner_steps=value).inner_steps == 2
    assert tasks.Sinusoid(shots=value)(0, 3).support.x.shape == (3, 2, 1)
    learner.adapt(X, Y, steps=value)


@pytest.mark.parametrize("value", SIZES[1:], ids=repr)
@pytest.mark.parametrize("where", ["MetaLearner", "adapt", "evaluate", "export"])
def test_step_sizes(where, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = f"step_size ({NUMBER}|must be positive|must be a finite number)"
    refused(lambda: {**WHOLE_ARGUMENTS, "MetaLearner": (make,)}[where][0](step_size=value), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["yes", 2, None, [1], 0.0], ids=repr)
@pytest.mark.parametrize(
    "call, name",
    [(make, n) for n in "first_order learn_step_size recompute jit_compile".split()]
    + [(training, n) for n in "record restore_best progress".split()]
    + [(episodes, "rotations")]
    + [(WHOLE_ARGUMENTS["Sinusoid"][0], n) for n in "oracle half fixed".split()],
)
def test_switches(call, name, value):
    refused(lambda: call(**{name: value}), f"{name} must be True or False, not")


# --- other arguments ---


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def frozen():
    model = dense_network(4, 3)
    model.trainable = False
    return model


CALLS = {
    # models, losses, optimizers, predicates
    "no model": (lambda: MetaLearner(None, CE), "must be a built keras.Model, not NoneType"),
    "a class": (lambda: MetaLearner(Own, CE), "must be a built keras.Model, not type"),
    "a function": (lambda: MetaLearner(tf.function(abs), CE), "must be a built keras.Model"),
    "a learner": (lambda: MetaLearner(make(), CE), "must be a built keras.Model, not MetaLearner"),
    "not built": (lambda: MetaLearner(Own(), CE), "has no weights yet: build it first"),
    "unbuilt": (
        lambda: MetaLearner(keras.Sequential([keras.layers.Dense(3)]), CE),
        "has no weights yet: build it first",
    ),
    "frozen": (lambda: MetaLearner(frozen(), CE), "no trainable weights: unfreeze a layer"),
    "unbuilt average": (lambda: MultitaskLearner(Own(), CE), "has no weights yet"),
    "penalty": (lambda: MultitaskLearner(dense_network(4, 3), CE, penalty="a"), NUMBER),
    "no loss": (lambda: make(loss=None), "None is no loss; give a function"),
    "loss 3": (lambda: make(loss=3), "3 is no loss; give a function"),
    "metric": (lambda: make(metric="nope"), "'nope' is no metric"),
    "optimizer": (lambda: make(optimizer={}), "is no optimizer that Keras can make"),
    "rate": (lambda: make(optimizer=0.001), "is no optimizer that Keras can make"),
    "loss_weights": (lambda: make(loss_weights="a"), f"loss_weights {NUMBER}"),
    "two weights": (lambda: make(loss_weights=[1, 2]), "loss_weights has 2 entries, and the mod"),
    "names": (lambda: make(adapts=["head/kernel"]), "adapts must be a function .* such as lambda"),
    "name": (lambda: make(adapts="head"), "adapts must be a function of one argument"),
    "true": (lambda: make(adapts=True), "adapts must be a function of one argument"),
    "two arguments": (lambda: make(adapts=lambda a, b: True), "adapts must be a function of one"),
    "variables": (
        lambda: make(adapts=dense_network(4, 3).trainable_variables),
        "adapts must be a function of one argument",
    ),
    "none adapts": (lambda: make(adapts=lambda v: None), "No variable adapts"),
    "direction": (lambda: make(lower_is_better="yes"), "lower_is_better must be True or False"),
    "dropout": (lambda: make(dropout=True), "dropout must be 'off' or 'per_step', not True"),
    "clip": (lambda: make(clip=[1]), f"clip {NUMBER}"),
    "clip_norm": (lambda: make(clip_norm=-1), "clip_norm must be positive, not -1; None does not"),
    "query_weight": (lambda: make(query_weight="1"), f"query_weight {NUMBER}"),
    # training and evaluation
    "train a model": (
        lambda: maml_tf.train(dense_network(4, 3), source, iterations=1),
        r"The learner given is <Sequential .*; make one of a model: MetaLearner\(model, loss\)",
    ),
    "train a class": (
        lambda: maml_tf.train(MetaLearner, source, iterations=1),
        "The learner given is the class MetaLearner",
    ),
    "train on None": (lambda: maml_tf.train(make(), None, iterations=1), "tasks given are a None"),
    "train on a model": (
        lambda: maml_tf.train(make(), dense_network(4, 3), iterations=1),
        "tasks given are a Sequential",
    ),
    "logdir": (lambda: training(logdir=3), "logdir must be a path, .* not 3"),
    "logdir of bytes": (lambda: training(logdir=b"a"), "logdir must be a path"),
    "no logdir": (lambda: training(logdir=""), "logdir is empty; name a place"),
    "validation": (lambda: training(validation=3), "tasks given are a int. A task source is"),
    "description": (lambda: training(description=3), "description must be text, not 3"),
    "evaluate None": (lambda: maml_tf.evaluate(make(), None), "tasks given are a NoneType"),
    "evaluate a model": (
        lambda: maml_tf.evaluate(dense_network(4, 3), source),
        "The learner given is <Sequential",
    ),
    "statistics": (lambda: evaluating(batch_statistics=["a"]), "batch_statistics must be"),
    "tune a model": (
        lambda: maml_tf.tune_step_size(dense_network(4, 3), source),
        "The learner given is <Sequential",
    ),
    "no candidates": (
        lambda: maml_tf.tune_step_size(make(), source, step_sizes=[]),
        "There are no step_sizes",
    ),
    "a candidate": (
        lambda: maml_tf.tune_step_size(make(), source, step_sizes=0.1),
        "step_sizes must be several numbers",
    ),
    "bad candidates": (
        lambda: maml_tf.tune_step_size(make(), source, step_sizes=[0.1, "a"]),
        f"each of step_sizes {NUMBER}, not 'a'",
    ),
    "export a model": (
        lambda: maml_tf.export(dense_network(4, 3), "nowhere"),
        "The learner given is <Sequential",
    ),
    "export to 3": (lambda: maml_tf.export(make(), 3), "directory must be a path, .* not 3"),
    "export inputs": (
        lambda: maml_tf.export(make(), "nowhere", inputs=X),
        r"inputs is a ndarray of shape \(6, 4\); give tf.TensorSpec",
    ),
    "export target": (
        lambda: maml_tf.export(make(), "nowhere", target=[1]),
        r"target is \[1\]; give tf.TensorSpec",
    ),
    "save": (lambda: make().save(3), "path must be a path, a string or a pathlib.Path, not 3"),
    "load": (lambda: make().load(None), "path must be a path"),
    "summary": (lambda: make().summary(3), "print_fn must be a function"),
    # sources
    "counts": (lambda: episodes(FLAT, counts=[6.0] * 5), f"each of counts {WHOLE}"),
    "count": (lambda: episodes(FLAT, counts=30), "counts must be a tuple of whole numbers"),
    "negative counts": (lambda: episodes(FLAT, counts=[-6, 36]), "counts must be 0 or more"),
    "labels": (lambda: episodes(FLAT, labels=[None] * 30), "labels hold objects; give a number"),
    "labels nan": (lambda: episodes(FLAT, labels=LABELS * np.nan), "labels hold NaN"),
    "labels short": (lambda: episodes(FLAT, labels=LABELS[:5]), "one label, a number or a name"),
    "labels of None": (lambda: episodes(None, labels=LABELS), "the examples are None; give"),
    "scale": (lambda: episodes(scale=[1]), r"scale is \[1\]; give a positive number"),
    "nan": (lambda: episodes(CLASSES * np.nan), "examples hold NaN or infinite values"),
    "complex": (lambda: episodes(CLASSES * 1j), "examples are complex128"),
    "no axes": (lambda: episodes(np.zeros(4)), "examples have no axis of classes"),
    "no examples": (lambda: episodes(CLASSES[:, :0]), "class 0 of the 'train' split has 0"),
    "no pixels": (lambda: episodes(CLASSES[:, :, :0]), "the examples are empty, of shape"),
    "no images": (lambda: episodes(None), "examples have no axis of classes"),
    "a data set": (lambda: episodes(DATA), "examples have no axis of classes"),
    "split": (lambda: episodes(split=["train"]), "split is .* use one of"),
    "asked for half": (lambda: episodes()(0, 2.5), f"num_tasks {WHOLE}"),
    "asked for none": (lambda: tasks.Sinusoid(shots=1)(0, 0), "num_tasks must be 1 or more"),
    "index": (lambda: tasks.Sinusoid(shots=1)("a", 2), f"index {WHOLE}"),
    "Omniglot": (
        lambda: tasks.omniglot_episodes("nowhere", ways=2.5, shots=1),
        f"ways {WHOLE}, not 2.5",
    ),
    "MiniImagenet": (
        lambda: tasks.miniimagenet_episodes("nowhere", ways=5, shots="1"),
        "shots must be a whole number",
    ),
    "joint": (lambda: tasks.JointBatches(None), "JointBatches take Episodes, not None"),
    # networks
    "inputs": (lambda: dense_network("3", 3), f"inputs {WHOLE}, not '3'"),
    "hidden": (lambda: dense_network(4, 3, 40), "hidden must be a tuple of whole numbers, not 40"),
    "widths": (lambda: dense_network(4, 3, (40, 2.5)), f"each of hidden {WHOLE}, not 2.5"),
    "image": (lambda: conv_network((8, 8), 3), r"must be \(height, width, channels\)"),
    "a side": (lambda: conv_network((8, 2.5, 1), 3), f"each of image_shape {WHOLE}"),
    "too small": (lambda: conv_network((8, 8, 3), 3, max_pool=True), "too small to be halved"),
    "norm": (lambda: dense_network(4, 3, norm=None), "norm must be one of"),
    "stddev": (lambda: dense_network(4, 3, head_stddev=-1), "head_stddev must be 0 or more"),
    # the inner loop
    "entries": (
        lambda: maml_tf.adapt(abs, [X, X], [Y], step_size=[0.1]),
        "step_size has 1 entries for 2 weights",
    ),
    "text": (lambda: maml_tf.adapt(abs, [tf.constant(X)], [Y], step_size="a"), NUMBER),
    "no function": (lambda: maml_tf.adapt(None, [X], [Y], step_size=0.1), "loss_fn is None"),
    "no batches": (lambda: maml_tf.adapt(abs, [X], None, step_size=0.1), "batches are None"),
    "marks": (lambda: maml_tf.stack([X, X], 2, [True]), "adapts has 1 entries for 2 weights"),
    "copies": (lambda: maml_tf.stack([X], 2.5, None), f"num_tasks {WHOLE}"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*CALLS[call])
    assert not list(tmp_path.iterdir())


def test_a_wrong_argument_leaves_no_directory(tmp_path):
    for wrong in {"validation": 3}, {"iterations": 1.5}, {"best_after": "1"}:
        with pytest.raises(ValueError):
            training(logdir=tmp_path / "run", **wrong)
    with pytest.raises(ValueError):
        maml_tf.train(make(), None, iterations=1, logdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- what is adapted to ---

SETS = {
    "a data set": ((DATA, Y), "x is <_BatchDataset .*; give an array .* such as one batch of it"),
    "a data set alone": ((DATA, None), "x is <_BatchDataset"),
    "a generator": (((a for a in X), Y), "x is <generator .*; give an array of one task's"),
    "an iterator": ((iter(X), Y), "x is <.*iterator.*; give an array"),
    "a function": ((source, Y), "x is <function source .*; give an array"),
    "None": ((None, Y), "x is None; give an array of one task's examples"),
    "no y": ((X, None), "y is None; give an array"),
    "text": (("abc", Y), "x is 'abc'; give an array"),
    "a batch": ((Batch(X, Y), Y), r"x is Batch\(.*; give an array"),
    "a task": ((Task(Batch(X, Y), Batch(X, Y)), Y), r"x is Task\(.*; give an array"),
    "ragged": ((tf.ragged.constant([[1.0], [2.0, 3.0]]), Y[:2]), "x is a RaggedTensor .*to_tensor"),
    "sparse": ((tf.sparse.from_dense(X), Y), "x is a SparseTensor .*to_dense"),
    "symbolic": ((keras.Input([4]), Y), "x is a KerasTensor .* which is no array"),
    "a set": (({1, 2}, Y), "x is {1, 2}, which is no array"),
    "objects": ((X.astype(object), Y), "x holds object; convert it to numbers"),
    "complex": ((X + 1j, Y), "x holds complex64; convert it"),
    "dates": ((X.astype("datetime64[s]"), Y), "x holds datetime64"),
    "strings": ((X.astype(str), Y), "takes float32, and x is of string"),
    "a number": ((3.0, 1), "x is 3.0, not several; give an array"),
    "one label": ((X, 1), "y is 1, not several"),
    "one example": ((X[0], Y[:1]), r"is one example.*x\[None\]"),
    "a stack": ((X[None], Y[None]), r"x of shape \(1, 6, 4\) is a stack of tasks; .*x\[0\]"),
    "other width": ((X[:, :3], Y), r"takes examples of shape \(4,\)"),
    "more axes": ((X[..., None, None], Y), r"takes examples of shape \(4,\)"),
    "short": ((X, Y[:5]), "x 6 and y 5"),
    "out of range": ((X, Y + 5), "class indices 0 ... 2"),
    "one-hot": ((X, np.eye(3)[Y]), "one-hot labels.*np.argmax"),
    "names": ((X, ["a"] * 6), "holds no numbers"),
    "empty": ((X[:0], Y[:0]), "is empty; give at least one"),
    "nan": ((X * np.nan, Y), "not finite"),
    "a dictionary": (({"a": X}, Y), "has inputs .*; got 'a'"),
}


@pytest.mark.parametrize("kind", SETS)
def test_what_cannot_be_adapted_to(kind, learner):
    given, message = SETS[kind]
    before = learner.model.get_weights()
    refused(lambda: learner.adapt(*given), message)
    for a, b in zip(learner.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


SHAPES = {
    "channels": IMAGES[..., :1],
    "size": IMAGES[:, :6],
    "one": IMAGES[0],
    "no channels": IMAGES[..., 0],
    "channels first": IMAGES.transpose(0, 3, 1, 2),
    "flat": IMAGES.reshape(6, -1),
    "a stack": IMAGES[None],
    "text": IMAGES.astype(str),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("how", ["adapt", "apply", "evaluate", "train"])
def test_images_of_other_shapes(how, kind, images):
    x = SHAPES[kind]
    stacked = [((np.stack([x] * 2), np.stack([Y] * 2)),) * 2] * 2
    before = images.model.get_weights()
    calls = {
        "adapt": lambda: images.adapt(x, Y),
        "apply": lambda: images.apply(images.initial_weights(), x[None]),
        "evaluate": lambda: maml_tf.evaluate(images, stacked, num_tasks=2, steps=1),
        "train": lambda: maml_tf.train(images, stacked, iterations=1, progress=False),
    }
    message = r"takes examples of shape \(8, 8, 3\)|one example|stack of tasks|takes float32"
    refused(calls[how], f"{message}|has 8 examples|has 1 examples")
    for a, b in zip(images.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


class Layers(keras.Model):
    """A subclassed model, which does not say what it takes."""

    def __init__(self):
        super().__init__()
        self.convolution = keras.layers.Conv2D(4, 3)
        self.pooling = keras.layers.GlobalAveragePooling2D()
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(self.pooling(self.convolution(x)))


@pytest.mark.parametrize("kind", ["channels", "no channels", "flat", "text"])
@pytest.mark.parametrize("how", ["adapt", "apply", "evaluate", "train"])
def test_images_of_other_shapes_for_a_subclassed_model(how, kind):
    x, model = SHAPES[kind], Layers()
    model(IMAGES)
    learner = make(model=model)
    stacked = [((np.stack([x] * 2), np.stack([Y] * 2)),) * 2] * 2
    calls = {
        "adapt": lambda: learner.adapt(x, Y),
        "apply": lambda: learner.apply(learner.initial_weights(), x[None]),
        "evaluate": lambda: maml_tf.evaluate(learner, stacked, num_tasks=2, steps=1),
        "train": lambda: maml_tf.train(learner, stacked, iterations=1, progress=False),
    }
    refused(
        calls[how], "'layers.*' does not take x of shape .*; give examples as it was built with: "
    )


def test_losses_take_arrays():
    outputs = np.eye(3, dtype="float32")[None, Y]
    assert float(losses.accuracy(outputs, Y[None])[0]) == 1.0
    assert float(losses.cross_entropy(outputs, Y[None])[0]) == pytest.approx(0.5514, abs=1e-3)
    assert float(losses.mean_squared_error(outputs, outputs)[0]) == 0.0


def test_a_list_of_images_is_an_array(images):
    copy = images.adapt(list(IMAGES), Y.tolist())
    assert type(copy) is type(images.model)
    expected = images.adapt(IMAGES, Y)
    for a, b in zip(copy.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    "weights, x, message",
    [
        (lambda w: None, X[None], "The weights are None; give a list of tensors"),
        (lambda w: w[:1], X[None], "has 4 trainable weights; got 1"),
        (lambda w: w[::-1], X[None], r"A weight of shape \(3,\) is given for .*give \(4, 5\)"),
        (lambda w: w, None, "x is None, which is no array"),
        (lambda w: w, X, r"takes examples of shape \(4,\)"),
        (lambda w: w, "abc", "need a task axis"),
    ],
)
def test_weights_and_inputs_of_a_function(weights, x, message, learner):
    refused(lambda: learner.apply(weights(learner.initial_weights()), x), message)


@pytest.mark.parametrize("batch", [3, None, (X[None], Y[None])], ids=["3", "None", "tuple"])
def test_support_sets_of_several_tasks(batch, learner):
    refused(lambda: learner.adapt_weights(batch, 1), r"support set is .*; give Batch\(x, y\)")
    refused(lambda: learner.adapt_and_observe(batch, 1, len), "support set is")
