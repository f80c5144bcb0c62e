"""The two records: all that is particular to one source of tasks, or to one way of learning.

Flags and their help, defaults, the learner, names of runs and results, legends and tables read the
fields of these; no other place asks which problem or which method it is.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maml_tf.ranges import Span

if TYPE_CHECKING:
    import keras

    from maml_tf.experiments.settings import Machine, Settings, Training
    from maml_tf.types import Learner, TaskSource

SettingValue = str | int | float | bool | Span | None


class Kind(enum.Enum):
    """What the tasks of a problem are."""

    REGRESSION = "regression"
    CLASSIFICATION = "classification"
    POLICY = "policy"


def _accept(training: Training) -> None:
    """Refuses nothing."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """All that is particular to one source of tasks."""

    name: str
    """Value of --problem."""
    title: str
    """How figures, tables and messages call it."""
    kind: Kind
    reads: frozenset[str]
    """Settings that it looks at, of those that not every problem does; others do not name its runs,
    and are refused if they are declared with `only`."""
    defaults: Mapping[str, SettingValue] = field(default_factory=dict)
    """Values of derived settings, where they are not those of the kind."""
    experiment: Callable[[Training], str]
    """From the settings to a short name of data and task, such as "sinusoid_10shot"."""
    check: Callable[[Training], None] = _accept
    """Raises ValueError for training settings that are impossible here."""
    offers: frozenset[str] = frozenset()
    """What some methods need: `ORACLE`, `FIXED_TASKS`."""
    network: Callable[[Training, int], keras.Model] | None = None
    """From the settings and the number of classes to a network, initialised by their seed. None for
    policies, whose environment says how large it is."""
    tasks: Callable[[Settings, str], TaskSource] | None = None
    """From the settings and a split, "train", "val" or "test", to a task source. None for
    policies."""
    data: str = ""
    """Whose data it is, and by what licence, in a sentence or two; empty where there is none."""
    samples: str | None = None
    """Kind of result for a picture of single tasks: "samples", "paths", or None."""
    require_data: Callable[[Machine], None] | None = None
    """Raises FileNotFoundError if the data set is not there; imports no TensorFlow."""
    prepared: Callable[[Machine], list[Path | None]] | None = None
    """Decodes a data set ahead of time; returns the file that keeps each split, None where nothing
    could be kept."""
    cache_folders: Callable[[Machine], list[Path]] | None = None
    """Folders that could keep what `prepared` decodes."""


ORACLE = "oracle"
"""The network can be shown which task it is in."""
FIXED_TASKS = "fixed tasks"
"""The training can be given the same few tasks again and again."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the initial weights are learned."""

    name: str
    """Value of --method."""
    title: str
    """How legends and tables call it."""
    kinds: frozenset[Kind] = frozenset(Kind)
    needs: str = ""
    """What a problem must offer, of `Problem.offers`."""
    reason: str = ""
    """Why it serves no other problems, for a message: "--method=NAME <reason>"."""
    reads: frozenset[str] = frozenset()
    """Settings that it looks at, of those that not every method does; others do not name its runs,
    and are refused."""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Settings that do not go with it, and why not, for a message: "--method=NAME <why>"."""
    inner_steps: bool = False
    """Whether it is trained with inner gradient steps."""
    trained: bool = True
    """Whether it is trained at all."""
    adapts_at_test: bool = True
    """Whether an evaluation takes gradient steps."""
    tunes_step_size: bool = False
    """Whether an evaluation chooses its own step size by default; policies never do."""
    adapts: str = "all"
    """What an inner step moves: "all" or "context"; `--adapt` may narrow "all"."""
    first_order: bool = False
    """Whether the inner gradient is held constant."""
    sees_task: bool = False
    """Whether the network is shown which task it is in."""
    all_classes: bool = False
    """Whether a classifier is trained on all classes at once, unless `classes` says otherwise."""
    all_tasks: bool = False
    """Whether a policy is trained over all tasks: each episode has its own."""
    fixed_tasks: bool = False
    """Whether the training meets the same few tasks again and again."""
    penalty: float | None = None
    """Default factor of its penalty; None: it has none."""
    one_device: bool = False
    evaluates: str | None = None
    """The method whose run it evaluates, if it has none of its own."""
    learner: Callable[[Any, Settings, dict[str, Any]], Learner[Any]] | None = None
    """From a network or a policy, settings, and the arguments that all learners of its kind share,
    to a learner; None: a `MetaLearner` or a `MetaTRPO`."""

    @property
    def meta_trained(self) -> bool:
        """Whether it is MAML of all weights, of whichever order."""
        return self.inner_steps and self.adapts == "all"
