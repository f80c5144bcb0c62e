"""Where tasks come from; each source is a `TaskSource`.

The sources are classes; what belongs to one data set is a function named after it.
"""

from maml_tf.tasks.constant import ConstantTasks
from maml_tf.tasks.episodes import Episodes
from maml_tf.tasks.images.miniimagenet import ImageSplit, miniimagenet_episodes, miniimagenet_images
from maml_tf.tasks.images.omniglot import omniglot_episodes, omniglot_images, omniglot_splits
from maml_tf.tasks.joint import JointBatches
from maml_tf.tasks.sinusoid import SineParameters, Sinusoid

__all__ = [
    "ConstantTasks",
    "Episodes",
    "ImageSplit",
    "JointBatches",
    "SineParameters",
    "Sinusoid",
    "miniimagenet_episodes",
    "miniimagenet_images",
    "omniglot_episodes",
    "omniglot_images",
    "omniglot_splits",
]
