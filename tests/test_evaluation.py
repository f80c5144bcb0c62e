import numpy as np
import pytest
import tensorflow as tf

from maml_tf import Batch, MetaLearner, Task, evaluate, losses, networks, tune_step_size
from maml_tf.estimates import summarize
from maml_tf.supervised.evaluation import DRAW, MetricEvaluator, predictions_while_adapting
from maml_tf.tasks import Sinusoid


def make_learner(**options):
    network = networks.dense_network(1, 1, (6,), norm="batch_norm", seed=1)
    return MetaLearner(network, losses.mean_squared_error, step_size=0.05, **options)


TASKS = Sinusoid(shots=5, split="test")


def test_mean_deviation_and_interval():
    # Values 1 and 3: mean 2, standard deviation 1, interval 1.96 / sqrt(2).
    result = summarize(np.array([[1.0, 0.0], [3.0, 0.0]]))
    np.testing.assert_allclose(result.mean, [2, 0])
    np.testing.assert_allclose(result.std, [1, 0])
    np.testing.assert_allclose(result.ci95, [1.96 / np.sqrt(2), 0])
    assert result.num_tasks == 2


def by_hand(learner, task, t, steps):
    """One task alone, by plain gradient descent on the Keras model's own variables."""
    x, y = task.support.x[t], task.support.y[t]
    model, kept = learner.model, learner.model.get_weights()
    adapted = [v for v, own in zip(model.trainable_variables, learner.adapts, strict=True) if own]
    curve = []
    for _ in range(steps + 1):
        outputs = model(task.query.x[t], training=True)
        curve.append(float(tf.reduce_mean((outputs - task.query.y[t]) ** 2)))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        for v, g in zip(adapted, tape.gradient(loss, [v.value for v in adapted]), strict=True):
            v.assign_sub(0.05 * g)
    model.set_weights(kept)
    return curve


def test_the_curve_is_plain_gradient_descent_on_each_task():
    learner = make_learner()
    result = evaluate(learner, TASKS, num_tasks=3, steps=4)
    task = TASKS(tf.constant(0, tf.int64), DRAW)
    expected = np.array([by_hand(learner, task, t, 4) for t in range(3)])
    np.testing.assert_allclose(result.mean, expected.mean(0), rtol=1e-4)
    np.testing.assert_allclose(result.std, expected.std(0), rtol=1e-3)


def test_the_tasks_do_not_depend_on_how_they_are_cut():
    one = evaluate(make_learner(), TASKS, num_tasks=DRAW + 6, steps=2)
    many = evaluate(make_learner(meta_batch_size=8, pieces=4), TASKS, num_tasks=30, steps=2)
    np.testing.assert_allclose(one.mean, many.mean, rtol=1e-5)
    assert one.num_tasks == many.num_tasks == 30


def test_evaluating_leaves_the_weights_alone():
    learner = make_learner()
    before = learner.model.get_weights()
    evaluator = MetricEvaluator(learner, TASKS, num_tasks=24, steps=2)
    first, second = evaluator(), evaluator()
    np.testing.assert_array_equal(first.mean, second.mean)
    for a, b in zip(before, learner.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_second_evaluation_does_not_trace_again():
    learner = make_learner()
    evaluator = MetricEvaluator(learner, TASKS, num_tasks=48, steps=2)
    evaluator()
    learner.model.trainable_variables[0].assign_add(tf.ones([1, 6]))
    evaluator()
    assert evaluator._draw.experimental_get_tracing_count() == 1
    assert evaluator._curves.experimental_get_tracing_count() == 1


def test_inductive_prediction_of_an_example_does_not_depend_on_the_others():
    """Query sets of one example each: by their own statistics all outputs would be the offset."""
    task = TASKS(tf.constant(0, tf.int64), 24)
    single = Task(task.support, Batch(task.query.x[:, :1], task.query.y[:, :1]))

    def whole(index, num_tasks):
        return task

    def alone(index, num_tasks):
        return single

    learner = make_learner()
    options = {"num_tasks": 24, "steps": 1, "batch_statistics": "inductive"}
    support = learner.adapt_weights(task.support, 1).weights[-1]
    seen = learner.apply.statistics(support, task.support.x)
    outputs = learner.apply(support, task.query.x, statistics=seen)
    errors = tf.math.squared_difference(outputs, task.query.y)
    expected = float(tf.reduce_mean(errors[:, :1]))
    assert evaluate(learner, alone, **options).mean[1] == pytest.approx(expected, rel=1e-4)
    expected = float(tf.reduce_mean(errors))
    assert evaluate(learner, whole, **options).mean[1] == pytest.approx(expected, rel=1e-4)
    transductive = evaluate(learner, alone, num_tasks=24, steps=1).mean[1]
    assert transductive != pytest.approx(expected, rel=1e-3)


def test_the_tuned_step_size_is_the_best_of_all_that_were_tried_by_hand():
    learner, sizes = make_learner(), (0.3, 0.003, 1e20, 0.03)
    for variable in learner.model.trainable_variables:
        variable.assign(variable + 0.3)
    options = {"num_tasks": 30, "steps": 3}
    by_hand = {a: evaluate(learner, TASKS, step_size=a, **options).mean[-1] for a in sizes}
    tuning = tune_step_size(learner, TASKS, step_sizes=sizes, **options)
    np.testing.assert_allclose(tuning.scores, list(by_hand.values()), rtol=1e-5)
    finite = {a: score for a, score in by_hand.items() if np.isfinite(score)}
    assert len(finite) == 3  # 1e20 diverges, and does not win
    assert tuning.step_size == min(finite, key=finite.get) and tuning.step_sizes == sizes


@pytest.mark.slow
def test_the_tuned_step_size_of_an_accuracy_is_that_of_the_highest():
    learner = make_learner(
        metric=lambda outputs, y: -losses.mean_squared_error(outputs, y), lower_is_better=False
    )
    sizes, options = (0.003, 0.3, 0.03), {"num_tasks": 24, "steps": 3}
    scores = [evaluate(learner, TASKS, step_size=a, **options).mean[-1] for a in sizes]
    tuning = tune_step_size(learner, TASKS, step_sizes=sizes, **options)
    assert tuning.step_size == sizes[int(np.argmax(scores))]


@pytest.mark.parametrize("step_sizes", [(), (1e25,)])
def test_no_step_size_to_choose(step_sizes):
    with pytest.raises(ValueError, match="gives a finite metric; give smaller ones"):
        tune_step_size(make_learner(), TASKS, step_sizes=step_sizes, num_tasks=24, steps=3)


@pytest.mark.parametrize("statistics", ["transductive", "inductive"])
def test_predictions_while_adapting_are_those_that_the_evaluation_measures(statistics):
    learner, task = make_learner(), TASKS(tf.constant(0, tf.int64), DRAW)
    options = {"batch_statistics": statistics}
    predicted = predictions_while_adapting(learner, task.support, task.query.x, 3, **options)
    assert predicted.shape == (4, DRAW, 5, 1)
    errors = ((predicted - task.query.y.numpy()) ** 2).mean((1, 2, 3))
    measured = evaluate(learner, TASKS, num_tasks=DRAW, steps=3, **options).mean
    np.testing.assert_allclose(errors, measured, rtol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_tasks": 0}, "num_tasks >= 1"),
        ({"steps": -1}, "steps >= 0"),
        ({"batch_statistics": "both"}, "transductive, inductive or running, not 'both'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MetricEvaluator(make_learner(), TASKS, **options)


@pytest.mark.slow
def test_a_step_size_assigned_between_calls_is_that_of_a_new_evaluator():
    learner = make_learner()
    evaluator = learner.evaluator(TASKS, num_tasks=4, steps=2)
    own = evaluator().mean
    for step_size in (0.3, 0.7):
        evaluator.step_size = step_size
        expected = evaluate(learner, TASKS, num_tasks=4, steps=2, step_size=step_size)
        np.testing.assert_array_equal(evaluator().mean, expected.mean)
    traces = evaluator._draw.experimental_get_tracing_count()
    evaluator.step_size = 0.1
    evaluator()
    assert evaluator._draw.experimental_get_tracing_count() == traces == 1
    evaluator.step_size = None
    np.testing.assert_array_equal(evaluator().mean, own)
    with pytest.raises(ValueError, match="step_size must be positive"):
        evaluator.step_size = -1.0


def test_draws_measured_at_a_time_measure_the_same():
    learner = make_learner()
    tasks = Sinusoid(shots=5, seed=1, split="test")
    one, three = (evaluate(learner, tasks, num_tasks=100, steps=2, workers=n) for n in (1, 3))
    for alone, together in zip(one, three, strict=True):
        np.testing.assert_array_equal(alone, together)
    with pytest.raises(ValueError, match="workers"):
        evaluate(learner, tasks, num_tasks=24, workers=0)


def test_an_option_that_there_is_not_is_named():
    said = "has no option split; it has num_tasks, steps, step_size, batch_statistics, ways, work"
    for measure in (evaluate, tune_step_size):
        with pytest.raises(ValueError, match=said):
            measure(make_learner(), TASKS, split="test")
