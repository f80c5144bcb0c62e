"""How initial weights are learned: MAML, what the paper compares it with, and what came after.

Finn, Abbeel & Levine 2017, sections 5.1 to 5.3 and appendix C; Reptile (Nichol et al. 2018) and
iMAML (Rajeswaran et al. 2019). A new method is a record here, and its learner in `supervised/` if
it is not a `MetaLearner` with other settings.
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
        reads=frozenset({"l2"} if penalty else ()),
        one_device=True,
        learner=_multitask(pull),
    )


def _nearest_neighbour(model: keras.Model, settings: Settings, shared: dict[str, Any]) -> Learner:
    from maml_tf import losses
    from maml_tf.supervised.baselines import JointClassifier

    return JointClassifier(model, losses.cross_entropy, **shared)


def _reptile(model: keras.Model, settings: Settings, shared: dict[str, Any]) -> Learner:
    from maml_tf.experiments.supervised import meta_learning
    from maml_tf.supervised.reptile import Reptile

    given = meta_learning(settings) | {"query_weight": 1.0}  # which has nothing to weigh
    return Reptile(model, **given, **shared)


def _imaml(model: keras.Model, settings: Settings, shared: dict[str, Any]) -> Learner:
    from maml_tf.experiments.supervised import meta_learning
    from maml_tf.supervised.imaml import ImplicitMAML

    training = settings.training
    return ImplicitMAML(
        model,
        imaml_lambda=training.imaml_lambda,
        cg_steps=training.cg_steps,
        **meta_learning(settings),
        **shared,
    )


_SUPERVISED = frozenset({Kind.REGRESSION, Kind.CLASSIFICATION})
_NO_TRAJECTORIES = "adapts to one support set in all inner steps"

_ALL = (
    Method(name="maml", title="MAML", inner_steps=True),
    Method(
        name="fomaml",
        title="MAML, first order",
        inner_steps=True,
        first_order=True,
        refuses={"second_order_after": "has no second derivatives"},
    ),
    Method(
        name="reptile",
        title="Reptile",
        kinds=_SUPERVISED,
        reason=_NO_TRAJECTORIES,
        inner_steps=True,
        first_order=True,
        refuses={
            "learn_step_size": "learns no step sizes",
            "multi_step_loss": "learns from no query loss",
            "second_order_after": "has no second derivatives",
            "per_step_normalization": "learns only what its inner steps move",
            "head_initialization": "learns only what its inner steps move",
            "adapt": "learns only what its inner steps move",
        },
        learner=_reptile,
    ),
    Method(
        name="imaml",
        title="iMAML",
        kinds=_SUPERVISED,
        reason=_NO_TRAJECTORIES,
        inner_steps=True,
        reads=frozenset({"imaml_lambda", "cg_steps"}),
        refuses={
            "learn_step_size": "differentiates no inner step",
            "multi_step_loss": "differentiates no inner step",
            "second_order_after": "differentiates no inner step",
            "per_step_normalization": "adapts to one loss in all inner steps",
            "head_initialization": "differentiates where inner steps lead, not where they begin",
            "running_statistics": "notes nothing of its inner steps",
            "inner_optimizer": "takes plain gradient steps",
            "inner_momentum": "takes plain gradient steps",
            "inner_clip": "takes plain gradient steps",
        },
        learner=_imaml,
    ),
    Method(
        name="context",
        title="context vector",
        inner_steps=True,
        adapts="context",
        refuses={
            "adapt": "adapts the context vector alone",
            "head_initialization": "adapts the context vector alone",
        },
    ),
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

READS = frozenset().union(*(method.reads for method in _ALL))
"""What some of them look at."""
