"""Ensembles, beside the mean that a reader makes of what the single members predict."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import randomize, slow
from keras import layers, models

from maml_tf import Batch, MetaLearner, Task, evaluate, losses, train, tune_step_size
from maml_tf.experiments.settings import make
from maml_tf.networks import dense_network
from maml_tf.supervised.ensemble import Ensemble
from maml_tf.supervised.evaluation import DRAW, predictions_while_adapting
from maml_tf.tasks import Sinusoid
from maml_tf.training.checkpoints import Checkpoints
from maml_tf.types import Estimate

STEPS = 2


def state(learner):
    return [np.array(np.asarray(variable)) for variable in learner.state]


def put(learner, member):
    for variable, value in zip(learner.state, member, strict=True):
        variable.assign(value)


def members_of(learner, number=3):
    kept, made = state(learner), []
    for seed in range(number):
        randomize(learner.model, 0.5 + 0.3 * seed)
        made.append([value * (1 + 0.2 * seed) for value in state(learner)])
    put(learner, kept)
    return made


def clusters(index, num_tasks):
    """Tasks of three classes around centres that lie apart."""
    seed = tf.stack([tf.cast(index, tf.int32), 7])
    centres = tf.random.stateless_normal([num_tasks, 1, 3, 2], seed)
    x = centres + 0.8 * tf.random.stateless_normal([num_tasks, 8, 3, 2], seed + 1)
    x = tf.reshape(x, [num_tasks, 24, 2])
    y = tf.tile(tf.constant([[0, 1, 2] * 8]), [num_tasks, 1])
    return Task(Batch(x[:, :12], y[:, :12]), Batch(x[:, 12:], y[:, 12:]))


def classifier(loss=losses.cross_entropy, activation=None, **options):
    model = models.Sequential(
        [layers.Input([2]), layers.Dense(8, "tanh"), layers.Dense(3, activation)]
    )
    return MetaLearner(randomize(model, 0.5), loss, step_size=0.3, meta_batch_size=4, **options)


def predicted(learner, member, task):
    """`[S + 1, T, Q, ...]`."""
    kept = state(learner)
    put(learner, member)
    seen = predictions_while_adapting(learner, task.support, task.query.x, STEPS)
    put(learner, kept)
    return seen


def softmax(logits):
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


@pytest.mark.parametrize("loss", [losses.cross_entropy, "sparse_categorical_crossentropy"])
def test_probabilities_of_classes_are_averaged(loss):
    logits = loss is losses.cross_entropy
    learner = classifier(loss, None if logits else "softmax", metric="accuracy")
    members, before = members_of(learner), state(learner)
    task = clusters(tf.constant(0, tf.int64), DRAW)
    each = [predicted(learner, member, task) for member in members]
    mean = np.mean([softmax(one) if logits else one for one in each], 0)
    expected = (mean.argmax(-1) == np.asarray(task.query.y)).mean((1, 2))
    options = {"num_tasks": DRAW, "steps": STEPS}
    estimate = evaluate(Ensemble(learner, members), clusters, **options)
    np.testing.assert_allclose(estimate.mean, expected, rtol=1e-6)
    of_logits = (np.mean(each, 0).argmax(-1) == np.asarray(task.query.y)).mean((1, 2))
    assert not logits or not np.allclose(of_logits, expected)  # another mean
    for one, other in zip(state(learner), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_loss_of_logits_is_that_of_the_mean_probability():
    learner = classifier(metric=losses.cross_entropy)
    members = members_of(learner)
    task = clusters(tf.constant(0, tf.int64), DRAW)
    mean = np.mean([softmax(predicted(learner, member, task)) for member in members], 0)
    right = np.take_along_axis(mean, np.asarray(task.query.y)[None, ..., None], -1)
    estimate = evaluate(Ensemble(learner, members), clusters, num_tasks=DRAW, steps=STEPS)
    np.testing.assert_allclose(estimate.mean, -np.log(right).mean((1, 2, 3)), rtol=1e-5)


def test_of_a_binary_loss_too():
    model = models.Sequential([layers.Input([2]), layers.Dense(4, "tanh"), layers.Dense(1)])
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    learner = MetaLearner(randomize(model), loss, meta_batch_size=4)

    def binary(index, num_tasks):
        task = clusters(index, num_tasks)
        return Task(*[Batch(b.x, tf.cast(b.y[..., None] > 0, tf.float32)) for b in task])

    members, task = members_of(learner), binary(tf.constant(0, tf.int64), DRAW)
    mean = np.mean([1 / (1 + np.exp(-predicted(learner, m, task))) for m in members], 0)
    y = np.asarray(task.query.y)
    expected = -(y * np.log(mean) + (1 - y) * np.log(1 - mean)).mean((1, 2, 3))
    estimate = evaluate(Ensemble(learner, members), binary, num_tasks=DRAW, steps=STEPS)
    np.testing.assert_allclose(estimate.mean, expected, rtol=1e-5)


TASKS, HELD_OUT = Sinusoid(shots=5), Sinusoid(shots=5, split="val")


def regressor(**options):
    model = dense_network(1, 1, (6,), seed=1)
    return MetaLearner(model, losses.mean_squared_error, meta_batch_size=4, **options)


@pytest.mark.slow
def test_means_are_averaged_and_tuning_tunes_the_ensemble():
    learner = regressor()
    members = members_of(learner)
    task = HELD_OUT(tf.constant(0, tf.int64), DRAW)
    mean = np.mean([predicted(learner, member, task) for member in members], 0)
    expected = ((mean - np.asarray(task.query.y)) ** 2).mean((1, 2, 3))
    ensemble, options = Ensemble(learner, members), {"num_tasks": DRAW, "steps": STEPS}
    np.testing.assert_allclose(evaluate(ensemble, HELD_OUT, **options).mean, expected, rtol=1e-5)
    tuning = tune_step_size(ensemble, HELD_OUT, step_sizes=(0.001, 0.01), **options)
    np.testing.assert_allclose(tuning.scores[1], expected[-1], rtol=1e-5)
    alone = evaluate(Ensemble(learner, members[:1]), HELD_OUT, **options)
    put(learner, members[0])
    np.testing.assert_allclose(alone.mean, evaluate(learner, HELD_OUT, **options).mean, rtol=1e-5)


def test_what_is_no_ensemble():
    learner = regressor()
    for members in ([], [state(learner)[:1]]):
        with pytest.raises(ValueError, match="Give members, each with an array for each"):
            Ensemble(learner, members)
    with pytest.raises(ValueError, match="evaluation of an ensemble has no option split"):
        evaluate(Ensemble(learner, [state(learner)]), HELD_OUT, split="val")


# --- the checkpoints that are kept, and the end of a training that gets no better ---


class Scripted:
    """An evaluator that gives the scores it is told, by the number of meta-steps."""

    steps, step_size = 1, None

    def __init__(self, learner, scores):
        self.learner, self.scores = learner, scores

    def __call__(self, *, progress=False):
        score = self.scores[int(np.asarray(self.learner.optimizer.iterations)) - 1]
        return Estimate(np.full(2, score), np.zeros(2), np.zeros(2), 1)


def trained(directory, scores, iterations=None, **options):
    learner = regressor()
    options = {"validate_every": 1, "save_every": 3, "progress": False} | options
    result = train(
        learner,
        TASKS,
        iterations=len(scores) if iterations is None else iterations,
        logdir=directory,
        validation=Scripted(learner, scores),
        **options,
    )
    return result, Checkpoints(directory / "checkpoints", regressor()) if directory else None


SCORES = [5.0, 3.0, 4.0, float("nan"), 3.0, 6.0, 2.0, 3.5]  # errors, at iterations 1, 2, ...


@pytest.mark.parametrize(
    ("number", "kept"),
    [slow(1, [7]), slow(2, [7, 2]), (4, [7, 2, 5, 8]), slow(9, [7, 2, 5, 8, 3, 1, 6])],
)
def test_the_best_few_are_kept(number, kept, tmp_path):
    result, checkpoints = trained(tmp_path, SCORES, keep_best=number)
    assert checkpoints.ranked() == kept and result.best_score == 2.0
    for place, iteration in enumerate(kept):
        assert checkpoints.restore_best(place) and int(checkpoints.iteration) == iteration
    assert checkpoints.restore_best() and int(checkpoints.iteration) == 7


@pytest.mark.slow
def test_a_run_that_is_cut_off_keeps_the_same(tmp_path):
    trained(tmp_path, SCORES, iterations=4, keep_best=3)
    result, checkpoints = trained(tmp_path, SCORES, keep_best=3)
    assert checkpoints.ranked() == [7, 2, 5] and result.best_score == 2.0
    _, fewer = trained(tmp_path, [*SCORES, 1.0], keep_best=1)
    assert fewer.ranked() == [9]


@pytest.mark.slow
def test_a_training_ends_that_gets_no_better(tmp_path, caplog):
    caplog.set_level("INFO", "maml_tf")
    result, checkpoints = trained(tmp_path, SCORES, stop_after=3)
    assert (result.iteration, result.interrupted, result.best_score) == (5, False, 3.0)
    assert checkpoints.available()[-1] == 5
    said = "Ended after iteration 5: 3 validations in a row without a better score than 3."
    assert [m for m in caplog.messages if "Ended" in m] == [said]
    caplog.clear()
    again, _ = trained(tmp_path, SCORES, stop_after=3)  # has nothing to do
    assert again.iteration == 5 and said in caplog.messages
    longer, _ = trained(tmp_path, SCORES, stop_after=4)  # 6 is the fourth
    assert longer.iteration == 6
    whole, _ = trained(tmp_path, SCORES)
    assert whole.iteration == 8 and whole.best_score == 2.0


@pytest.mark.parametrize("cut", [slow(2), 3, slow(4)])
@pytest.mark.slow
def test_the_count_survives_a_resume(cut, tmp_path):
    trained(tmp_path, SCORES, iterations=cut, stop_after=3)
    assert trained(tmp_path, SCORES, stop_after=3)[0].iteration == 5


def test_it_needs_no_directory_but_validations():
    assert trained(None, SCORES, stop_after=3)[0].iteration == 5
    assert trained(None, SCORES, stop_after=5)[0].iteration == 8
    with pytest.raises(ValueError, match="stop_after=2 needs validation tasks"):
        train(regressor(), TASKS, iterations=1, stop_after=2)
    for options in ({"stop_after": -1}, {"keep_best": 0}, {"keep_best": 1.5}):
        with pytest.raises(ValueError, match="must be"):
            train(regressor(), TASKS, iterations=1, **options)


def test_checkpoints_of_earlier_versions_have_no_score_of_their_own(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        made = Checkpoints.__init__

        def earlier(self, *args, **kwargs):
            made(self, *args, **kwargs)
            self._all = tf.train.Checkpoint(
                **{n: getattr(self._all, n) for n in ("weights", "optimizer", "iteration")},
                best_score=self.best_score,
            )

        patch.setattr(Checkpoints, "__init__", earlier)
        trained(tmp_path, SCORES[:3])
    result, checkpoints = trained(tmp_path, SCORES[:5], keep_best=3)
    assert checkpoints.ranked() == [2, 5] and result.best_score == 3.0


def test_what_has_no_ensemble():
    for given in ({"method": "random"}, {"problem": "omniglot", "method": "nearest_neighbour"}):
        with pytest.raises(ValueError, match="has no predictions to average; drop --ensemble"):
            make({"ensemble": 5, **given})
    with pytest.raises(ValueError, match="--ensemble is for --problem=sinusoid"):
        make({"ensemble": 5, "problem": "cheetah_velocity"})
