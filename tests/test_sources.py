"""Task sources of every kind: each meta-step sees the meta-batch that it should."""

import functools
import itertools
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import Batch, MetaLearner, Task, evaluate, losses, seeds, train, tune_step_size
from maml_tf.networks import dense_network
from maml_tf.sources import tracing
from maml_tf.sources.checks import as_task
from maml_tf.sources.read_ahead import ReadAhead
from maml_tf.sources.resolve import InGraph, held_out, prepare
from maml_tf.sources.supplies import SourceEnded
from maml_tf.sources.tracing import try_tracing
from maml_tf.supervised.evaluation import MetricEvaluator
from maml_tf.tasks import ConstantTasks, Episodes, Sinusoid

T = 2


def numbered(index, num_tasks=T, examples=3):
    """A meta-batch that says its number: every y is `index`; x is 0, so that a model gives 0."""
    x = np.zeros((num_tasks, examples, 1), np.float32)
    batch = Batch(x, np.full_like(x, index))
    return Task(batch, batch)


def learner(**options):
    """Never moves, and predicts 0: the loss of meta-batch `numbered(i)` is i squared."""
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    options = {"meta_batch_size": T, "inner_steps": 0, **options}
    return MetaLearner(
        model, losses.mean_squared_error, optimizer=keras.optimizers.SGD(0.0), **options
    )


def seen(metrics):
    """The numbers of the meta-batches that were learned from."""
    return np.sqrt(metrics.query_loss.numpy()).round(3).tolist()


class Numbered(keras.utils.PyDataset):
    def __init__(self, length=None, **options):
        super().__init__(**options)
        self.length, self.epochs = length, 0

    @property
    def num_batches(self):
        return self.length

    def __getitem__(self, index):
        (x, y), query = (batch[:2] for batch in numbered(index + 100 * self.epochs))
        return (x, y), query

    def on_epoch_end(self):
        self.epochs += 1


def dataset(length=10**6):
    def pair(i):
        y = tf.fill([T, 3, 1], tf.cast(i, tf.float32))
        return (tf.zeros_like(y), y), (tf.zeros_like(y), y)

    return tf.data.Dataset.range(length).map(pair)


def by_random_numbers():
    """A function that pays no heed to its index, as NumPy code often does."""
    numbers = itertools.count()
    return lambda index, num_tasks: numbered(next(numbers), num_tasks)


def counting():
    yield from map(numbered, itertools.count())


SOURCES = {
    "function": lambda: numbered,
    "int(index)": lambda: lambda index, num_tasks: numbered(int(index), num_tasks),
    "index.numpy()": lambda: lambda index, num_tasks: numbered(index.numpy(), num_tasks),
    "function of lists": lambda: lambda i, n: ((_list(), _list(i)), (_list(), _list(i))),
    "generator": counting,
    "generator function": lambda: counting,
    "list": lambda: [numbered(i) for i in range(50)],
    "dataset": dataset,
    "PyDataset": Numbered,
}


def _list(value=0.0):
    return [[[float(value)]] * 3] * T


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.cases(4)
def test_every_meta_step_has_its_own_meta_batch(kind, jit_compile):
    source, one = SOURCES[kind](), learner(jit_compile=jit_compile)
    assert seen(one.meta_steps(source, 0, 3)) == [0, 1, 2]
    assert seen(one.meta_steps(source, 3, 1)) == [3]  # fewer than were drawn ahead
    assert seen(one.meta_steps(source, 4, 9)) == list(range(4, 13))  # and more


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.cases(4)
def test_a_resumed_run_takes_up_where_it_stopped(kind):
    one, source = learner(), SOURCES[kind]()
    assert seen(one.meta_steps(source, 5, 2)) == [5, 6]
    assert seen(one.meta_steps(source, 9, 2)) == [9, 10]


@pytest.mark.parametrize("kind", sorted(set(SOURCES) - {"generator"}))
@pytest.mark.cases(4)
def test_what_can_be_had_again_is_had_again(kind):
    one, source = learner(), SOURCES[kind]()
    for start in (4, 0, 2):
        assert seen(one.meta_steps(source, start, 3)) == [start, start + 1, start + 2]


def test_an_iterator_goes_on_and_loses_nothing():
    one, source = learner(), counting()
    assert seen(one.meta_steps(source, 0, 3)) == [0, 1, 2]
    assert seen(one.meta_steps(source, 0, 3)) == [3, 4, 5]
    assert seen(one.meta_steps(source, 0, 1)) == [6]


def test_nothing_is_lost_of_what_pays_no_heed_to_the_index():
    assert seen(learner().meta_steps(by_random_numbers(), 0, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["generator", "function"])
def test_arrays_that_are_filled_again_and_again(kind):
    x, y = np.zeros((T, 3, 1), np.float32), np.zeros((T, 3, 1), np.float32)
    numbers = itertools.count()

    def fill(*_):
        y[:] = next(numbers)
        return Task(Batch(x, y), Batch(x, y))

    source = fill if kind == "function" else iter(lambda: fill(), None)
    one = learner()
    assert seen(one.meta_steps(source, 0, 5)) == [0, 1, 2, 3, 4]
    assert seen(one.meta_steps(source, 5, 5)) == [5, 6, 7, 8, 9]


def test_a_function_is_called_once_a_meta_step_with_python_integers():
    calls = []

    def source(index, num_tasks):
        if not tf.is_tensor(index):
            calls.append((index, num_tasks))
        return numbered(index, num_tasks)

    one = learner()
    one.meta_steps(source, 3, 5)
    one.meta_steps(source, 8, 5)
    assert calls[:10] == [(i, T) for i in range(3, 13)]
    assert all(type(index) is int for index, _ in calls)
    assert len(calls) <= 18  # five are drawn ahead


def test_meta_batches_of_other_shapes():
    def source(index, num_tasks):
        return numbered(index, num_tasks, examples=2 + int(index) // 3)

    assert seen(learner().meta_steps(source, 0, 8)) == list(range(8))


def test_a_list_and_a_pydataset_begin_again_as_in_keras():
    assert seen(learner().meta_steps([numbered(7), numbered(8)], 1, 4)) == [8, 7, 8, 7]
    source = Numbered(3)
    assert seen(learner().meta_steps(source, 0, 7)) == [0, 1, 2, 100, 101, 102, 200]
    # A resumed run passes the ends of the epochs, too.
    assert seen(learner().meta_steps(Numbered(3), 7, 3)) == [201, 202, 300]
    assert seen(learner().meta_steps(dataset(3), 2, 3)) == [2, 0, 1]


def test_an_iterator_that_ends_says_so():
    with pytest.raises(SourceEnded, match="ended after 3 meta-batches. Give an iterator"):
        learner().meta_steps(map(numbered, range(3)), 0, 5)
    with pytest.raises(SourceEnded, match="ended after 0"):
        learner().meta_steps(iter(()), 0, 1)
    with pytest.raises(SourceEnded, match="no meta-batch at all"):
        learner().meta_steps([], 0, 1)
    one, source = learner(), map(numbered, range(3))
    assert seen(one.meta_steps(source, 0, 2)) == [0, 1]
    assert seen(one.meta_steps(source, 2, 1)) == [2]  # the end was met ahead, and is not wanted yet
    with pytest.raises(SourceEnded, match="after 3"):
        one.meta_steps(source, 3, 1)


def test_an_error_of_the_source_is_its_own_even_if_it_was_met_ahead():
    def source(index, num_tasks):
        if index == 3:
            raise KeyError("file 3")
        return numbered(index, num_tasks)

    one = learner()
    assert seen(one.meta_steps(source, 1, 2)) == [1, 2]
    with pytest.raises(KeyError, match="file 3"):
        one.meta_steps(source, 3, 2)
    assert seen(one.meta_steps(source, 4, 2)) == [4, 5]


def test_the_next_meta_batches_are_drawn_while_these_are_learned_from():
    names, drawn = set(), threading.Event()

    def source(index, num_tasks):
        if not tf.is_tensor(index):
            names.add((threading.current_thread().name, index))
            if index == 3:
                drawn.set()
        return numbered(index, num_tasks)

    learner().meta_steps(source, 0, 2)
    assert drawn.wait(5.0)
    assert ("read ahead", 2) in names and ("read ahead", 3) in names
    time.sleep(0.05)
    assert max(index for _, index in names) == 3


def test_no_more_is_stacked_than_fits(monkeypatch):
    from maml_tf.sources import read_ahead

    # A meta-batch has 2 sets of x and y, 6 numbers each, of 4 bytes: 96.
    monkeypatch.setattr(read_ahead, "STACK_BYTES", 200)
    for jit_compile in (False, True):
        assert seen(learner(jit_compile=jit_compile).meta_steps(numbered, 0, 5)) == [0, 1, 2, 3, 4]
    assert prepare(numbered, T).capacity == 2


def test_a_later_call_does_not_trace_again():
    one, source = learner(), SOURCES["int(index)"]()
    for start, count in ((0, 1), (1, 4), (5, 2)):
        one.meta_steps(source, start, count)
    assert one._gradient.piece.experimental_get_tracing_count() == 1


# --- in the graph or beside it ---


def in_graph(source, num_tasks=T, **options):
    return isinstance(prepare(source, num_tasks, **options), InGraph)


def of_tensors(index, num_tasks):
    y = tf.fill([num_tasks, 3, 1], tf.cast(index, tf.float32))
    return Task(Batch(tf.zeros_like(y), y), Batch(tf.zeros_like(y), y))


def of_random_operations(index, num_tasks):
    x = tf.random.uniform([num_tasks, 3, 1])
    return Task(Batch(x, x), Batch(x, x))


def test_what_draws_with_tensorflow_stays_in_the_graph():
    for source in (
        of_tensors,
        tf.function(of_tensors),
        of_random_operations,
        Sinusoid(shots=5, fixed=True),
        Episodes(np.zeros((4, 6, 3)), 2, (1, 2), scale=0.5),
    ):
        assert in_graph(source, start=3), source
    assert seen(learner().meta_steps(of_tensors, 2, 3)) == [2, 3, 4]


def test_random_operations_are_run_at_every_step():
    metrics = learner().meta_steps(of_random_operations, 0, 5)
    assert len(set(metrics.query_loss.numpy())) == 5


def test_tf_function_does_not_freeze_numpy():
    random = np.random.default_rng(0)

    @tf.function
    def source(index, num_tasks):
        return numbered(random.normal(), num_tasks)

    assert len(set(learner().meta_steps(source, 0, 5).query_loss.numpy())) == 5

    @tf.function
    def converted(index, num_tasks):
        if index > 3:  # by AutoGraph
            y = tf.fill([T, 3, 1], 1.0)
        else:
            y = tf.fill([T, 3, 1], 0.0)
        return Task(Batch(y, y), Batch(0 * y, y))

    assert in_graph(converted)
    assert seen(learner().meta_steps(converted, 2, 4)) == [0, 0, 1, 1]


@pytest.mark.parametrize("frozen", ["x", "noise"])
def test_numpy_in_a_part_of_what_depends_on_the_index_is_not_frozen(frozen):
    random = np.random.default_rng(0)

    def source(index, num_tasks):
        shape = [num_tasks, 3, 1]
        fresh = random.normal(size=shape).astype(np.float32)
        drawn = seeds.uniform(seeds.stream(0, "train", "x", index), shape)
        x, y = (fresh, drawn) if frozen == "x" else (drawn, drawn + fresh)
        return Task(Batch(x, y), Batch(x, y))

    assert not in_graph(source)
    taken = [prepare(source, T).draw(0, 4)]
    arrays = [task.support[0 if frozen == "x" else 1] for task in taken[0]]
    assert len({array.tobytes() for array in arrays}) == 4


def test_shapes_that_tracing_does_not_know_are_known_in_python():
    def source(index, num_tasks):
        y = tf.fill(tf.stack([num_tasks, 2 + tf.cast(index, tf.int32) % 2, 1]), float(index))
        return Task(Batch(tf.zeros_like(y), y), Batch(tf.zeros_like(y), y))

    assert not in_graph(source)
    assert seen(learner().meta_steps(source, 0, 4)) == [0, 1, 2, 3]


def test_operations_that_leave_the_graph_run_beside_it():
    iterator = iter(dataset())
    assert not in_graph(lambda index, num_tasks: next(iterator))

    def source(index, num_tasks):
        y = tf.numpy_function(lambda i: np.full((T, 3, 1), i, np.float32), [index], tf.float32)
        y = tf.ensure_shape(y, [T, 3, 1])
        return Task(Batch(y, y), Batch(0 * y, y))

    # XLA could not compile it.
    assert seen(learner(jit_compile=True).meta_steps(source, 0, 3)) == [0, 1, 2]


def a_seed_that_forgets_the_index(index, num_tasks):
    return numbered(np.random.default_rng(0).normal(), num_tasks)


FIXED = numbered(5)


@pytest.mark.parametrize(
    "source",
    [
        lambda index, num_tasks: FIXED,
        lambda index, num_tasks: tf.nest.map_structure(tf.constant, FIXED),
        a_seed_that_forgets_the_index,
        tf.function(lambda index, num_tasks: FIXED),
    ],
    ids=["array", "tensor", "seed", "tf.function"],
)
def test_one_meta_batch_for_ever_is_refused(source):
    with pytest.raises(ValueError, match="same meta-batch for every index.*ConstantTasks"):
        learner().meta_steps(source, 0, 1)
    with pytest.raises(ValueError, match="same held-out tasks.*false.*set num_tasks to 24"):
        evaluate(learner(), lambda i, n: _repeated(source(i, T), n // T), num_tasks=25)


def _repeated(task, times):
    return tf.nest.map_structure(lambda a: np.concatenate([a] * times), task)


def test_who_means_one_meta_batch_says_so():
    def source(index, num_tasks):
        return FIXED

    source.constant_tasks = True
    for meant in (ConstantTasks(FIXED), source):
        assert in_graph(meant)
        assert seen(learner().meta_steps(meant, 0, 2)) == [5, 5]


def test_two_neighbours_may_be_equal():
    assert seen(learner().meta_steps(lambda i, n: numbered(int(i) // 2, n), 0, 4)) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (FIXED, r"given are a Task\. .*One and the same Task at every step is ConstantTasks"),
        ({"support": 1}, "given are a dict.*A task source is a function"),
        (np.zeros(3), "given are a ndarray"),
        (None, "given are a NoneType"),
        (Sinusoid, "given are Sinusoid"),
        (lambda index: FIXED, "takes other arguments.*a function .index, num_tasks. -> Task"),
    ],
)
def test_what_is_no_source_of_tasks(tasks, message):
    with pytest.raises(ValueError, match=message):
        learner().meta_steps(tasks, 0, 1)
    with pytest.raises(ValueError, match=message):
        evaluate(learner(), tasks)


def test_a_generator_function_of_the_index_is_refused():
    def source(index, num_tasks):
        yield numbered(index, num_tasks)

    with pytest.raises(ValueError, match="return one Task instead of yielding it"):
        learner().meta_steps(source, 0, 1)


# --- held-out tasks ---


HELD_OUT = {
    **SOURCES,
    # Streams and items have a T of their own: 25 times two tasks, here.
    "list": lambda: [numbered(i) for i in range(25)],
    "iterator of larger stacks": lambda: (numbered(i, 24) for i in range(3)),
}


@pytest.mark.parametrize("kind", sorted(set(HELD_OUT) - {"function of lists"}))
@pytest.mark.cases(4)
def test_an_evaluation_meets_every_held_out_task_once(kind):
    source = HELD_OUT[kind]()
    # By T tasks with one number: 24 of a function's, for it is asked for so many; two otherwise.
    larger = ("function", "int(index)", "index.numpy()", "iterator of larger stacks")
    a_number = 24 if kind in larger else T
    squares = [(i // a_number) ** 2 for i in range(50)]
    evaluator = MetricEvaluator(learner(), source, num_tasks=50, steps=0)
    for _ in range(2):  # an iterator's tasks are kept
        result = evaluator()
        assert result.num_tasks == 50
        np.testing.assert_allclose(result.mean, [np.mean(squares)], rtol=1e-5)
        np.testing.assert_allclose(result.std, [np.std(squares)], rtol=1e-5)
    assert evaluator._draw.experimental_get_tracing_count() == 1


def test_held_out_tasks_of_two_shapes():
    drawn = [numbered(0, 3), numbered(1, 3, examples=5), numbered(2, 30, examples=5)]
    pieces = held_out(drawn, 34, 24)
    assert [piece.tasks for piece in pieces] == [3, 24, 7]
    assert all(piece.task.support.x.shape[0] == 24 for piece in pieces)
    result = evaluate(learner(), drawn, num_tasks=34, steps=0)
    np.testing.assert_allclose(result.mean, [(3 * 0 + 3 * 1 + 28 * 4) / 34], rtol=1e-5)


def test_random_numbers_are_not_drawn_anew_by_each_evaluation():
    random = np.random.default_rng(0)

    def source(index, num_tasks):
        return numbered(random.normal(), num_tasks)

    evaluator = MetricEvaluator(learner(), source, num_tasks=48, steps=0)
    np.testing.assert_array_equal(evaluator().mean, evaluator().mean)
    tuning = tune_step_size(learner(), source, step_sizes=(0.1, 0.2), num_tasks=48, steps=0)
    assert tuning.scores[0] == tuning.scores[1]


@pytest.mark.parametrize("kind", ["list", "dataset", "PyDataset", "generator", "constant"])
def test_too_few_held_out_tasks_are_not_met_twice(kind):
    source = {
        "list": lambda: [numbered(i) for i in range(3)],
        "dataset": lambda: dataset(3),
        "PyDataset": lambda: Numbered(3),
        "generator": lambda: map(numbered, range(3)),
        "constant": lambda: ConstantTasks(numbered(1, 6)),
    }[kind]
    assert evaluate(learner(), source(), num_tasks=6, steps=0).num_tasks == 6
    with pytest.raises(ValueError, match="has 6 held-out tasks, and num_tasks is 7"):
        evaluate(learner(), source(), num_tasks=7, steps=0)


def test_the_same_element_again_and_again_makes_no_interval():
    with pytest.raises(ValueError, match="same held-out tasks.*set num_tasks to 2"):
        evaluate(learner(), itertools.repeat(numbered(1)), num_tasks=4)


# --- training ---


def sines(index, num_tasks):
    random = np.random.default_rng(index)
    amplitude = random.uniform(0.1, 5, (num_tasks, 1, 1))
    x = random.uniform(-5, 5, (num_tasks, 10, 1))
    y = amplitude * np.sin(x)
    return Task(Batch(x[:, :5], y[:, :5]), Batch(x[:, 5:], y[:, 5:]))


def stream_of_sines():
    return (sines(i, T) for i in itertools.count())


@pytest.mark.parametrize("make", [lambda: sines, stream_of_sines], ids=["function", "generator"])
@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(tmp_path, make):
    def run(directory, iterations):
        model = dense_network(1, 1, (6,), seed=1)
        one = MetaLearner(model, losses.mean_squared_error, meta_batch_size=T)
        options = {"validation": make(), "validation_tasks": 24, "validation_steps": 1}
        result = train(
            one, make(), iterations=iterations, logdir=directory, progress=False, **options
        )
        return model.get_weights(), result

    straight, whole = run(tmp_path / "straight", 23)
    run(tmp_path / "resumed", 9)
    resumed, result = run(tmp_path / "resumed", 23)
    assert result == whole
    for a, b in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_numpy_tasks_give_the_meta_gradients_of_the_same_tensors():
    tasks = Sinusoid(shots=5)

    def steps(source):
        model = dense_network(1, 1, (6,), seed=1)
        one = MetaLearner(model, losses.mean_squared_error, meta_batch_size=T)
        return one.meta_steps(source, 0, 20), model.get_weights()

    expected = steps(tasks)
    got = steps(lambda i, n: tf.nest.map_structure(np.asarray, tasks(int(i), n)))
    for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# --- the package's own sources ---

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 4, 4, 1), np.uint8)
OWN = {
    "sinusoid": lambda: Sinusoid(shots=3),
    "the sinusoids of a multi-task baseline": lambda: Sinusoid(shots=3, fixed=True),
    "an oracle's, in one half": lambda: Sinusoid(shots=3, oracle=True, half=True),
    "episodes": lambda: Episodes(IMAGES, 3, 1),
    "turned episodes": lambda: Episodes(IMAGES, 3, (1, 2), rotations=True),
}


@pytest.mark.parametrize("name", OWN)
def test_own_sources_draw_by_the_index_as_they_say(name, monkeypatch):
    """What they declare is what a trial finds; and no trial is made."""
    source = OWN[name]()
    check = functools.partial(as_task, num_tasks=T)
    with monkeypatch.context() as patch:
        patch.delattr(type(source), "draws_by_index")
        assert try_tracing(source, T, 0, check).in_graph
        assert tracing._KNOWN.pop(source) == {T}  # by the index, not by drawing and comparing
    monkeypatch.setattr(tracing, "_trace", None)
    assert try_tracing(source, T, 0, check).in_graph


def test_a_subclass_of_an_own_source_is_looked_at():
    class Frozen(Sinusoid):
        def __call__(self, index, num_tasks):
            x = np.random.default_rng().normal(size=(num_tasks, 3, 1)).astype(np.float32)
            return Task(Batch(x, x), Batch(x, x))

    assert isinstance(prepare(Frozen(shots=3), T), ReadAhead)
