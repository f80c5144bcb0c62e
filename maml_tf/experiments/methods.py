"""How initial weights are learned: MAML, and what the paper compares it with.

Finn, Abbeel & Levine 2017, sections 5.1 to 5.3 and appendix C. A new method is a record here, and
its learner in `supervised/` if it is not a `MetaLearner` with other settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maml_tf.experiments.records import FIXED_TASKS, ORACLE, Kind, Method

if TYPE_CHECKING:
    import keras

    from maml_tf.experiments.settings import Settings
    from maml_tf.types import Learner

_MULTITASK = "averages regressors of sinusoids"


def _multitask(pull: str):
    def learner(model: keras.Model, settings: Settings, shared: dict[str, Any]) -> Learner:
        from maml_tf import losses
        from maml_tf.supervised.baselines import MultitaskLearner

        penalty = settings.training.l2 or 0.0
        return MultitaskLearner(
            model, losses.mean_squared_error, penalty=penalty, pull=pull, **shared
        )

    return learner


def _multitask_method(name: str, title: str, penalty: float, pull: str) -> Method:
    return Method(
        name=name,
        title=title,
        kinds=frozenset({Kind.REGRESSION}),
        needs=FIXED_TASKS,
        reason=_MULTITASK,
        tunes_step_size=True,
        fixed_tasks=True,
        penalty=penalty,
        one_device=True,
        learner=_multitask(pull),
    )


def _nearest_neighbour(model: keras.Model, settings: Settings, shared: dict[str, Any]) -> Learner:
    from maml_tf import losses
    from maml_tf.supervised.baselines import JointClassifier

    return JointClassifier(model, losses.cross_entropy, **shared)


_ALL = (
    Method(name="maml", title="MAML", inner_steps=True),
    Method(name="fomaml", title="MAML, first order", inner_steps=True, first_order=True),
    Method(name="context", title="context vector", inner_steps=True, adapts="context"),
    Method(
        name="pretrained",
        title="pretrained",
        tunes_step_size=True,
        all_classes=True,
        all_tasks=True,
    ),
    Method(
        name="nearest_neighbour",
        title="nearest neighbour",
        kinds=frozenset({Kind.CLASSIFICATION}),
        reason="compares images with a task's support images",
        adapts_at_test=False,
        all_classes=True,
        evaluates="pretrained",
        learner=_nearest_neighbour,
    ),
    Method(
        name="oracle",
        title="oracle",
        kinds=frozenset({Kind.REGRESSION, Kind.POLICY}),
        needs=ORACLE,
        reason="shows the network which task it is in",
        tunes_step_size=True,
        sees_task=True,
        all_tasks=True,
    ),
    Method(name="random", title="random initialisation", trained=False, tunes_step_size=True),
    _multitask_method("multitask", "multi-task, no regularisation", 0.0, "zero"),
    _multitask_method("multitask_l2", "multi-task, L2", 1e-3, "zero"),
    _multitask_method("multitask_mean", "multi-task, L2 towards the mean", 0.1, "mean"),
)

METHODS = {method.name: method for method in _ALL}
"""By the value of --method, in the order of the help text."""
