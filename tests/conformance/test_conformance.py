"""Every model that people bring, against Keras itself and against numerical derivatives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    assert_is_the_derivative,
    meta_objective,
    normal,
    own_weights,
    randomize,
    slow,
)

from conformance.models import MODELS, B, T
from maml_tf import Batch, ImplicitMAML, MetaLearner, Reptile, Task, functional
from maml_tf.engine.second_derivatives import exact_moments

pytestmark = pytest.mark.usefixtures("float64")

RESIZED = ("bilinear", "bicubic", "resized")
FAST = [name for name, spec in MODELS.items() if not spec.slow]
EVERY = [
    pytest.param(name, marks=pytest.mark.slow) if spec.slow else name
    for name, spec in MODELS.items()
]


def built(name):
    spec = MODELS[name]
    model = functional(spec.make()).model  # with the layers that wait for a first call
    return (model if spec.large else randomize(model)), spec


def squared_error(outputs, y):
    """Mean squared error of every output, summed over outputs: `[T]`."""
    pairs = zip(tf.nest.flatten(outputs), tf.nest.flatten(y), strict=True)
    return tf.add_n(
        [
            tf.reduce_mean(tf.square(a - tf.cast(b, a.dtype)), range(1, a.shape.rank))
            for a, b in pairs
        ]
    )


def targets(model, x, seed):
    """Random numbers of the shapes of the model's outputs."""
    outputs = model(tf.nest.map_structure(lambda a: a[0], x), training=False)
    shapes = [tuple(y.shape) for y in tf.nest.flatten(outputs)]
    tasks = len(tf.nest.flatten(x)[0])
    flat = [normal(seed + i, tasks, *shape) for i, shape in enumerate(shapes)]
    return tf.nest.pack_sequence_as(outputs, flat)


def batch(model, spec, seed, tasks=T, examples=B):
    x = spec.inputs(seed, tasks, examples)
    return Batch(tf.nest.map_structure(tf.constant, x), targets(model, x, seed + 1))


def make_learner(model, **options):
    return MetaLearner(model, squared_error, meta_batch_size=T, **{"step_size": 0.1, **options})


def keras_own(model, weights, statistics, x, task):
    """Keras' own answer for one task: its weights and batch statistics put into the model."""
    kept = model.get_weights()
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value[task])
    for seen in statistics:
        seen.layer.moving_mean.assign(seen.mean[task])
        seen.layer.moving_variance.assign(seen.variance[task])
    outputs = model(tf.nest.map_structure(lambda a: a[task], x), training=False)
    model.set_weights(kept)
    return outputs


def assert_close(got, expected, atol=1e-9):
    for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.cases(60)
def test_a_stack_of_tasks_is_keras_own_call_for_each(name):
    model, spec = built(name)
    x, weights = tf.nest.map_structure(tf.constant, spec.inputs(3)), own_weights(model, T)
    run = functional(model).run(weights, x)
    for task in range(T):
        expected = keras_own(model, weights, run.statistics, x, task)
        got = tf.nest.map_structure(lambda y, t=task: y[t], run.outputs)
        # TensorFlow resizes in float32; many normalisations of few numbers amplify what is rounded.
        rough = spec.large or name.split(",")[0] in RESIZED
        assert_close(got, expected, atol=1e-5 if rough else 1e-9)


# The two ways to make a model differ before the first layer alone.
DERIVED = [p for p in EVERY if "sequential" not in str(p)]


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.cases(14)
def test_the_meta_gradient_is_the_derivative_and_is_traced_once(name):
    model, spec = built(name)
    # Untrained and deep, with a last image of one pixel: more examples and smaller steps keep the
    # objective from being chaotic.
    options = {"step_size": 1e-4} if spec.large else {}
    examples = 12 if spec.large else B
    learner = make_learner(model, **options)
    task = Task(*(batch(model, spec, seed, examples=examples) for seed in (10, 20)))
    gradient, _ = learner.meta_gradient(task)
    names = [v.path for v in model.trainable_variables]
    if spec.large:  # too deep for differences: a kink is never far
        expected = plain_gradient(learner, task)
        size = tf.linalg.global_norm(expected)
        for name, a, b in zip(names, gradient, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9 * size, err_msg=name)
    else:
        objective = meta_objective(learner, task)
        assert_is_the_derivative(gradient, objective, learner.initial_weights(), names, atol=5e-8)
    learner.meta_gradient(Task(*(batch(model, spec, seed, examples=examples) for seed in (30, 40))))
    assert learner._gradient.piece.experimental_get_tracing_count() == 1


def plain_gradient(learner, task):
    """The meta-gradient by plain nested tapes on Keras' own call, one task at a time.

    Keras' moments are exact inside; else they would hold the mean constant.
    """
    model, weights = learner.model, learner.initial_weights()
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0

    def loss(values, x, y):
        frozen = [v.value for v in model.non_trainable_variables]
        outputs, _ = model.stateless_call(values, frozen, x, training=True)
        return tf.reduce_mean(tf.square(outputs - y))

    @tf.function(autograph=False)
    def of_one(support_x, support_y, query_x, query_y):
        with exact_moments(), tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(weights)
            moving = [w for w, own in zip(weights, learner.adapts, strict=True) if own]
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(weights)
                before = loss(weights, support_x, support_y)
            gradients = iter(inner.gradient(before, moving))
            adapted = [
                w - learner.step_size * next(gradients) if own else w
                for w, own in zip(weights, learner.adapts, strict=True)
            ]
            after = loss(adapted, query_x, query_y)
        return outer.gradient(after, weights)

    each = [of_one(*(a[t] for b in task for a in (b.x, b.y))) for t in range(T)]
    return [tf.add_n(pair) / T for pair in zip(*each, strict=True)]


@pytest.mark.parametrize(
    "name", ["depthwise, functional", slow("lstm, functional"), "tied weights", "outputs by name"]
)
@pytest.mark.parametrize("kind", [Reptile, ImplicitMAML])
@pytest.mark.cases(1)
def test_other_meta_gradients_of_a_stack_are_the_mean_of_each_task_s(name, kind):
    model, spec = built(name)
    learner = kind(model, squared_error, meta_batch_size=T, step_size=0.02, inner_steps=2)
    task = Task(*(batch(model, spec, seed) for seed in (10, 20)))
    alone = [
        learner.meta_gradient(tf.nest.map_structure(lambda a, t=t: a[t : t + 1], task))[0]
        for t in range(T)
    ]
    mean = [tf.add_n(each) / T for each in zip(*alone, strict=True)]
    assert_close(learner.meta_gradient(task)[0], mean)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.cases(40)
def test_a_model_adapted_by_no_step_is_the_model_itself(name):
    model, spec = built(name)
    learner = make_learner(model)
    support = batch(model, spec, 10, tasks=1)
    x, y = tf.nest.map_structure(lambda a: a[0].numpy(), (support.x, support.y))
    adapted = learner.adapt(x, y, steps=0)
    run = learner.apply.run(learner.initial_weights(), support.x)
    assert_close(
        adapted(x, training=False),
        keras_own(
            model, [w[None] for w in learner.initial_weights()], run.statistics, support.x, 0
        ),
    )
    assert all(a is not b for a in adapted.variables for b in model.variables)
    moved = learner.adapt(x, y, steps=1)
    weights = learner.adapt_weights(support, 1).weights[-1]
    stacked = [w if own else w[None] for w, own in zip(weights, learner.adapts, strict=True)]
    run = learner.apply.run(weights, support.x)
    assert_close(moved(x, training=False), keras_own(model, stacked, run.statistics, support.x, 0))


def test_there_are_enough_models():
    assert len(MODELS) >= 60
    assert B != T  # or an axis could be taken for the other
    assert keras.config.floatx() == "float64"
