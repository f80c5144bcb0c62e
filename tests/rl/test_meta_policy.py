"""A second meta-optimizer is one file: what it takes is below, and everything serves it."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import PointSampler, left_behind, slow

import maml_tf
from maml_tf.rl.meta_policy import MetaPolicy, show_returns
from maml_tf.rl.meta_promp import MetaProMP
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.objectives import surrogate
from maml_tf.rl.policy import GaussianPolicy


class AscentMetrics(NamedTuple):
    """`PolicyMetrics`, and the objective."""

    returns: np.ndarray
    diverged: np.ndarray
    environment_steps: np.ndarray
    sampling_seconds: np.ndarray
    inner_seconds: np.ndarray
    meta_step_seconds: np.ndarray
    surrogate: np.ndarray

    def progress(self, metric):
        return show_returns(self.returns, metric)


class MetaGradient(MetaPolicy):
    """Descends the surrogate after adaptation by a Keras optimizer, a few steps per meta-batch."""

    metrics = AscentMetrics

    def __init__(self, policy, *, optimizer, **options):
        super().__init__(policy, **options)
        self.optimizer = optimizer
        optimizer.build(self.variables)
        self._slope = tf.function(self._loss_and_gradient, autograph=False)

    def improve(self, rollouts):
        loss, gradient = self._slope(rollouts.batches)
        self.optimizer.apply(gradient, self.variables)
        return {"surrogate": loss.numpy()}

    def _loss_and_gradient(self, batches):
        values = self.inner.values()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = tf.reduce_mean(surrogate(self.adapted_policy(values, batches), batches[-1]))
        return loss, tape.gradient(loss, values, unconnected_gradients="zero")


def make(seed=1, hidden=(16,), tasks=8, **options):
    return MetaGradient(
        GaussianPolicy(2, 2, hidden, seed),
        optimizer=keras.optimizers.Adam(0.02),
        **{"meta_batch_size": tasks, "step_size": 0.1, **options},
    )


@pytest.mark.parametrize("inner_steps", [0, 1])
@pytest.mark.cases(1)
def test_a_second_meta_optimizer_learns_2d_navigation(inner_steps, tmp_path):
    pytest.importorskip("gymnasium", reason="needs the extra rl")
    sampler = maml_tf.rl.Sampler("navigation_2d", tasks=8, episodes=10, horizon=20)
    learner = make(inner_steps=inner_steps)
    options = {"num_tasks": 16, "steps": 1, "step_size": 0.1}
    before = maml_tf.evaluate(learner, sampler, **options)
    result = maml_tf.train(
        learner,
        sampler,
        iterations=20,
        logdir=tmp_path,
        log_every=5,
        save_every=10,
        validation=sampler,
        validate_every=10,
        validation_tasks=8,
        validation_steps=1,
        progress=False,
    )
    after = maml_tf.evaluate(learner, sampler, **options)
    assert result.iteration == 20
    assert after.mean[1] > before.mean[1] + 0.1 * abs(before.mean[1])
    tags = [
        value.tag
        for path in tmp_path.glob("events.*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    for name in ("surrogate", "after_step_0_return", f"after_step_{inner_steps}_return"):
        assert f"train/{name}" in tags
    assert tags.count("validation/after_step_1_return") == 2


SAMPLER = PointSampler(tasks=8, episodes=5, horizon=10)


@pytest.mark.parametrize("kind", [slow(True), slow("layer"), "layer_and_step"])
@pytest.mark.slow
def test_its_run_resumes_bit_for_bit_with_its_optimizer(kind, tmp_path):
    def run(directory, iterations):
        learner = make(learn_step_size=kind)
        maml_tf.train(
            learner, SAMPLER, iterations=iterations, logdir=directory, save_every=2, progress=False
        )
        return learner

    straight = run(tmp_path / "straight", 4)
    run(tmp_path / "resumed", 2)
    resumed = run(tmp_path / "resumed", 4)
    both = zip(straight.variables, resumed.variables, strict=True)
    for one, other in both:
        np.testing.assert_array_equal(one, other)
    assert int(resumed.optimizer.iterations) == 4
    # 8 tasks x 5 episodes x 10 steps, before and after a gradient step, four times
    assert int(resumed.counters["environment_steps"].value) == 8 * 5 * 10 * 2 * 4


@pytest.mark.slow
def test_it_is_tuned_saved_and_exported_as_any_learner(tmp_path):
    learner, again = make(), make(seed=2)
    tuning = maml_tf.tune_step_size(
        learner, SAMPLER, step_sizes=(0.05, 0.1, 0.5), num_tasks=8, steps=1
    )
    assert tuning.step_size in (0.05, 0.1, 0.5)
    learner.save(tmp_path / "it.weights.h5")
    again.load(tmp_path / "it.weights.h5")
    maml_tf.export(again, tmp_path / "it", steps=2)
    model = maml_tf.load_export(tmp_path / "it")
    observations = np.zeros((3, 2), np.float32)
    expected, _ = learner.policy(learner.inner.initial_weights(), tf.constant(observations)[None])
    np.testing.assert_allclose(model.act(observations)["means"], expected[0], rtol=1e-6)


def test_without_an_outer_step_nothing_is_learned():
    bare = MetaPolicy(GaussianPolicy(2, 2, (4,)), meta_batch_size=8)
    with pytest.raises(NotImplementedError):
        bare.meta_steps(SAMPLER, 0, 1)
    assert np.all(np.isfinite(bare.evaluator(SAMPLER, num_tasks=8, steps=1)().mean))


@pytest.mark.parametrize("declared", [slow(True), False])
def test_a_sampler_of_another_number_of_tasks_is_refused(declared):
    class Other:
        """A sampler of one's own, which may not say how many tasks it draws."""

        sample_tasks, sample = SAMPLER.sample_tasks, SAMPLER.sample

    other = Other()
    if declared:
        other.tasks = SAMPLER.tasks
    with pytest.raises(ValueError, match=r"draws 8 tasks .* meta_batch_size=4; give both"):
        make(tasks=4).meta_steps(other, 0, 1)
    assert make(tasks=8).meta_steps(other, 0, 1).returns.shape == (1, 2)
    assert make(tasks=4).evaluator(other, num_tasks=8, steps=0)().num_tasks == 8


@pytest.mark.parametrize(
    "callback",
    [keras.callbacks.ReduceLROnPlateau(), keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)],
)
def test_a_callback_of_learning_rates_is_refused_where_there_is_none(callback):
    learner = MetaTRPO(GaussianPolicy(2, 2, (4,)), meta_batch_size=2)
    options = {"iterations": 1, "callbacks": [callback], "progress": False}
    with pytest.raises(ValueError, match="MetaTRPO has no optimizer with one; leave it out"):
        maml_tf.train(learner, PointSampler(tasks=2), **options)


@pytest.mark.parametrize("kind", [MetaProMP, slow(MetaTRPO)])
def test_a_learner_that_is_let_go_leaves_no_graph_behind(kind):
    def use():
        learner = kind(GaussianPolicy(2, 2, (8,)), meta_batch_size=2, step_size=0.1)
        tasks = PointSampler(tasks=2, episodes=3, horizon=4)
        maml_tf.train(learner, tasks, iterations=2, progress=False)
        maml_tf.evaluate(learner, tasks, num_tasks=2, progress=False)

    assert left_behind(use) == (0, 0)
