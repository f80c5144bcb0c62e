import numpy as np
import pytest
from helpers import PointSampler

from maml_tf.estimates import evaluate, tune_step_size
from maml_tf.rl.evaluation import ReturnEvaluator
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import GaussianPolicy

SAMPLER = PointSampler(tasks=4, episodes=5, horizon=10)


def make_learner(**options):
    return MetaTRPO(GaussianPolicy(2, 2, (8,)), meta_batch_size=4, step_size=0.5, **options)


def test_held_out_tasks_in_whole_draws_and_the_same_again():
    learner = make_learner()
    before = [np.asarray(v) for v in learner.variables]
    evaluator = ReturnEvaluator(learner, SAMPLER, num_tasks=6, steps=2)
    first, again = evaluator(), evaluator()
    assert first.num_tasks == 6 and first.mean.shape == (3,)
    np.testing.assert_array_equal(first.mean, again.mean)
    for variable, value in zip(learner.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    zeroth = [learner.roll_out_and_adapt(SAMPLER, i, [], "val").returns for i in range(2)]
    np.testing.assert_allclose(first.mean[0], np.concatenate(zeroth)[:6].mean(), rtol=1e-6)
    np.testing.assert_allclose(first.ci95, 1.96 * first.std / np.sqrt(6))
    assert evaluate(learner, SAMPLER, num_tasks=6, steps=0, split="test").mean[0] != first.mean[0]


def returns(learner, step_sizes):
    """Mean returns on the first draw of held-out tasks."""
    return learner.roll_out_and_adapt(SAMPLER, 0, step_sizes, "val").returns.mean(0)


def test_later_steps_take_half_of_alpha():
    learner = make_learner()
    got = evaluate(learner, SAMPLER, num_tasks=4, steps=3).mean
    np.testing.assert_allclose(got, returns(learner, [0.5, 0.25, 0.25]), rtol=1e-6)
    assert np.abs(got - returns(learner, [0.5, 0.5, 0.5]))[2:].min() > 1e-4
    given = evaluate(learner, SAMPLER, num_tasks=4, steps=2, step_size=0.1).mean
    np.testing.assert_allclose(given, returns(learner, [0.1, 0.05]), rtol=1e-6)


def test_learned_step_sizes_are_taken_as_they_are():
    learner = make_learner(learn_step_size=True)
    got = evaluate(learner, SAMPLER, num_tasks=4, steps=2).mean
    np.testing.assert_allclose(got, returns(learner, [0.5, 0.5]), rtol=1e-6)
    learner.step_sizes[1].assign(np.linspace(0, 4, 8))
    moved = evaluate(learner, SAMPLER, num_tasks=4, steps=2).mean
    assert moved[0] == got[0] and np.all(moved[1:] != got[1:])
    given = evaluate(learner, SAMPLER, num_tasks=4, steps=2, step_size=0.1).mean
    np.testing.assert_allclose(given, returns(learner, [0.1, 0.05]), rtol=1e-6)


def test_each_step_takes_its_own_learned_step_size_and_later_ones_the_last():
    learner, plain = make_learner(learn_step_size="layer_and_step", inner_steps=2), make_learner()
    for alpha in learner.step_sizes:
        alpha.assign([0.5, 0.1])
    got = evaluate(learner, SAMPLER, num_tasks=4, steps=3).mean
    np.testing.assert_allclose(got, returns(plain, [0.5, 0.1, 0.1]), rtol=1e-6)
    given = evaluate(learner, SAMPLER, num_tasks=4, steps=2, step_size=0.1).mean
    np.testing.assert_allclose(given, returns(plain, [0.1, 0.05]), rtol=1e-6)


def test_the_general_functions_serve_policies():
    learner = make_learner()
    options = {"num_tasks": 4, "steps": 1}
    tuning = tune_step_size(learner, SAMPLER, step_sizes=(0.05, 0.2, 1.0), **options)
    for alpha, score in zip(tuning.step_sizes, tuning.scores, strict=True):
        assert evaluate(learner, SAMPLER, step_size=alpha, **options).mean[1] == score
    assert tuning.scores[tuning.step_sizes.index(tuning.step_size)] == max(tuning.scores)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_tasks >= 1 and steps >= 0, not 0 and 1"):
        ReturnEvaluator(make_learner(), SAMPLER, num_tasks=0, steps=1)
