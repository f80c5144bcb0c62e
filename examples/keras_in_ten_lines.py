"""Meta-learns a classifier of images on a pretrained backbone, from folders of images.

    python examples/keras_in_ten_lines.py FOLDER

FOLDER/train and FOLDER/test hold a folder of images for each class, as
`keras.utils.image_dataset_from_directory` reads them; the classes of the two differ. Afterwards
FOLDER/exported learns kinds of images that it has never seen, from two examples of each, on
TensorFlow alone.

The backbone's weights are random here, so that nothing is downloaded: `weights="imagenet"` and
larger images make it useful.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import maml_tf

SIZE, WAYS, SHOTS = (32, 32), 3, 2


def classifier():
    """A frozen backbone that stays in inference mode, dropout, and a head."""
    base = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(*SIZE, 3), pooling="avg"
    )
    base.trainable = False
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Dropout(0.2)(base(x, training=False))
    return keras.Model(inputs, keras.layers.Dense(WAYS)(x))


def images_of(folder):
    """All images `[n, 32, 32, 3]` in 0 ... 255 and their labels `[n]`, as Keras reads them."""
    data = keras.utils.image_dataset_from_directory(folder, image_size=SIZE, shuffle=False)
    return (np.concatenate(part) for part in zip(*data.as_numpy_iterator(), strict=True))


def episodes(folder):
    """Tasks: any three of the classes, two examples of each to learn from and two to be judged."""
    images, labels = images_of(folder)
    return maml_tf.tasks.Episodes(images, WAYS, SHOTS, labels=labels)


def main(folder, iterations=20):
    """Trains, evaluates, adapts to new classes, and exports."""
    learner = maml_tf.MetaLearner(
        classifier(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metric="accuracy",
        optimizer="adam",
        step_size=0.05,
        inner_steps=3,
        meta_batch_size=4,
    )
    maml_tf.train(learner, episodes(folder / "train"), iterations=iterations)
    estimate = maml_tf.evaluate(learner, episodes(folder / "test"), num_tasks=20, steps=3)
    print(f"accuracy on new classes: {estimate.mean[0]:.2f} -> {estimate.mean[-1]:.2f}")

    images, labels = images_of(folder / "test")
    mine = labels < WAYS
    adapted = learner.adapt(images[mine], labels[mine])
    print("classes seen in the same images:", adapted.predict(images[mine]).argmax(-1))

    maml_tf.export(learner, folder / "exported")
    return estimate, adapted


if __name__ == "__main__":
    main(Path(sys.argv[1]))
