"""Norms of the meta-gradient and of the update, and clipping by the norm."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import random_task
from keras.optimizers import SGD
from keras.optimizers import LossScaleOptimizer as LossScale

from maml_tf import MetaLearner, MultitaskLearner, losses, train
from maml_tf.engine.outer_step import PARTS, Norms, clipped_by_norm
from maml_tf.networks import dense_network
from maml_tf.tasks import ConstantTasks, Sinusoid

TASK = random_task(dense_network(2, 1), 2, 3)
SOURCE = ConstantTasks(TASK)


def learner_of(optimizer=None, model=None, **options):
    model = model or dense_network(2, 1, (4,), seed=3)
    options = {"step_size": 0.1, "meta_batch_size": 2, **options}
    optimizer = optimizer or SGD(0.5)
    return MetaLearner(model, losses.mean_squared_error, optimizer=optimizer, **options)


def norm(arrays):
    return np.sqrt(sum((np.asarray(a, np.float64) ** 2).sum() for a in arrays))


# --- clipping, by hand ---


def test_a_longer_gradient_is_shortened_and_a_shorter_one_is_not():
    gradient = [tf.constant([3.0, 0.0]), tf.constant([[4.0]])]  # of norm 5
    for bound, factor in ((1.0, 0.2), (2.5, 0.5), (5.0, 1.0), (6.0, 1.0)):
        clipped = clipped_by_norm(gradient, bound)
        np.testing.assert_allclose(clipped[0], [3 * factor, 0], rtol=1e-6)
        np.testing.assert_allclose(clipped[1], [[4 * factor]], rtol=1e-6)


def test_zero_stays_zero_and_what_is_not_finite_stays_so():
    np.testing.assert_array_equal(clipped_by_norm([tf.zeros([2])], 1.0)[0], [0, 0])
    for bad in (float("nan"), float("inf")):
        clipped = clipped_by_norm([tf.constant([bad]), tf.constant([1.0])], 1.0)
        assert not np.isfinite(clipped[0]).any()


def test_mixed_dtypes_keep_theirs_and_half_precision_does_not_overflow():
    gradient = [tf.constant([300.0], tf.float16), tf.constant([400.0], tf.float64)]
    clipped = clipped_by_norm(gradient, 5.0)
    assert [c.dtype for c in clipped] == [tf.float16, tf.float64]
    np.testing.assert_allclose(np.concatenate(clipped), [3.0, 4.0], rtol=1e-3)


def test_a_scale_is_not_part_of_the_norm():
    (clipped,) = clipped_by_norm([tf.constant([30.0, 40.0])], 2.5, scale=tf.constant(10.0))
    np.testing.assert_allclose(clipped, [15.0, 20.0], rtol=1e-6)  # 10 times (1.5, 2)


@pytest.mark.parametrize(
    "make", [lambda: SGD(0.5), lambda: LossScale(SGD(0.5), initial_scale=1024.0)]
)
@pytest.mark.parametrize("share", [0.25, 4.0])
@pytest.mark.cases(2)
def test_the_step_is_that_of_the_clipped_gradient(make, share):
    learner = learner_of(make())
    before = learner.model.get_weights()
    gradient = [g.numpy() for g in learner.meta_gradient(TASK)[0]]
    learner.clip_norm = bound = share * float(norm(gradient))
    metrics = learner.meta_steps(SOURCE, 0, 1)
    for was, now, g in zip(before, learner.model.get_weights(), gradient, strict=True):
        np.testing.assert_allclose(now, was - 0.5 * min(share, 1) * g, rtol=1e-4, atol=1e-6)
    # The gradient's norm is shown before it is clipped.
    np.testing.assert_allclose(metrics.gradient_norms[0, 0], norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(
        metrics.update_norms[0, 0], 0.5 * min(bound, norm(gradient)), rtol=1e-4
    )


def test_elements_are_clipped_before_the_norm():
    learner = learner_of(SGD(1.0), clip=0.02, clip_norm=0.03)
    before = learner.model.get_weights()
    elements = [np.clip(g, -0.02, 0.02) for g in learner.meta_gradient(TASK)[0]]
    assert norm(elements) > 0.03
    learner.meta_steps(SOURCE, 0, 1)
    for was, now, g in zip(before, learner.model.get_weights(), elements, strict=True):
        np.testing.assert_allclose(was - now, g * 0.03 / norm(elements), rtol=1e-3, atol=1e-6)


def test_a_scaled_gradient_that_is_not_finite_halves_the_scale():
    learner = learner_of(LossScale(SGD(0.05), initial_scale=16.0), clip_norm=0.1)
    learner.query_weight = 1e38
    before = learner.model.get_weights()
    metrics = learner.meta_steps(SOURCE, 0, 1)
    assert float(learner.optimizer.dynamic_scale) == 8 and not np.isfinite(metrics[3][0, 0])
    for was, now in zip(before, learner.model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    train(learner, SOURCE, iterations=2, progress=False)  # such a step does not end a training


# --- norms, compared with NumPy ---


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.cases(1)
def test_norms_of_gradient_and_update_by_part(jit_compile):
    learner = learner_of(learn_step_size=True, jit_compile=jit_compile)
    before = [np.array(v.value) for v in learner.variables]
    gradient = learner.meta_gradient(TASK)[0]
    metrics = learner.meta_steps(SOURCE, 0, 1)
    moved = [v.numpy() - b for v, b in zip(learner.variables, before, strict=True)]
    for got, arrays in ((metrics.gradient_norms, gradient), (metrics.update_norms, moved)):
        body, head, alpha = arrays[:2], arrays[2:4], arrays[4:]
        expected = [norm(arrays), norm(body), norm(head), norm(alpha)]
        np.testing.assert_allclose(got[0], expected, rtol=2e-4)
    assert PARTS == ("all", "body", "head", "step_sizes")


def test_without_a_layer_called_head_there_is_one_norm():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    metrics = learner_of(model=model).meta_steps(SOURCE, 0, 1)
    assert np.isfinite(metrics.gradient_norms[0, 0])
    assert np.isnan(metrics.gradient_norms[0, 1:]).all()


def test_wide_numbers_of_single_precision():
    norms = Norms(["body", "head"])([tf.constant([3e30], tf.float64), tf.constant([4e30])])
    np.testing.assert_allclose(norms[:3], [5e30, 3e30, 4e30], rtol=1e-6)


def test_norms_of_stacked_regressors():
    model = dense_network(1, 1, (4,), seed=3)
    learner = MultitaskLearner(model, losses.mean_squared_error, meta_batch_size=3)
    metrics = learner.meta_steps(Sinusoid(shots=4, fixed=True), 0, 2)
    total, body, head, alpha = metrics.gradient_norms[1].numpy()
    assert total**2 == pytest.approx(body**2 + head**2, rel=1e-5) and np.isnan(alpha)


def test_tensorboard_and_history_show_norms_and_callbacks_do_not(tmp_path):
    seen = {}
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.update(logs))
    options = {"progress": False, "log_every": 2, "logdir": tmp_path, "callbacks": [callback]}
    result = train(learner_of(), SOURCE, iterations=4, **options)
    points = {}
    for file in tmp_path.glob("events*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            points |= {(v.tag, event.step): v for v in event.summary.value}
    groups = ("meta_gradient/norm", "meta_update/norm")
    names = {f"{group}{part}" for group in groups for part in ("", "_body", "_head")}
    assert names == {tag for tag, _ in points if tag.startswith("meta_")}
    value = tf.make_ndarray(points["meta_gradient/norm_head", 4].tensor)
    np.testing.assert_allclose(value, result.history["gradient_norms"][2:, 2].mean(), rtol=1e-6)
    assert not [name for name in seen if "norm" in name]
