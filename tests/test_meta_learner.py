import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    assert_is_the_derivative,
    meta_objective,
    normal,
    random_batch,
    random_task,
    randomize,
)
from keras import layers

from maml_tf import Batch, MetaLearner, Task, functional, losses
from maml_tf.networks import conv_network, dense_network
from maml_tf.seeds import uniform

# --- a linear model, whose meta-gradient has a closed form ---

T, B, SIZE, ALPHA = 3, 5, 2, 0.1


def linear_learner(**options):
    dense = layers.Dense(1, use_bias=False)
    model = randomize(keras.Sequential([keras.Input([SIZE]), dense]))
    options = {"step_size": ALPHA, "meta_batch_size": T} | options
    return MetaLearner(model, losses.mean_squared_error, **options)


def quadratic(batch, t):
    """The mean squared error of task t is w^T H w / 2 - b^T w + constant."""
    x, y = batch.x[t].numpy(), batch.y[t, :, 0].numpy()
    return 2 * x.T @ x / B, 2 * x.T @ y / B


def meta_gradient_by_hand(w, task, steps, first_order=False):
    """Meta-gradients of w, and of an alpha for each of its numbers."""
    of_w, of_alpha = np.zeros(SIZE), np.zeros(SIZE)
    for t in range(T):
        (hessian, b), (query_hessian, query_b) = (
            quadratic(task.support, t),
            quadratic(task.query, t),
        )
        adapted, moved, alpha_moved = w, np.eye(SIZE), np.zeros([SIZE, SIZE])
        for _ in range(steps):
            gradient = hessian @ adapted - b
            step = np.eye(SIZE) if first_order else np.eye(SIZE) - ALPHA * hessian
            alpha_moved = step @ alpha_moved - np.diag(gradient)
            adapted, moved = adapted - ALPHA * gradient, step @ moved
        gradient = query_hessian @ adapted - query_b
        of_w += moved.T @ gradient / T
        of_alpha += alpha_moved.T @ gradient / T
    return of_w, of_alpha


@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"pieces": 3}], ids=str)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.cases(9)
def test_meta_gradient_of_a_linear_model(float64, steps, first_order, options):
    learner = linear_learner(inner_steps=steps, first_order=first_order, **options)
    task = random_task(learner.model, T, B)
    w = learner.initial_weights()[0].numpy()[:, 0]
    (gradient,), _ = learner.meta_gradient(task)
    expected, _ = meta_gradient_by_hand(w, task, steps, first_order)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_of_learned_step_sizes(float64, steps, first_order):
    learner = linear_learner(inner_steps=steps, first_order=first_order, learn_step_size=True)
    task = random_task(learner.model, T, B)
    w = learner.initial_weights()[0].numpy()[:, 0]
    (of_w, of_alpha), _ = learner.meta_gradient(task)
    expected = meta_gradient_by_hand(w, task, steps, first_order)
    np.testing.assert_allclose(of_w[:, 0], expected[0], rtol=1e-9)
    np.testing.assert_allclose(of_alpha[:, 0], expected[1], rtol=1e-9)


def test_metrics_are_means_over_tasks_before_the_update(float64):
    learner = linear_learner(inner_steps=2)
    task = random_task(learner.model, T, B)
    _, metrics = learner.meta_gradient(task)
    path, before = learner.adapt_weights(task.support, 2)
    np.testing.assert_allclose(metrics.support_loss, tf.reduce_mean(before, -1), rtol=1e-10)
    after = learner.task_loss(path[-1], task.query)
    np.testing.assert_allclose(metrics.query_loss, tf.reduce_mean(after), rtol=1e-10)
    np.testing.assert_allclose(metrics.query_metric, metrics.query_loss)


def test_query_weight_scales_the_gradient_and_not_the_metrics(float64):
    task = random_task(linear_learner().model, T, B)
    (plain,), plain_metrics = linear_learner().meta_gradient(task)
    (scaled,), metrics = linear_learner(query_weight=15.0).meta_gradient(task)
    np.testing.assert_allclose(scaled, 15 * plain.numpy(), rtol=1e-12)
    np.testing.assert_allclose(metrics.query_loss, plain_metrics.query_loss)


# --- every network against central differences ---

NETWORKS = {
    "dense": lambda: dense_network(3, 2, (5, 4)),
    "dense, batch norm": lambda: dense_network(3, 2, (5, 4), norm="batch_norm"),
    "dense, layer norm": lambda: dense_network(3, 2, (5, 4), norm="layer_norm"),
    "stride, batch norm": lambda: conv_network((12, 12, 1), 3, filters=3),
    "pool, batch norm": lambda: conv_network((16, 16, 2), 3, filters=3, max_pool=True),
    "stride, layer norm": lambda: conv_network((12, 12, 1), 3, filters=3, norm="layer_norm"),
    "pool, no norm": lambda: conv_network((16, 16, 1), 3, filters=3, max_pool=True, norm="none"),
}


QUICK = [
    *itertools.product(["dense", "dense, batch norm", "dense, layer norm"], [1, 2]),
    *itertools.product(["stride, batch norm", "pool, batch norm"], [2]),
]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in itertools.product(NETWORKS, [1, 2])
    ],
)
@pytest.mark.cases(3)
def test_meta_gradient_is_the_derivative_of_the_meta_objective(float64, name, steps):
    model = randomize(NETWORKS[name](), scale=0.7)
    learner = MetaLearner(
        model, losses.mean_squared_error, step_size=0.1, inner_steps=steps, meta_batch_size=2
    )
    task = random_task(model, examples=4)
    gradient, _ = learner.meta_gradient(task)
    names = [v.path for v in model.trainable_variables]
    objective = meta_objective(learner, task)
    assert_is_the_derivative(gradient, objective, learner.initial_weights(), names)


@pytest.mark.parametrize("name", ["dense", "stride, batch norm"])
@pytest.mark.cases(1)
def test_first_order_differs_from_second_order(float64, name):
    model = randomize(NETWORKS[name](), scale=0.7)
    task = random_task(model, examples=4)

    def gradient(first_order):
        learner = MetaLearner(
            model,
            losses.mean_squared_error,
            step_size=0.1,
            meta_batch_size=2,
            first_order=first_order,
        )
        return learner.meta_gradient(task)[0]

    relative = [
        float(tf.norm(a - b) / tf.norm(b))
        for a, b in zip(gradient(True), gradient(False), strict=True)
        if tf.norm(b) > 1e-10
    ]
    assert min(relative) > 1e-3


def test_a_bias_before_batch_normalisation_has_no_meta_gradient(float64):
    model = randomize(conv_network((12, 12, 1), 3, filters=3))
    learner = MetaLearner(model, losses.mean_squared_error, step_size=0.1, meta_batch_size=2)
    gradient, _ = learner.meta_gradient(random_task(model, examples=4))
    for variable, g in zip(model.trainable_variables, gradient, strict=True):
        if "/conv_" in variable.path and variable.path.endswith("bias"):
            np.testing.assert_allclose(g, 0, atol=1e-12)


# --- the same numbers, computed another way ---


WAYS, WIDTH = 3, 4


def labelled(x, shots):
    """`[T, WAYS * shots, ...]` examples with the label of their class."""
    labels = tf.repeat(tf.range(WAYS), shots)
    return Batch(x, tf.tile(labels[None], [x.shape[0], 1]))


def few_shot(num_tasks=4, shape=(WIDTH,)):
    """A small classification problem: one support and two query examples a class."""
    support, query = normal(0, num_tasks, WAYS, *shape), normal(1, num_tasks, 2 * WAYS, *shape)
    return Task(labelled(support, 1), labelled(query, 2))


def small_learner(**options):
    options = {"step_size": 0.3, "meta_batch_size": 4} | options
    model = randomize(dense_network(WIDTH, WAYS, (6,), norm="batch_norm"), scale=1.0)
    return MetaLearner(model, losses.cross_entropy, **options)


def conv_learner(*between, **options):
    """One convolution, and what comes between it and the head."""
    parts = [layers.Conv2D(3, 3, 2, padding="same"), *between, layers.Flatten(), layers.Dense(WAYS)]
    model = randomize(keras.Sequential([keras.Input([8, 8, 1]), *parts]))
    return MetaLearner(model, losses.cross_entropy, step_size=0.3, meta_batch_size=4, **options)


def assert_same(results, expected, **tolerance):
    pairs = zip(tf.nest.flatten(results), tf.nest.flatten(expected), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"recompute": True},
        {"pieces": 4},
        {"pieces": 2, "recompute": True},
        {"jit_compile": True},
        pytest.param({"jit_compile": True, "recompute": True, "pieces": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.cases(2)
def test_how_the_gradient_is_computed_does_not_change_it(float64, options):
    expected = small_learner(inner_steps=2).meta_gradient(few_shot())
    got = small_learner(inner_steps=2, **options).meta_gradient(few_shot())
    assert_same(got, expected, atol=1e-10)


@pytest.mark.parametrize(
    "options", [{"pieces": 2, "recompute": True}, {"jit_compile": True}], ids=str
)
@pytest.mark.cases(1)
def test_nor_the_gradient_of_a_convolutional_network(float64, options):
    def gradient(**options):
        between = layers.BatchNormalization(), layers.ReLU()
        return conv_learner(*between, **options).meta_gradient(few_shot(shape=(8, 8, 1)))

    assert_same(gradient(**options), gradient(), atol=1e-10)


def test_nor_the_gradient_of_max_pooling_under_xla():
    """In float32: XLA has no second derivative of max-pooling in float64."""

    def gradient(**options):
        learner = conv_learner(layers.MaxPooling2D(), **options)
        return learner.meta_gradient(few_shot(shape=(8, 8, 1)))

    assert_same(gradient(jit_compile=True), gradient(), rtol=1e-3, atol=1e-4)


def test_the_gradient_of_many_tasks_is_the_mean_of_each_tasks_alone(float64):
    learner, task = small_learner(), few_shot()
    alone = [
        learner.meta_gradient(tf.nest.map_structure(lambda t, i=i: t[i : i + 1], task))
        for i in range(4)
    ]
    mean = tf.nest.map_structure(lambda *each: tf.add_n(each) / 4, *alone)
    assert_same(learner.meta_gradient(task), mean, atol=1e-10)


# --- meta-steps ---


def drawn(index, num_tasks):
    """A `TaskSource`: tasks that depend on the index alone."""

    def batch(offset, shots):
        seed = tf.stack([tf.cast(index, tf.int32), offset])
        noise = uniform(seed, [num_tasks, WAYS * shots, WIDTH], -2.0, 2.0)
        return labelled(noise + 2 * tf.repeat(tf.eye(WAYS, WIDTH), shots, axis=0), shots)

    return Task(batch(0, 1), batch(1, 2))


def test_one_meta_step_by_hand():
    learner = small_learner(optimizer=keras.optimizers.SGD(0.5))
    before = learner.initial_weights()
    gradient, metrics = learner.meta_gradient(drawn(7, 4))
    got = learner.meta_steps(drawn, 7, 1)
    for w, b, g in zip(learner.initial_weights(), before, gradient, strict=True):
        np.testing.assert_allclose(w, b - 0.5 * g, atol=1e-5)
    seen = tf.nest.map_structure(lambda m: m[None], list(metrics[:3]))
    assert_same(list(got)[: len(seen)], seen, rtol=1e-4)


def test_clip_bounds_each_element_of_the_gradient():
    clip = 1e-2
    learner = small_learner(optimizer=keras.optimizers.SGD(1.0), clip=clip)
    before = learner.initial_weights()
    gradient, _ = learner.meta_gradient(drawn(0, 4))
    learner.meta_steps(drawn, 0, 1)
    magnitude = np.concatenate([np.abs(g).ravel() for g in gradient])
    assert (magnitude > clip).any() and (magnitude < clip).any()
    for w, b, g in zip(learner.initial_weights(), before, gradient, strict=True):
        np.testing.assert_allclose(w, b - np.clip(g, -clip, clip), atol=1e-5)


def test_many_steps_in_one_call_are_as_many_calls():
    together, apart = small_learner(), small_learner()
    metrics = together.meta_steps(drawn, 5, 3)
    each = [apart.meta_steps(drawn, index, 1) for index in (5, 6, 7)]
    assert metrics.support_loss.shape == (3, 1)
    assert_same(metrics, tf.nest.map_structure(lambda *m: tf.concat(m, 0), *each), rtol=1e-4)
    assert_same(together.initial_weights(), apart.initial_weights(), atol=1e-5)


def test_meta_steps_learn():
    learner = small_learner(optimizer=keras.optimizers.Adam(1e-2))
    metrics = learner.meta_steps(drawn, 0, 150)
    assert tf.reduce_mean(metrics.query_loss[-20:]) < 0.7 * tf.reduce_mean(metrics.query_loss[:20])
    assert learner.optimizer.iterations == 150


def test_compiled_by_xla_meta_steps_are_the_same():
    plain, compiled = small_learner(), small_learner(jit_compile=True)
    expected = plain.meta_steps(drawn, 0, 3)
    assert_same(compiled.meta_steps(drawn, 0, 3), expected, rtol=1e-3, atol=1e-5)
    assert_same(compiled.initial_weights(), plain.initial_weights(), atol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.cases(1)
def test_a_later_call_does_not_trace_again(jit_compile):
    traces = []

    def tasks(index, num_tasks):
        traces.append(index)
        return drawn(index, num_tasks)

    learner = small_learner(jit_compile=jit_compile)
    learner.meta_steps(tasks, 0, 2)
    first = len(traces), learner._gradient.piece.experimental_get_tracing_count()
    learner.meta_steps(tasks, 2, 2)
    learner.meta_steps(tasks, 4, 5)
    assert (len(traces), learner._gradient.piece.experimental_get_tracing_count()) == first


def test_pieces_are_one_traced_function():
    learner = small_learner(pieces=4)
    learner.meta_steps(drawn, 0, 1)
    assert learner._gradient.piece.experimental_get_tracing_count() == 1


def test_without_inner_steps_the_query_loss_is_minimised_as_it_is():
    learner = small_learner(inner_steps=0)
    metrics = learner.meta_steps(drawn, 0, 2)
    assert metrics.support_loss.shape == (2, 0)
    fresh = small_learner()
    query = drawn(0, 4).query
    expected = tf.reduce_mean(fresh.task_loss(fresh.initial_weights(), query))
    np.testing.assert_allclose(metrics.query_loss[0], expected, rtol=1e-5)


def test_learned_step_sizes_move():
    learner = small_learner(learn_step_size=True)
    kernel, bias, _, *head = learner.model.trainable_variables
    assert [s.shape for s in learner.step_sizes] == [v.shape for v in (kernel, bias, *head)]
    learner.meta_steps(drawn, 0, 2)
    for size in learner.step_sizes[::2]:  # of kernels; a bias before batch norm moves nothing
        assert np.any(np.abs(size.numpy() - 0.3) > 1e-5)


# --- what adapts ---


def test_by_default_all_but_normalisation_adapts():
    learner = small_learner()
    fixed = [
        v.path
        for v, own in zip(learner.model.trainable_variables, learner.adapts, strict=True)
        if not own
    ]
    assert fixed == ["dense_network/norm_1/beta"]


def test_normalisation_inside_a_nested_model_does_not_adapt_either():
    inner = keras.Sequential([keras.Input([3]), layers.LayerNormalization(), layers.Dense(2)])
    model = keras.Sequential([keras.Input([3]), inner])
    learner = MetaLearner(model, losses.mean_squared_error)
    assert learner.adapts == [False, False, True, True]


def test_only_the_head_adapts_but_everything_is_meta_learned():
    learner = small_learner(adapts=lambda v: "/head/" in v.path)
    adapted = learner.adapt_weights(few_shot().support, 1).weights[-1]
    ranks = [len(w.shape) - len(v.shape) for w, v in zip(adapted, learner.variables, strict=True)]
    assert ranks == [0, 0, 0, 1, 1]
    (kernel, _, offset, *_), _ = learner.meta_gradient(few_shot())
    assert tf.norm(kernel) > 0 and tf.norm(offset) > 0


def test_that_nothing_adapts_is_refused():
    with pytest.raises(ValueError, match="No variable adapts.*norm_1/beta"):
        small_learner(adapts=lambda v: False)


# --- adapting to one task ---


def test_adapt_returns_a_keras_model_that_predicts_like_the_inner_loop(float64):
    learner, support = small_learner(inner_steps=2), few_shot(num_tasks=1).support
    query = normal(5, 1, 7, WIDTH)
    adapted = learner.adapt(support.x[0].numpy(), support.y[0].numpy())
    weights = learner.adapt_weights(support, 2).weights[-1]
    apply = functional(learner.model)
    expected = apply(weights, query, statistics=apply.statistics(weights, support.x))
    np.testing.assert_allclose(adapted.predict(query[0], verbose=0), expected[0], atol=1e-10)
    assert not np.allclose(expected, apply(weights, query))  # with the query's own statistics


def test_adapt_and_observe_sees_the_same_weights_as_adapt_weights():
    learner, (support, query) = small_learner(learn_step_size=True), few_shot()
    path = learner.adapt_weights(support, 3).weights
    seen = learner.adapt_and_observe(support, 3, lambda w: learner.task_loss(w, query))
    expected = [learner.task_loss(weights, query) for weights in path]
    np.testing.assert_allclose(seen, expected, rtol=1e-4)


def test_adapt_leaves_the_learner_alone():
    learner, support = small_learner(), few_shot(num_tasks=1).support
    before = learner.model.get_weights()
    adapted = learner.adapt(support.x[0], support.y[0], steps=3, step_size=1.0)
    for a, b in zip(learner.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(adapted.get_weights()[0], before[0])


def test_adapt_by_no_steps_is_the_meta_learned_model():
    learner, support = small_learner(), few_shot(num_tasks=1).support
    adapted = learner.adapt(support.x[0], support.y[0], steps=0)
    for a, b in zip(adapted.trainable_variables, learner.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_adapt_takes_python_lists():
    model = dense_network(1, 1)
    adapted = MetaLearner(model, losses.mean_squared_error).adapt([[0.0], [1.0]], [[0.0], [2.0]])
    assert adapted.predict(np.zeros([3, 1]), verbose=0).shape == (3, 1)


def test_adapt_refuses_targets_that_would_broadcast():
    learner = MetaLearner(dense_network(1, 1), losses.mean_squared_error)
    with pytest.raises(ValueError, match="differ in rank"):
        learner.adapt(np.zeros([5, 1], "float32"), np.zeros([5], "float32"))


def test_adapt_uses_learned_step_sizes_unless_told():
    learner = linear_learner(learn_step_size=True)
    x, y, *_ = random_batch(learner.model, 1, B, 0)
    moved = learner.adapt_weights(Batch(x, y), 1).weights
    for size in learner.step_sizes:
        size.assign(2 * size)
    twice = learner.adapt_weights(Batch(x, y), 1).weights
    told = learner.adapt_weights(Batch(x, y), 1, step_size=ALPHA).weights
    first, second = moved[1][0] - moved[0][0], twice[1][0] - twice[0][0]
    np.testing.assert_allclose(second, 2 * first, rtol=1e-5)
    np.testing.assert_allclose(told[1][0], moved[1][0], rtol=1e-6)


def test_several_inputs_can_be_meta_learned():
    a, b = keras.Input([4]), keras.Input([2])
    model = keras.Model([a, b], layers.Add()([layers.Dense(1)(a), layers.Dense(1)(b)]))
    learner = MetaLearner(model, losses.mean_squared_error, meta_batch_size=2)
    batch = Batch([normal(0, 2, 3, 4), normal(1, 2, 3, 2)], normal(2, 2, 3, 1))
    gradient, _ = learner.meta_gradient(Task(batch, batch))
    assert [g.shape for g in gradient] == [(4, 1), (1,), (2, 1), (1,)]


# --- what is refused ---


def resized(method, **options):
    """A layer of a user's own that resizes after a trainable one, by TensorFlow's operation."""

    def resize(x):
        return tf.image.resize(x, [8, 8], method)

    model = keras.Sequential(
        [keras.Input([4, 4, 1]), layers.Conv2D(1, 1), layers.Lambda(resize, (8, 8, 1))]
    )
    learner = MetaLearner(model, losses.mean_squared_error, meta_batch_size=2, **options)
    return learner.meta_gradient(random_task(model))


# TensorFlow has no derivative of the one gradient, and takes the other's for zero.
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_an_operation_without_second_derivative_is_named(method):
    with pytest.raises(ValueError, match="no second derivative.*Resize.*Grad.*first_order"):
        resized(method)


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_an_operation_without_second_derivative_works_to_first_order(method):
    gradient, _ = resized(method, first_order=True)
    assert all(tf.norm(g) > 0 for g in gradient)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be positive, not 0.0"),
        ({"step_size": float("nan")}, "step_size must be positive"),
        ({"inner_steps": -1}, "inner_steps must be 0 or more, not -1"),
        ({"meta_batch_size": 0}, "meta_batch_size must be 1 or more"),
        ({"pieces": 0}, "pieces must be 1 or more"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"meta_batch_size": 4, "pieces": 3}, "4 tasks does not divide into 1 replicas x 3"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_learner(**options)


# --- the metric ---


def test_accuracy_is_the_metric_of_classification_and_the_loss_of_regression():
    assert small_learner().metric_name == "accuracy"
    assert linear_learner().metric_name == "loss"
    assert small_learner(metric=losses.summed_cross_entropy).metric_name == "summed_cross_entropy"
    _, metrics = small_learner().meta_gradient(few_shot())
    assert 0 <= metrics.query_metric <= 1


def test_tasks_that_do_not_divide_into_the_pieces_are_refused():
    with pytest.raises(ValueError, match="3 tasks do not divide into pieces=4"):
        small_learner(pieces=4).meta_gradient(few_shot(num_tasks=3))
