"""A data set of one's own: random polygons, 20 noisy drawings of each.

    maml-tf train --flagfile=examples/custom_dataset/shapes.flags
    maml-tf evaluate --flagfile=examples/custom_dataset/shapes.flags --split=test

This module is all that the command line needs: `PROBLEM` says how the data set is called, how large
an image is, and where its episodes come from. A module inside maml_tf/experiments/problems/ would
be the same, and is then called by its name alone.
"""

import numpy as np
from PIL import Image, ImageDraw

from maml_tf.experiments.image_problem import image_problem

SIZE = 28
CLASSES = {"train": 60, "val": 20, "test": 20}
DRAWINGS = 20


def draw(corners: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Draws a polygon with its corners moved a little, `[SIZE, SIZE, 1]` uint8."""
    moved = corners + chance.normal(0.0, 1.0, corners.shape)
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).polygon([tuple(corner) for corner in moved], fill=255)
    return np.asarray(image)[..., None]


def images(split: str) -> np.ndarray:
    """All drawings of one split, whose classes are its own: `[classes, 20, SIZE, SIZE, 1]`."""
    chance = np.random.default_rng([sum(map(ord, split))])
    shapes = chance.uniform(3, SIZE - 3, (CLASSES[split], 4, 2))
    return np.stack([[draw(corners, chance) for _ in range(DRAWINGS)] for corners in shapes])


def episodes(data_dir, split, *, ways, shots, queries, seed, download):
    """Tasks of `split`; a data set of files would look for them in `data_dir`."""
    from maml_tf.tasks import Episodes  # not before it is needed: TensorFlow takes seconds

    del data_dir, download
    return Episodes(images(split), ways, shots, queries, seed=seed, split=split, scale=1 / 255)


PROBLEM = image_problem("shapes", "Shapes", shape=(SIZE, SIZE, 1), episodes=episodes)
