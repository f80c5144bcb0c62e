import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import Batch, MetaLearner, Task, evaluate, losses
from maml_tf.sources.checks import UnknownShape, as_task

T, B = 2, 3


def array(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def batch(tasks=T, examples=B, **parts):
    return Batch(array(tasks, examples, 4), array(tasks, examples, 1), **parts)


def leaves(task):
    return [np.asarray(leaf) for leaf in tf.nest.flatten(task)]


X, Y = array(T, B, 4), array(T, B, 1)
EXPECTED = Task(batch(), batch())


@pytest.mark.parametrize(
    "given",
    [
        EXPECTED,
        ((X, Y), (X, Y)),
        [[X, Y], [X, Y]],
        Task((X, Y), [X, Y]),
        (Batch(X, Y), (X, Y)),
        ((X, Y, None), (X, Y, None, None)),
        ((X.tolist(), Y.tolist()), (X.astype(np.float64), tf.constant(Y))),
        ((tf.Variable(X), Y), (list(map(list, X.tolist())), tuple(Y.tolist()))),
    ],
)
def test_what_is_a_task(given):
    task = as_task(given, T)
    assert type(task) is Task and all(type(part) is Batch for part in task)
    assert [leaf.dtype for leaf in leaves(task)] == [np.float32] * 4
    for leaf, expected in zip(leaves(task), leaves(EXPECTED), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_types_are_kept_but_float64_of_numpy(float64):
    given = {"a": array(T, B).astype(np.uint8), "b": [[1, 2, 3]] * T, "c": array(T, B)}
    x = as_task(((given, Y), (given, Y))).support.x
    kinds = [leaf.dtype for leaf in (x["a"], x["b"], x["c"])]
    assert kinds == [np.uint8, np.int64, np.float32]
    of_numpy = as_task(((X.astype(np.float64), Y), (X, Y))).support.x
    assert of_numpy.dtype == np.float64  # Keras' float type, here
    keras.config.set_floatx("float32")
    assert as_task(((X.astype(np.float64), Y), (X, Y))).support.x.dtype == np.float32
    tensor = tf.constant(X, tf.float64)
    assert as_task(((tensor, Y), (X, Y))).support.x is tensor


def test_weights_masks_text_and_several_inputs():
    mask, weight = array(T, B) != 1, array(T, B)
    inputs = [X, {"words": [["a", "bcd", "e"]] * T}]
    task = as_task(((inputs, Y, weight, mask), Batch(inputs, Y, mask=mask)), T)
    np.testing.assert_array_equal(task.support.sample_weight, weight)
    np.testing.assert_array_equal(task.query.mask, mask)
    assert task.query.sample_weight == ()
    assert task.support.x[1]["words"].tolist() == [["a", "bcd", "e"]] * T


RAGGED = tf.ragged.constant([[1.0], [2.0, 3.0]])

WRONG = {
    "fewer tasks": (Task(batch(1), batch(1)), r"gave 1 tasks where 2 were asked for.*\[1, 3, 4\]"),
    "more tasks": (Task(batch(5), batch(5)), "gave 5 tasks where 2 were asked for"),
    "T differs": (Task(batch(2), batch(3)), "sets of 2 tasks came with query sets of 3"),
    "no task axis": (
        ((array(B, 4), array(B)), (array(B, 4), array(B))),
        r"support y has shape \[3\]; the first two axes are tasks and examples",
    ),
    "one number": (((1.0, 2.0), (X, Y)), r"support x has shape \[\]"),
    "x longer than y": (
        (batch(), (array(T, 5, 4), Y)),
        r"query x \[2, 5, 4\] has 5 examples and query y \[2, 3, 1\] has 3",
    ),
    "tasks of y": (((X, array(3, B, 1)), batch()), "has 2 tasks and support y .* has 3"),
    "weight too long": (batch(sample_weight=array(T, 4)), "has 3 examples and support sample_w"),
    "weight of rank 3": (batch(sample_weight=array(T, B, 1)), "sample_weight has to be one array"),
    "mask of floats": (batch(mask=array(T, B)), "mask is float32; give booleans: mask != 0"),
    "empty by mask": (
        batch(mask=np.array([[True] * B, [False] * B])),
        "mask is False everywhere for task 1",
    ),
    "no examples": (batch(examples=0), "a set without examples"),
    "dictionary": ({"support": 1, "query": 2}, "a dict with 'support', 'query'. Return Task"),
    "dictionaries": (({"x": X, "y": Y}, batch()), r"support set is a dictionary with 'x', 'y'"),
    "four arrays": ((X, Y, X, Y), r"gave 4 values \(ndarray \(2, 3, 4\), .*cannot be known"),
    "two arrays": ((X, Y), "gave 2 values"),
    "one batch": (Batch(X, Y), "gave a Batch. Return Task"),
    "one array": (X, "gave a ndarray"),
    "nothing": (None, "gave a NoneType"),
    "x alone": (((X,), batch()), r"support set is 1 values \(ndarray \(2, 3, 4\)\); give Batch"),
    "no y": (((X, None), batch()), "support set has no y"),
    "no x": ((((), Y), batch()), "support set has no x"),
    "a list of tasks": (
        (([array(B, 4)] * 5, [array(B, 1)] * 5), batch()),
        r"has 3 tasks|np.stack makes one array",
    ),
    "ragged": (((RAGGED, Y), batch()), "support x is a RaggedTensor; make it dense.*mask"),
    "ragged lists": ((([[1.0], [2.0, 3.0]], Y), batch()), "support x cannot become one array.*pad"),
    "objects": ((([[object()]], Y), batch()), r"support x\[0\]\[0\] holds object objects"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_none(kind):
    given, message = WRONG[kind]
    given = Task(given, batch()) if isinstance(given, Batch) and kind != "one batch" else given
    with pytest.raises(ValueError, match=message):
        as_task(given, T)


def test_shapes_that_are_not_static():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, B, 1])])
    def check(x):
        return as_task(((x, x), (x, x)))

    with pytest.raises(UnknownShape, match=r"support x has shape \(None, 3, 1\)"):
        check(array(T, B, 1))


@pytest.mark.parametrize("traced", [False, True])
def test_the_check_is_made_where_tasks_come_in(traced):
    def source(index, num_tasks):
        x = tf.fill([num_tasks - 1, B, 1], tf.cast(index, tf.float32))
        x = x if traced else x.numpy()
        return (x, x), (x, x)

    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    learner = MetaLearner(model, losses.mean_squared_error, meta_batch_size=T)
    with pytest.raises(ValueError, match="gave 1 tasks where 2 were asked for"):
        learner.meta_steps(source, 0, 1)
    with pytest.raises(ValueError, match="gave 23 tasks where 24 were asked for"):
        evaluate(learner, source)


def test_tuples_are_enough_inside_the_graph():
    def source(index, num_tasks):
        x = tf.fill([num_tasks, B, 1], tf.cast(index, tf.float32))
        return (x, x), (0.0 * x, x)

    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    learner = MetaLearner(model, losses.mean_squared_error, meta_batch_size=T, inner_steps=0)
    metrics = learner.meta_steps(source, 1, 3)
    np.testing.assert_allclose(metrics.query_loss, [1, 4, 9], rtol=2e-2)


def test_a_later_meta_batch_is_checked_too():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    learner = MetaLearner(model, losses.mean_squared_error, meta_batch_size=T)
    x, short = array(T, B, 1), array(T - 1, B, 1)
    stream = iter([((x, x), (x, x))] * 2 + [((short, short), (short, short))])
    learner.meta_steps(stream, 0, 2)
    with pytest.raises(ValueError, match="drop an incomplete last one"):
        learner.meta_steps(stream, 2, 1)
