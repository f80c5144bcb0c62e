"""Averages of the weights, beside the recursion in NumPy that makes them."""

import keras
import numpy as np
import pytest
from keras.optimizers import SGD, Adam, LossScaleOptimizer

from maml_tf import MetaLearner, MultitaskLearner, losses, train
from maml_tf.experiments.settings import make
from maml_tf.networks import dense_network
from maml_tf.tasks import Sinusoid
from maml_tf.training.checkpoints import Checkpoints
from maml_tf.types import Estimate

TASKS, HELD_OUT = Sinusoid(shots=5), Sinusoid(shots=5, split="val")
MOMENTUM = 0.6


def learner_of(average=True, optimizer=Adam, **options):
    made = optimizer(0.01, **({"use_ema": True, "ema_momentum": MOMENTUM} if average else {}))
    options = {"learn_step_size": "layer", "meta_batch_size": 4} | options
    model = dense_network(1, 1, (6,), seed=1)
    return MetaLearner(model, losses.mean_squared_error, optimizer=made, **options)


def learned(learner):
    return [np.array(np.asarray(v)) for v in learner.state]


def everything(learner):
    return [*learned(learner), *(np.array(np.asarray(v)) for v in learner.optimizer.variables)]


def recursion(path):
    """The average after each of some steps, which begins with the first's weights."""
    averages = [path[0]]
    for now in path[1:]:
        averages.append(
            [MOMENTUM * a + (1 - MOMENTUM) * w for a, w in zip(averages[-1], now, strict=True)]
        )
    return averages


@pytest.fixture(scope="module")
def by_hand():
    """The weights and step sizes after each of 8 meta-steps without averages, and the averages."""
    plain, path = learner_of(average=False), []
    for step in range(8):
        plain.meta_steps(TASKS, step, 1)
        path.append(learned(plain))
    return path, recursion(path)


def assert_close(ours, others):
    for one, other in zip(ours, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def assert_same(ours, others):
    for one, other in zip(ours, others, strict=True):
        np.testing.assert_array_equal(one, other)


class Spy:
    """An evaluator that notes what it is shown, and gives scores as it is told."""

    steps, step_size = 1, None

    def __init__(self, learner, scores):
        self.learner, self.scores, self.seen = learner, iter(scores), []

    def __call__(self, *, progress=False):
        self.seen.append(learned(self.learner))
        mean = np.full(2, next(self.scores))
        return Estimate(mean, np.zeros(2), np.zeros(2), 1)


def trained(learner, iterations, logdir=None, scores=(3.0, 1.0, 2.0, 4.0), **options):
    spy = Spy(learner, scores)
    options = {"validate_every": 2, "save_every": 2, "progress": False} | options
    train(learner, TASKS, iterations=iterations, logdir=logdir, validation=spy, **options)
    return spy


@pytest.mark.slow
def test_validations_see_the_averages_and_do_not_disturb(by_hand, tmp_path):
    path, averages = by_hand
    learner = learner_of()
    spy = trained(learner, 8, tmp_path)
    for seen, step in zip(spy.seen, (1, 3, 5, 7), strict=True):
        assert_close(seen, averages[step])
        assert max(np.abs(a - w).max() for a, w in zip(seen, path[step], strict=True)) > 1e-3
    assert_close(learned(learner), averages[7])  # what is left is the average
    kept = learner_of()
    Checkpoints(tmp_path / "checkpoints", kept).restore_latest()
    assert_close(learned(kept), path[7])  # and what is kept, the weights


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(tmp_path):
    straight, resumed = learner_of(), learner_of()
    trained(straight, 8, tmp_path / "straight")
    trained(learner_of(), 4, tmp_path / "resumed")
    trained(resumed, 8, tmp_path / "resumed", scores=(2.0, 4.0))
    assert_same(everything(resumed), everything(straight))


@pytest.mark.parametrize("directory", [True, False])
@pytest.mark.cases(1)
def test_the_best_weights_are_the_averages_that_validated_best(by_hand, directory, tmp_path):
    learner = learner_of()
    trained(learner, 8, tmp_path if directory else None, restore_best=True)
    assert_close(learned(learner), by_hand[1][3])  # of the second validation


def test_inside_averaged_there_are_averages_and_outside_the_weights(by_hand):
    learner = learner_of()
    fresh = learned(learner)
    with learner.averaged():  # there are none yet
        assert_same(learned(learner), fresh)
    learner.finalize()
    assert_same(learned(learner), fresh)
    learner.meta_steps(TASKS, 0, 8)
    before = everything(learner)
    with pytest.raises(KeyError), learner.averaged():
        assert_close(learned(learner), by_hand[1][7])
        raise KeyError
    assert_same(everything(learner), before)
    plain = learner_of(average=False)
    with plain.averaged():
        assert_same(learned(plain), fresh)


@pytest.mark.slow
def test_of_a_loss_scale_and_of_regressors():
    scaled = learner_of()
    scaled.optimizer = LossScaleOptimizer(Adam(0.01, use_ema=True, ema_momentum=MOMENTUM))
    scaled.meta_steps(TASKS, 0, 3)
    before = learned(scaled)
    with scaled.averaged():
        inside = learned(scaled)
    assert max(np.abs(a - b).max() for a, b in zip(inside, before, strict=True)) > 1e-4
    assert_same(learned(scaled), before)
    several = MultitaskLearner(
        dense_network(1, 1, (4,)),
        losses.mean_squared_error,
        meta_batch_size=3,
        optimizer=SGD(0.1, use_ema=True),
    )
    several.meta_steps(Sinusoid(shots=5, fixed=True), 0, 3)
    before = learned(several)
    with several.averaged():
        means = [np.mean(np.asarray(r), 0) for r in several.regressors]
        assert_close([np.asarray(v) for v in several.model.trainable_variables], means)
    assert_same(learned(several), before)


def test_a_callback_that_exchanges_them_too_is_refused():
    with pytest.raises(ValueError, match="SwapEMAWeights exchanges weights that train exchanges"):
        train(learner_of(), TASKS, iterations=1, callbacks=[keras.callbacks.SwapEMAWeights()])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"average": 0.0}, "--average must be above 0 to 0.99999"),
        ({"average": 1.0}, "--average must be above 0 to 0.99999"),
        (
            {"problem": "omniglot", "method": "pretrained"},
            "--method=pretrained gives its classifier of all classes a fresh head",
        ),
        (
            {"problem": "cheetah_velocity"},
            "--average is for --problem=sinusoid, .*; drop --average",
        ),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        make({"average": 0.9} | given)
