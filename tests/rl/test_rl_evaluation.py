import numpy as np
import pytest
from helpers import PointSampler

from maml_tf.rl.evaluation import ReturnEvaluator, evaluate
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


def test_later_steps_take_half_of_alpha(monkeypatch):
    learner, seen = make_learner(), []
    inner = learner._inner_step
    monkeypatch.setattr(learner, "_adapt", lambda *a: (seen.append(float(a[2][0])), inner(*a))[1])
    evaluate(learner, SAMPLER, num_tasks=4, steps=3)
    evaluate(learner, SAMPLER, num_tasks=4, steps=1, step_size=0.1)
    assert seen == pytest.approx([0.5, 0.25, 0.25, 0.1])


def test_learned_step_sizes_are_taken_as_they_are(monkeypatch):
    learner, seen = make_learner(learn_step_size=True), []
    inner = learner._inner_step
    monkeypatch.setattr(learner, "_adapt", lambda *a: (seen.append(a[2][1]), inner(*a))[1])
    evaluate(learner, SAMPLER, num_tasks=4, steps=2)
    assert [a.shape for a in seen] == [(8,)] * 2 and np.all(seen[1] == 0.5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="num_tasks >= 1 and steps >= 0, not 0 and 1"):
        ReturnEvaluator(make_learner(), SAMPLER, num_tasks=0, steps=1)
