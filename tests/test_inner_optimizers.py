"""Momentum, Adam and one's own in the inner loop: against Keras' optimizers, one task at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    assert_is_the_derivative,
    random_task,
    randomize,
    resumes_bit_for_bit,
    slow,
    values,
)
from keras import layers

from maml_tf import MetaLearner, adapt, evaluate, export, losses, stack, train
from maml_tf.engine.adaptation import PerStep, adapt_for, gradient_step
from maml_tf.engine.inner_optimizers import SGD, Adam, Momentum, inner_optimizer_of
from maml_tf.networks import dense_network
from maml_tf.tasks import Sinusoid

T, S, ALPHA = 3, 4, 0.07
RATES = [0.1, 0.02, 0.3, 0.05]
rng = np.random.default_rng(0)
KERNEL, BIAS = rng.normal(size=(2, 3)), rng.normal(size=3)
CENTRES = tf.constant(rng.normal(size=(T, 2, 3)))
OPTIMIZERS = [SGD(), Momentum(), Momentum(0.5), Adam(), Adam(0.875, 0.75, 1e-3)]


def loss_fn(weights, centre):
    """No parabola: its gradient is another at each step, in another way for each task."""
    kernel, bias = weights
    return tf.reduce_sum(tf.sin(kernel - centre) * tf.exp(0.1 * bias[..., None, :]), [-2, -1])


def of_keras(optimizer, alpha):
    kind = keras.optimizers.Adam if isinstance(optimizer, Adam) else keras.optimizers.SGD
    return kind(alpha, **optimizer.get_config())


def adapted_by_keras(optimizer, t, rates):
    """A task's weights after each step, by `optimizer.apply`."""
    weights = [keras.Variable(KERNEL, dtype="float64"), keras.Variable(BIAS, dtype="float64")]
    made = of_keras(optimizer, 0.1)
    path = [[np.array(w) for w in weights]]
    for rate in rates:
        made.learning_rate.assign(rate)
        with tf.GradientTape() as tape:
            loss = loss_fn([w.value for w in weights], CENTRES[t])
        made.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        path.append([np.array(w) for w in weights])
    return path


def stacked():
    return stack([tf.constant(KERNEL), tf.constant(BIAS)], T, None)


def per_step():
    return PerStep([tf.constant(RATES, tf.float64)] * 2)


def unrolled(optimizer, steps=S, step_size=ALPHA, **options):
    batches = [CENTRES] * steps
    path = adapt(loss_fn, stacked(), batches, step_size=step_size, optimizer=optimizer, **options)
    return path.weights


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("each", [False, True], ids=["one alpha", "an alpha a step"])
def test_steps_are_those_of_keras_optimizer(float64, optimizer, each):
    path = unrolled(optimizer, step_size=per_step() if each else ALPHA)
    for t in range(T):
        by_keras = adapted_by_keras(optimizer, t, RATES if each else [ALPHA] * S)
        for weights, expected in zip(path, by_keras, strict=True):
            for one, other in zip(weights, expected, strict=True):
                # Keras' learning rate is a float32, and so is the 0.999 of its bias correction.
                atol = 1e-5 if optimizer == Adam() else 1e-7
                np.testing.assert_allclose(one[t], other, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("options", [{}, {"clip": 0.3}], ids=str)
def test_a_loop_takes_the_same_steps(optimizer, options):
    sizes = per_step()

    @tf.function(autograph=False)
    def run(steps):
        how = {"step_size": sizes, "optimizer": optimizer, **options}
        return adapt_for(loss_fn, stacked(), CENTRES, steps, **how)[0]

    path = unrolled(optimizer, step_size=sizes, **options)
    for steps in range(S + 1):
        for one, other in zip(run(tf.constant(steps)), path[steps], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def test_momentum_and_adam_by_hand():
    """Of a gradient that is 2 at each step: v = -0.2, -0.3; Adam's step is alpha / (1 + small)."""
    start = [tf.constant([[1.0]], tf.float64)]

    def run(optimizer):
        slope = lambda weights, _: 2 * weights[0][:, 0]  # noqa: E731
        path = adapt(slope, start, [0, 0], step_size=0.1, optimizer=optimizer).weights
        return [float(w[0][0, 0]) for w in path]

    np.testing.assert_allclose(run(Momentum(0.5)), [1, 0.8, 0.5])
    np.testing.assert_allclose(run(Adam()), [1, 0.9, 0.8], rtol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize(
    ("clip", "recompute"), [(None, False), (0.4, True), slow(None, True), slow(0.4, False)]
)
@pytest.mark.cases(2)
def test_the_derivative_through_the_steps(float64, optimizer, recompute, clip):
    """By the initial weights, and by the step size of each step."""
    sizes = [tf.constant(RATES, tf.float64), tf.constant([0.03] * S, tf.float64)]
    given = [tf.constant(KERNEL), tf.constant(BIAS), *sizes]

    @tf.function(autograph=False)
    def objective(values):
        weights = adapt(
            loss_fn,
            stack(values[:2], T, None),
            [CENTRES] * S,
            step_size=PerStep(values[2:]),
            optimizer=optimizer,
            recompute=recompute,
            clip=clip,
        ).weights[-1]
        return tf.reduce_sum(loss_fn(weights, 2 * CENTRES))

    with tf.GradientTape() as tape:
        tape.watch(given)
        value = objective(given)
    gradient = tape.gradient(value, given)
    names = ["kernel", "bias", "alpha of kernel", "alpha of bias"]
    assert_is_the_derivative(gradient, objective, given, names, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_of_zero_leaves_adams_derivative_finite(dtype):
    """A number that the loss does not read, one whose gradient is 0, and one behind a dead ReLU."""
    theta = tf.constant([[1.0, 0.0, -1.0, 1.0]], dtype)

    def loss(weights, _):
        read, still, dead, _ = tf.unstack(weights[0], axis=-1)
        return read**2 + still**3 + tf.nn.relu(dead) ** 2

    with tf.GradientTape() as tape:
        tape.watch(theta)
        path = adapt(loss, [theta], [0] * 3, step_size=0.1, optimizer=Adam()).weights
        outer = tf.reduce_sum(path[-1][0])
    gradient = tape.gradient(outer, theta)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(path[-1][0][0, 1:], theta[0, 1:])
    np.testing.assert_allclose(gradient[0, 1:], 1)


def test_first_order_holds_the_state_too():
    theta = tf.constant([[1.0, 2.0]], tf.float64)
    for optimizer in (Momentum(), Adam()):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            batches = [0] * 3
            how = {"step_size": 0.1, "first_order": True, "optimizer": optimizer}
            path = adapt(lambda w, _: tf.reduce_sum(w[0] ** 3, -1), [theta], batches, **how)
            outer = tf.reduce_sum(path.weights[-1][0] ** 2)
        np.testing.assert_allclose(tape.gradient(outer, theta), 2 * path.weights[-1][0])


@pytest.mark.parametrize("recompute", [False, True])
def test_ones_own_knows_the_step(recompute):
    class Ever:
        """A step of 1 / (step + 1), and it counts in its state."""

        def initial_state(self, weight):
            return ()

        def update(self, gradient, state, step, alpha):
            return -alpha * gradient / tf.cast(step + 1, gradient.dtype), state

    slope = lambda weights, _: weights[0]  # noqa: E731  of gradient 1
    theta = [tf.constant([1.0])]
    how = {"step_size": 0.6, "optimizer": Ever()}
    path = adapt(slope, theta, [0] * 3, recompute=recompute, **how).weights
    np.testing.assert_allclose([w[0][0] for w in path], [1, 0.4, 0.1, -0.1], atol=1e-6)
    looped, _ = adapt_for(slope, theta, 0, tf.constant(3), **how)
    np.testing.assert_allclose(looped[0], [-0.1], atol=1e-6)


# --- clipping ---


def test_a_clipped_gradient_by_hand():
    """The gradient of w^2 is 2 w: 6 and -1 of w = 3 and -0.5, and 6 is clipped to 2."""
    theta = tf.constant([[3.0, -0.5]])
    with tf.GradientTape() as tape:
        tape.watch(theta)
        loss = lambda w, _: tf.reduce_sum(w[0] ** 2, -1)  # noqa: E731
        (stepped,), _ = gradient_step(loss, [theta], 0, step_size=0.1, clip=2.0)
        outer = tf.reduce_sum(stepped)
    np.testing.assert_allclose(stepped, [[3 - 0.2, -0.5 + 0.1]])
    # d (w - 0.1 * 2 w) = 0.8; what is clipped is a constant.
    np.testing.assert_allclose(tape.gradient(outer, theta), [[1.0, 0.8]])


def test_a_wide_bound_changes_nothing(float64):
    def gradient(**options):
        model = randomize(dense_network(20, 3, (16,), seed=1))  # whose weights are factored
        options = {"step_size": ALPHA, "inner_steps": 2, "meta_batch_size": T, **options}
        learner = MetaLearner(model, losses.mean_squared_error, **options)
        return learner.meta_gradient(random_task(model, T, 1))[0]

    plain, wide, tight = (gradient(**o) for o in ({}, {"inner_clip": 1e3}, {"inner_clip": 1e-3}))
    for one, other in zip(plain, wide, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-14)
    assert not np.allclose(plain[0], tight[0], rtol=1e-2)


# --- a learner ---

TASKS = Sinusoid(shots=5)


def sine_learner(inner_optimizer="adam", seed=1, **options):
    model = dense_network(1, 1, (6,), seed=seed)
    options = {"inner_steps": 2, "meta_batch_size": 4, **options}
    return MetaLearner(model, losses.mean_squared_error, inner_optimizer=inner_optimizer, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("momentum", {"pieces": 3}),
        ("adam", {"learn_step_size": "layer_and_step"}),
        ("adam", {"inner_clip": 0.5}),
    ],
)
@pytest.mark.cases(2)
def test_the_meta_gradient_is_the_derivative(float64, name, options):
    inputs = keras.Input([2])
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(4, "tanh")(inputs)))
    learner = MetaLearner(
        randomize(model),
        losses.mean_squared_error,
        inner_optimizer=name,
        step_size=0.05,
        inner_steps=3,
        meta_batch_size=T,
        **options,
    )
    task = random_task(model, T, 5)
    gradient, _ = learner.meta_gradient(task)

    @tf.function(autograph=False)
    def objective(parameters):
        batches, inner = [task.support] * 3, learner.inner
        path = inner.differentiable(learner.task_loss, parameters, batches, T)
        return tf.reduce_mean(learner.task_loss(path.weights[-1], task.query))

    names = [v.path for v in learner.variables]
    assert_is_the_derivative(gradient, objective, learner.inner.values(), names, rtol=1e-4)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_tasks_together_are_as_one_at_a_time(name):
    learner = sine_learner(name, step_size=0.1)
    support = TASKS(tf.constant(0), T).support
    together = learner.adapt_weights(support, 3).weights[-1]
    seen = learner.adapt_and_observe(support, 3, lambda w: learner.task_loss(w, support))
    np.testing.assert_allclose(seen[-1], learner.task_loss(together, support), rtol=1e-5)
    for t in range(T):
        one = tf.nest.map_structure(lambda a, t=t: a[t : t + 1], support)
        for a, b in zip(learner.adapt_weights(one, 3).weights[-1], together, strict=True):
            np.testing.assert_allclose(a[0], b[t], rtol=2e-4, atol=1e-6)


@pytest.mark.slow
def test_xla_says_the_same():
    plain, compiled = (sine_learner("adam", jit_compile=jit) for jit in (False, True))
    for learner in (plain, compiled):
        learner.meta_steps(TASKS, 0, 2)
    for one, other in zip(values(plain), values(compiled), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_it_resumes_bit_for_bit_and_is_part_of_what_a_run_is(tmp_path):
    def make(name="adam", **options):
        return sine_learner(name, **{"inner_clip": 0.2, **options})

    def refused(*other, **options):
        train(make(*other, **options), TASKS, iterations=7, logdir=tmp_path / "straight")

    resumes_bit_for_bit(make, TASKS, tmp_path)
    with pytest.raises(ValueError, match="inner_optimizer.class=Adam, now Momentum"):
        refused("momentum")
    with pytest.raises(ValueError, match="inner_optimizer.beta_1=0.9, now 0.8"):
        refused(Adam(0.8))
    with pytest.raises(ValueError, match="inner_clip="):
        refused(inner_clip=3.0)


@pytest.mark.parametrize("name", ["momentum", "adam"])
@pytest.mark.parametrize("steps", [slow(0), slow(1), 7])
@pytest.mark.slow
def test_an_exported_model_adapts_as_the_learner_does(tmp_path, name, steps):
    learner = sine_learner(name, step_size=0.1, inner_clip=0.5)
    export(learner, tmp_path / "it")
    served = tf.saved_model.load(str(tmp_path / "it"))
    task = TASKS(tf.constant(0), 1)
    given = task.support.x[0], task.support.y[0], task.query.x[0]
    weights = learner.adapt_weights(task.support, steps).weights[-1]
    expected = learner.predict(weights, task.support, task.query.x)[0]
    for _ in range(2):  # its state begins at zero at each call
        got = served.adapt_and_predict(*given, steps=steps)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_it_may_be_changed_later():
    changed, made = sine_learner("sgd"), sine_learner(Momentum(0.5))
    changed.inner_optimizer = Momentum(0.5)
    for learner in (changed, made):
        learner.meta_steps(TASKS, 0, 2)
        evaluate(learner, TASKS, num_tasks=4, steps=3)
    for one, other in zip(values(changed), values(made), strict=True):
        np.testing.assert_array_equal(one, other)
    lines = []
    changed.summary(lines.append)
    assert "2 inner steps of 0.01 by Momentum" in lines[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Adam", "must be one of 'sgd', 'momentum', 'adam', or an object with .*, not 'Adam'"),
        (Adam, "or an object with initial_state"),
        (None, "or an object with .* not None"),
        (keras.optimizers.Adam(), "or an object with initial_state"),
    ],
)
def test_what_is_no_inner_optimizer(given, message):
    with pytest.raises(ValueError, match=message):
        sine_learner(given)
    learner = sine_learner("sgd")
    with pytest.raises(ValueError, match=message):
        learner.inner_optimizer = given
    assert learner.inner_optimizer == SGD()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Momentum(1.5), "momentum must be from 0 to 1, not 1.5"),
        (lambda: Momentum("x"), "momentum must be one number"),
        (lambda: Adam(beta_1=-1), "beta_1 must be 0 or more and less than 1, not -1"),
        (lambda: Adam(beta_2=1), "beta_2 must be 0 or more and less than 1, not 1"),
        (lambda: Adam(epsilon=0), "epsilon must be"),
        (lambda: sine_learner(inner_clip=0), "inner_clip must be"),
        (lambda: sine_learner(inner_clip="x"), "inner_clip must be"),
    ],
)
def test_numbers_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_update_that_is_no_pair():
    class Odd(SGD):
        def update(self, gradient, state, step, alpha):
            return gradient

    theta = [tf.constant([1.0])]
    with pytest.raises(ValueError, match=r"Odd.update must return \(change, state\) with 0"):
        adapt(lambda w, _: w[0], theta, [0], step_size=0.1, optimizer=Odd())


def test_names():
    assert inner_optimizer_of("momentum") == Momentum(0.9)
    assert inner_optimizer_of(Adam(0.8)) == Adam(0.8)
