"""The vocabulary of the package.

Shape letters, used everywhere:

    T  tasks                 N  ways (classes of a task)
    B  examples in a set     K  shots (support examples per class)
    S  inner gradient steps  H  horizon of an episode
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:  # So that result files are read without TensorFlow.
    import keras
    import numpy as np
    import tensorflow as tf

Weights: TypeAlias = "list[tf.Tensor]"
"""Values in the order of `model.trainable_variables`.

A weight is *shared* by all tasks (`[*shape]`) or *stacked* (`[T, *shape]`).
"""

ApplyFn: TypeAlias = "Callable[[Weights, tf.Tensor], tf.Tensor]"
"""`(weights, x [T, B, ...]) -> outputs [T, B, ...]`."""


Structure: TypeAlias = "tf.Tensor | np.ndarray | Sequence[Structure] | Mapping[str, Structure]"
"""A tensor, or a tuple, list or dictionary of such, nested as `tf.nest` takes it."""


Specs: TypeAlias = "tf.TensorSpec | Sequence[Specs] | Mapping[str, Specs]"
"""Shapes and types of a `Structure`."""


class Batch(NamedTuple):
    """Examples and what they should become, of a stack of tasks.

    `x` and `y` are a tensor or array each, or a `Structure` of several. What is not given is an
    empty structure, so that `tf.nest` passes over it.
    """

    x: Any  # [T, B, ...]
    y: Any  # [T, B] class indices, or [T, B, ...] regression targets
    sample_weight: Structure = ()  # [T, B] float: factor of each example's loss, as in Keras
    mask: Structure = ()  # [T, B] bool: False where a set is padded; such an example does not exist


class Task(NamedTuple):
    """A stack of tasks: adapt on `support`, be judged on `query`."""

    support: Batch
    query: Batch


LossFn: TypeAlias = "Callable[[Weights, Any], tf.Tensor]"
"""`(weights, batch) -> [T]`, one number per task; the batch is a `Batch` or a `PolicyBatch`."""

OutputLoss: TypeAlias = "Callable[[tf.Tensor, tf.Tensor], tf.Tensor]"
"""`(outputs [T, B, ...], y [T, B, ...]) -> [T]`, one number per task."""


class TaskSource(Protocol):
    """Where tasks come from, in TensorFlow; `sources.prepare` says what else is taken.

    Meta-batch `index` is a pure function of the source's own (seed, split) and `index`: nothing
    random depends on what was drawn before, so training can stop and resume anywhere. It is called
    while a `tf.function` is traced: use TensorFlow operations with static shapes, and draw by
    `maml_tf.seeds.uniform`, for `tf.random` draws other floats under XLA. A function that
    draws with NumPy or Python is found out, and called at every meta-step with a Python integer.
    """

    def __call__(self, index: tf.Tensor, num_tasks: int) -> Task:
        """Draws meta-batch `index` (int64 scalar) of `num_tasks` tasks."""
        ...


class Metrics(Protocol):
    """What some meta-steps saw: a NamedTuple of arrays with a leading axis `[count]`."""

    @property
    def _fields(self) -> tuple[str, ...]: ...

    def __iter__(self) -> Iterator[np.ndarray]:
        """The fields."""
        ...

    def progress(self, metric: str) -> str:
        """A few words for the progress bar; `metric` is the learner's."""
        ...


class Estimate(NamedTuple):
    """A metric after 0, 1, ... S gradient steps, over held-out tasks."""

    mean: np.ndarray  # [S + 1]
    std: np.ndarray  # [S + 1], over tasks
    ci95: np.ndarray  # [S + 1], half-width 1.96 * std / sqrt(num_tasks)
    num_tasks: int


class Evaluator(Protocol):
    """Measures a learner's present weights on held-out tasks, the same ones at every call.

    `step_size` may be assigned between two calls, as tuning does; another number does not compile
    again.
    """

    steps: int  # S of the estimate
    step_size: float | None  # alpha; None: the learner's own

    def __call__(self, *, progress: bool = False) -> Estimate:
        """Returns the metric after 0, 1, ... S gradient steps; may show a progress bar."""
        ...


class Servable(NamedTuple):
    """What `export` writes as a SavedModel: a learner for one task, without Keras or this package.

    Made inside `saving.saved_models.tracing_to_save()`, as `export` does.
    """

    module: tf.Module  # variables, and compiled functions as attributes
    signatures: Mapping[str, Callable]
    description: Mapping[str, Any]  # what JSON can hold, for `maml_tf.json`


class Programs(NamedTuple):
    """What `export` writes as StableHLO: a learner's functions, for JAX without TensorFlow."""

    functions: Mapping[str, bytes]  # serialized `jax.export.Exported`s, by name
    variables: Mapping[str, np.ndarray]  # that each of them takes
    description: Mapping[str, Any]  # what JSON can hold, for `maml_tf.json`


TasksT_contra = TypeVar("TasksT_contra", contravariant=True)


class Learner(Protocol[TasksT_contra]):
    """What supervised learners and policies both are; `TasksT_contra` is where its tasks come from.

    `train`, `evaluate`, `tune_step_size`, `export` and checkpoints know nothing else. A learner may
    also have `model`, its Keras model, which callbacks are given; `counters`, variables by name
    that checkpoints keep and that change nothing that is learned; `strategy`, in whose scope it was
    made; `finalize()`, called when a training is finished; and `averaged()`, a context in which it
    is measured, with the weights that `finalize` would leave in it.
    """

    metric_name: str
    remedy: str  # a sentence: what to change when a metric is no longer finite
    meta_batch_size: int  # T
    inner_steps: int  # S

    @property
    def lower_is_better(self) -> bool | None:
        """Of the metric; None where it is not known."""
        ...

    @property
    def optimizer(self) -> keras.optimizers.Optimizer | None:
        """What else a checkpoint must remember."""
        ...

    @property
    def state(self) -> list[keras.Variable]:
        """All that a checkpoint must hold, the optimizer's own apart; in a fixed order."""
        ...

    @property
    def variables(self) -> list[keras.Variable]:
        """What the meta-step moves."""
        ...

    def check_tasks(self, tasks: TasksT_contra) -> None:
        """Refuses what is no source of this learner's tasks; draws nothing.

        Raises:
          ValueError: says what to give.
        """
        ...

    def meta_steps(self, tasks: TasksT_contra, start: int, count: int) -> Metrics:
        """Runs meta-steps `start` ... `start + count - 1`, and returns their `Metrics`."""
        ...

    def evaluator(self, tasks: TasksT_contra, **options: Any) -> Evaluator:
        """What measures this learner on held-out tasks.

        Args:
          tasks: as for `meta_steps`; meta-batches 0, 1, ... are met.
          **options: every learner takes `num_tasks`, `steps` and `step_size=None`, the learner's
            own; some take more.

        Raises:
          ValueError: an option is out of range, or `tasks` is no source of tasks.
        """
        ...

    def servable(self, **options: Any) -> Servable:
        """What `export` writes, with the weights as they are now.

        Args:
          **options: every learner takes `steps` and `step_size`, defaults of the exported model;
            some take more.

        Raises:
          ValueError: an option is out of range.
        """
        ...


class Trajectories(NamedTuple):
    """Episodes of a stack of tasks, in lockstep; `mask` is 0 after an episode has ended."""

    observations: np.ndarray  # [T, E, H, O] float32, before each action
    actions: np.ndarray  # [T, E, H, A] float32, as the policy drew them (not clipped); or choices
    rewards: np.ndarray  # [T, E, H] float32
    mask: np.ndarray  # [T, E, H] float32: 1 where the step was taken
    outputs: (
        np.ndarray
    )  # [T, E, H, N] float32, the policy's network's: a Gaussian's means, or logits
    log_stds: np.ndarray  # [T, A] float32: of the policy's Gaussian; [T, 0] of choices

    def part(self, tasks: slice) -> Trajectories:
        """Those of some of the tasks, as views."""
        return Trajectories(*(array[tasks] for array in self))
