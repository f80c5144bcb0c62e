"""Model-Agnostic Meta-Learning on TensorFlow 2 and Keras 3."""

from maml_tf import layer_rules, losses, networks  # noqa: F401  (layer_rules registers the rules)
from maml_tf._version import __version__
from maml_tf.adaptation import Adaptation, adapt, gradient_step, stack
from maml_tf.functional import functional, stacked
from maml_tf.meta_learner import MetaLearner, MetaMetrics
from maml_tf.types import ApplyFn, Batch, Estimate, LossFn, Task, TaskSource, Weights
