"""A learner that is let go leaves no graph behind, and no derivative in TensorFlow's table."""

import keras
import pytest
from helpers import left_behind, normal, slow
from keras import layers

import maml_tf

IMAGES = maml_tf.tasks.Episodes(normal(0, 4, 6, 6, 6, 1), ways=3, shots=1)


def classifier():
    convolution = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()]
    head = [layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(3)]
    return keras.Sequential([keras.Input((6, 6, 1)), *convolution, *head])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (maml_tf.MetaLearner, {"pieces": 2, "clip_norm": 10.0, "recompute": True}),
        slow(maml_tf.MetaLearner, {}),
        slow(maml_tf.Reptile, {}),
        slow(maml_tf.ImplicitMAML, {}),
    ],
)
def test_a_learner_that_was_trained_and_evaluated(kind, options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def use():
        learner = kind(classifier(), loss, meta_batch_size=2, inner_steps=2, **options)
        maml_tf.train(learner, IMAGES, iterations=2, progress=False)
        maml_tf.evaluate(learner, IMAGES, num_tasks=2, progress=False)

    assert left_behind(use) == (0, 0)
