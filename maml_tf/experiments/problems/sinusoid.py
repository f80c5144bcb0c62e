"""Regression on sine waves (paper section 5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maml_tf.experiments import supervised
from maml_tf.experiments.methods import METHODS
from maml_tf.experiments.records import FIXED_TASKS, ORACLE, Kind, Problem

if TYPE_CHECKING:
    import keras

    from maml_tf.experiments.settings import Settings, Training
    from maml_tf.types import TaskSource

ORDER = 0


def _network(training: Training, classes: int) -> keras.Model:
    from maml_tf import networks

    del classes
    return networks.dense_network(
        3 if training.oracle else 1,
        1,
        (40, 40),
        norm=training.norm,
        context=METHODS[training.method].adapts == "context",
        head_stddev=training.head_stddev,
        seed=training.seed,
    )


def _tasks(settings: Settings, split: str) -> TaskSource:
    from maml_tf.experiments.settings import query_shots
    from maml_tf.tasks import Sinusoid

    training = split == "train"
    shots = settings.training.shots if training else settings.evaluation.shots
    return Sinusoid(
        shots=shots,
        queries=query_shots(settings, shots),
        seed=settings.training.seed,
        split=split,
        oracle=settings.training.oracle,
        half=settings.evaluation.inputs == "half" and not training,
        fixed=settings.method.fixed_tasks and training,
    )


_NAMED_BY = frozenset({"ways", "loss_reduction", "filters", "conv", "max_pool"})
"""Nothing here looks at them, but runs of earlier versions were named by them."""

PROBLEM = Problem(
    name="sinusoid",
    title="sinusoid",
    kind=Kind.REGRESSION,
    reads=supervised.SHARED | {"oracle", "inputs", "l2"} | _NAMED_BY,
    experiment=lambda training: f"sinusoid_{training.shots}shot",
    offers=frozenset({ORACLE, FIXED_TASKS}),
    network=_network,
    tasks=_tasks,
    samples="samples",
)
