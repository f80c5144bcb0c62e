"""Model-Agnostic Meta-Learning on TensorFlow 2 and Keras 3 (Finn, Abbeel & Levine 2017)."""

from maml_tf import home  # noqa: F401  # isort: skip  before TensorFlow looks for one
from maml_tf import (  # noqa: F401  the rules register themselves
    convolution_rules,
    layer_rules,
    losses,
    networks,
    normalization_rules,
    operation_rules,
    sequence_rules,
    tasks,
)
from maml_tf._version import __version__
from maml_tf.adaptation import Adaptation, adapt, gradient_step, stack
from maml_tf.baselines import MultitaskLearner
from maml_tf.evaluation import evaluate, tune_step_size
from maml_tf.export import export
from maml_tf.functional import functional
from maml_tf.meta_learner import MetaLearner, MetaMetrics
from maml_tf.run import stacked
from maml_tf.saved_models import load_export
from maml_tf.training import TrainingResult, train
from maml_tf.types import ApplyFn, Batch, Estimate, LossFn, Task, TaskSource, Weights

__all__ = [
    "Adaptation",
    "ApplyFn",
    "Batch",
    "Estimate",
    "LossFn",
    "MetaLearner",
    "MetaMetrics",
    "MultitaskLearner",
    "Task",
    "TaskSource",
    "TrainingResult",
    "Weights",
    "__version__",
    "adapt",
    "evaluate",
    "export",
    "functional",
    "gradient_step",
    "layer_rules",
    "load_export",
    "losses",
    "networks",
    "stack",
    "stacked",
    "tasks",
    "train",
    "tune_step_size",
]
