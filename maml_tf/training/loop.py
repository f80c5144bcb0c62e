"""The one training loop: restore, step, log, validate, save, stop.

It takes any `Learner`: supervised learning compiles the steps of one call of `meta_steps` into one
graph, reinforcement learning alternates between a simulator and graphs. Nothing random depends on
what happened before, so a run that was stopped or killed goes on to the same weights, bit for bit
on one CPU.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from maml_tf import arguments
from maml_tf.engine.strategies import refuse_several_workers
from maml_tf.estimates import direction
from maml_tf.sources.supplies import supply_of
from maml_tf.supervised.evaluation import Evaluator
from maml_tf.supervised.learner import MetaLearner
from maml_tf.system.files import Unwritable, refuse_pattern, user_path
from maml_tf.system.locks import run_lock
from maml_tf.system.progress import Bar
from maml_tf.system.signals import stop_signal
from maml_tf.training.history import History
from maml_tf.training.resuming import Memory, Store, open_run, tell_start
from maml_tf.training.summaries import Summaries, training_scalars
from maml_tf.types import Estimate, Learner, Metrics

_LOG = logging.getLogger(__name__)

_ABILITIES = ("meta_steps", "state", "variables", "metric_name")
"""What tells a learner from other things."""

CALL_SECONDS = 1.0
"""About how long one compiled call runs: the progress bar and a signal wait this long at most."""


class TrainingResult(NamedTuple):
    """How a training ended; two are equal if they ended alike, whatever was on the way."""

    iteration: int
    best_score: float  # nan without validation
    interrupted: bool
    history: dict[str, np.ndarray]  # of this call alone: `History.arrays`

    def __eq__(self, other: object) -> bool:
        """Compares all but the history."""
        return isinstance(other, TrainingResult) and self[:3] == other[:3]

    def __ne__(self, other: object) -> bool:
        """The contrary."""
        return not self == other


class Validation(Protocol):
    """Measures a learner's present weights on held-out tasks, always the same ones."""

    steps: int  # S of the estimate

    def __call__(self) -> Estimate:
        """Returns the metric after 0, 1, ... S gradient steps."""
        ...


class NonFiniteLoss(ValueError):
    """The loss or a weight stopped being a finite number."""


def train(
    learner: Learner,
    tasks: Any,
    *,
    iterations: int,
    logdir: str | Path | None = None,
    validation: Any = None,
    validation_tasks: int = 96,
    validation_steps: int = 10,
    best_after: int | None = None,
    restore_best: bool = False,
    log_every: int = 100,
    validate_every: int = 500,
    save_every: int = 1000,
    record: bool = True,
    description: str = "",
    progress: bool = True,
) -> TrainingResult:
    """Meta-trains, from the newest checkpoint in `logdir` if there is one.

    `logdir` belongs to one run: `learner.json` in it says what its learner is, and another one is
    refused. What changes nothing that is learned may change: iterations, validation, intervals.

    Args:
      learner: what to train; its weights are updated in place.
      tasks: meta-batch i of the training split: a `TaskSource`, or what else the learner takes. A
        `MetaLearner` takes functions, iterators, lists, `tf.data.Dataset` and
        `keras.utils.PyDataset` of tasks. A run that goes on asks functions, lists and PyDatasets
        for the meta-batches after those that it had; of iterators and data sets, begun anew, it
        draws and drops as many as it had.
      iterations: train until this many meta-steps are done, those counted that `logdir` knows of.
      logdir: the run's own directory: checkpoints and TensorBoard's event file go here. None writes
        nothing, and takes all `iterations` from the learner's present weights.
      validation: held-out tasks, like `tasks`, for a `MetaLearner`; a `Validation` for any other
        learner. The weights with the best score so far are kept apart.
      validation_tasks: how many tasks of a `TaskSource`.
      validation_steps: gradient steps of their adaptation curve.
      best_after: gradient steps after which the validation decides which weights are best; as many
        as the training takes by default, and no more than the curve has.
      restore_best: at the end, also of an interrupted training, put the weights that validated
        best into the learner; by default it keeps the last.
      log_every: meta-steps that are averaged into one point of TensorBoard.
      validate_every: meta-steps between two validations.
      save_every: meta-steps between two checkpoints.
      record: write checkpoints and event files; False is as without `logdir`.
      description: text for TensorBoard, such as the resolved flags.
      progress: show a progress bar.

    Returns:
      `TrainingResult`, with what was seen on the way as arrays. SIGINT and SIGTERM save, and
      return with `interrupted`.

    Raises:
      ValueError: bad arguments, a directory of another run or one in which another process trains,
        checkpoints that do not fit, or a strategy of several workers; before any work.
      NonFiniteLoss: names the iteration; the last good checkpoint stays as it is.
      OSError: something cannot be written, such as on a full disk; says what is kept.
    """
    arguments.learner(learner, _ABILITIES, "make one of a model: MetaLearner(model, loss)")
    iterations = arguments.count("iterations", iterations, 0)
    _check(log_every=log_every, validate_every=validate_every, save_every=save_every)
    _check(validation_tasks=validation_tasks)
    arguments.count("validation_steps", validation_steps, 0)
    if best_after is not None:
        arguments.count("best_after", best_after, 0)
    for name, value in ("restore_best", restore_best), ("record", record), ("progress", progress):
        arguments.boolean(name, value)
    directory = user_path(logdir, "logdir") if logdir is not None else None
    if not isinstance(description, str):
        raise ValueError(f"description must be text, not {arguments.shown(description)}.")
    _check_source(learner, tasks)
    refuse_several_workers(getattr(learner, "strategy", None))
    if restore_best and validation is None:
        raise ValueError("restore_best=True needs validation tasks to tell which weights are best.")
    if not record:
        directory = None
    if directory is not None:
        refuse_pattern(directory)
    lower_is_better = validation is not None and direction(learner)
    validation = _validation(learner, validation, validation_tasks, validation_steps)
    lock = contextlib.nullcontext() if directory is None else run_lock(directory)
    with contextlib.ExitStack() as held:
        held.enter_context(lock)
        store: Store = Memory(learner, keep_best=restore_best)
        start = 0
        if directory is not None:
            store, start = open_run(directory, learner, tasks)
            tell_start(start, iterations, directory)
        loop = _Loop(learner, tasks, start, iterations, log_every, progress)
        loop.store = store
        loop.summaries = Summaries(directory or "", disabled=directory is None)
        loop.evaluator, loop.lower_is_better = validation, lower_is_better
        loop.best_after = learner.inner_steps if best_after is None else best_after
        held.enter_context(contextlib.closing(loop))
        if start == 0:
            loop.summaries.text("flags", description)
        held.enter_context(logging_redirect_tqdm([logging.getLogger("maml_tf")]))
        stop = held.enter_context(stop_signal())
        with loop.saying_what_is_kept():
            interrupted = loop.run(stop, validate_every, save_every)
    result = TrainingResult(loop.iteration, loop.best_score, interrupted, loop.history.arrays())
    if restore_best and (math.isnan(result.best_score) or not store.restore_best()):
        _LOG.warning("Nothing was validated, so the learner keeps the last weights.")
    elif not interrupted and hasattr(learner, "finalize"):
        learner.finalize()  # checkpoints keep the weights themselves, to go on from
    return result


class _Loop:
    """The state of one training."""

    def __init__(self, learner, tasks, start: int, iterations: int, log_every: int, progress: bool):
        self.learner, self.tasks = learner, tasks
        self.iteration, self.iterations, self.log_every = start, iterations, log_every
        self.store: Store
        self.summaries: Summaries
        self.history = History()
        self.evaluator: Validation | None = None
        self.lower_is_better = False
        self.best_after = 0
        self.saved = start
        self._window: list[Any] = []
        self._seconds_a_step = math.inf
        self._cost_is_known = False
        self._bar = Bar(
            total=iterations, initial=start, desc="meta-train", unit="it", disable=not progress
        )
        self._validated = ""

    @property
    def best_score(self) -> float:
        """The best validation score so far, or nan."""
        return float(self.store.best_score)

    def run(self, stop: list[str], validate_every: int, save_every: int) -> bool:
        """Trains to the end, or until `stop` holds a signal's name; whether it was stopped."""
        while self.iteration < self.iterations and not stop:
            boundaries = [self.iterations, _next(self.iteration, save_every)]
            if self.evaluator:
                boundaries.append(_next(self.iteration, validate_every))
            self._advance(min(boundaries))
            at_end = self.iteration == self.iterations
            if self.evaluator and (at_end or self.iteration % validate_every == 0):
                self._validate()
            if at_end or self.iteration % save_every == 0:
                self._save()
        if stop and self.iteration != self.saved:
            self._save()
        return bool(stop) and self.iteration < self.iterations

    def close(self) -> None:
        """Puts away the progress bar and the event file."""
        self._bar.close()
        with contextlib.suppress(OSError):  # Flushed at each checkpoint, which says so.
            self.summaries.close()

    def _advance(self, boundary: int) -> None:
        """One compiled call, of about `CALL_SECONDS`, not past `boundary`."""
        # The first call compiles: it says no more than how long a step takes at most.
        affordable = max(1, int(CALL_SECONDS / self._seconds_a_step))
        count = min(affordable, boundary - self.iteration)
        began, first = time.perf_counter(), math.isinf(self._seconds_a_step)
        metrics = self.learner.meta_steps(self.tasks, self.iteration, count)
        metrics = metrics._make(np.asarray(m) for m in metrics)
        seconds = time.perf_counter() - began
        self._check_finite(metrics)
        self._seconds_a_step = seconds / count
        self.history.add(self.iteration + 1, metrics)
        self.iteration += count
        if seconds > CALL_SECONDS / 2 and not first:
            self._tell_cost()
        self._log(metrics, count)

    def _tell_cost(self) -> None:
        """Says once, from the first call that is long enough to measure, how long it will take."""
        rest = self.iterations - self.iteration
        if rest and not self._cost_is_known:
            about = duration(rest * self._seconds_a_step)
            rate = 1 / self._seconds_a_step
            _LOG.info("%d iterations to go, about %s at %.3g it/s.", rest, about, rate)
        self._cost_is_known = True

    def _check_finite(self, metrics) -> None:
        finite = np.stack([np.isfinite(m).reshape(len(m), -1).all(1) for m in metrics])
        if not finite.all():
            field = metrics._fields[int(np.argmin(finite.all(1)))].replace("_", " ")
            self._not_finite(field, self.iteration + int(np.argmin(finite.all(0))))

    def _not_finite(self, what: str, iteration: int) -> None:
        kept = self.store.available()
        good = f"the checkpoint of iteration {kept[-1]} is intact" if kept else "nothing was saved"
        if isinstance(self.store, Memory) and self.store.restore_best():
            good = (
                f"the learner has the best weights again, of iteration {self.store.best_iteration}"
            )
        raise NonFiniteLoss(
            f"The {what} is not finite at iteration {iteration}; {good}. {self.learner.remedy}"
        )

    def _log(self, metrics, count: int) -> None:
        first = self.iteration - count
        for end in range(_next(first, self.log_every), self.iteration + 1, self.log_every):
            begin = max(end - self.log_every - first, 0)
            self._window.append(metrics._make(m[begin : end - first] for m in metrics))
            self._write_window(end)
        rest = (self.iteration // self.log_every) * self.log_every - first
        if rest < count:
            self._window.append(metrics._make(m[max(rest, 0) :] for m in metrics))
        self._bar.update(count)
        self._bar.set_postfix_str(self._progress(metrics), refresh=False)

    def _write_window(self, iteration: int) -> None:
        joined = {
            name: np.concatenate([getattr(m, name) for m in self._window])
            for name in self._window[0]._fields
        }
        self._window = []
        scalars = training_scalars(self.learner.metric_name, joined)
        if math.isfinite(self._seconds_a_step):
            rate = self.learner.meta_batch_size / self._seconds_a_step
            scalars["train/tasks_per_second"] = rate
        self.summaries.scalars(scalars, iteration)

    def _progress(self, metrics: Metrics) -> str:
        rate = f"{self.learner.meta_batch_size / self._seconds_a_step:.0f} tasks/s"
        parts = [metrics.progress(self.learner.metric_name), rate, self._validated]
        return ", ".join(filter(None, parts))

    def _validate(self) -> None:
        assert self.evaluator is not None
        estimate: Estimate = self.evaluator()
        self.history.add_validation(self.iteration, estimate)
        self.summaries.validation(self.learner.metric_name, estimate, self.iteration)
        score = float(estimate.mean[min(self.best_after, self.evaluator.steps)])
        self._validated = f"validation {score:.3g}"
        if _better(score, self.best_score, lower_is_better=self.lower_is_better):
            self._check_weights()
            self.store.save_best(self.iteration, score)

    def _save(self) -> None:
        self._check_weights()
        self.store.save(self.iteration)
        self.saved = self.iteration
        self.summaries.flush()

    @contextlib.contextmanager
    def saying_what_is_kept(self) -> Iterator[None]:
        """Where nothing more can be written, tries once to keep the present weights.

        Only there: whatever else raises, such as a source of tasks, may do so in the middle of a
        compiled call, whose steps the iteration does not count yet.
        """
        try:
            yield
        except Unwritable as error:
            with contextlib.suppress(OSError, NonFiniteLoss):
                self._check_weights()
                self.store.save(self.iteration)
            kept = self.store.available()
            what = f"The checkpoint of iteration {kept[-1]}" if kept else "Nothing of this run"
            raise OSError(f"{error} {what} is kept.") from error

    def _check_weights(self) -> None:
        # The loss of a step is that before its update.
        if not all(np.isfinite(np.asarray(v)).all() for v in self.learner.variables):
            self._not_finite("weights' value", self.iteration)


def _check(**intervals: int) -> None:
    for name, value in intervals.items():
        arguments.count(name, value, 1)


def _check_source(learner: Learner, tasks: Any) -> None:
    """Refuses what is no source of a learner's tasks; draws nothing."""
    if isinstance(learner, MetaLearner):
        supply_of(tasks, learner.meta_batch_size)
    elif tasks is None:
        raise ValueError("There are no tasks (None); give what the learner takes.")


def _validation(learner: Learner, validation: Any, num_tasks: int, steps: int) -> Any:
    """What measures the learner, of what `train` takes as validation."""
    if validation is None:
        return None
    if isinstance(learner, MetaLearner):
        return Evaluator(learner, validation, num_tasks=num_tasks, steps=steps)
    if isinstance(validation, type) or not (callable(validation) and hasattr(validation, "steps")):
        raise ValueError(
            f"validation is {arguments.shown(validation)}; give what measures this learner, such "
            "as maml_tf.rl.evaluation.ReturnEvaluator(learner, sampler)."
        )
    return validation


def duration(seconds: float) -> str:
    """Rounds a time to two digits or so: "40 s", "25 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _next(iteration: int, every: int) -> int:
    """The first multiple of `every` after `iteration`."""
    return (iteration // every + 1) * every


def _better(score: float, best: float, *, lower_is_better: bool) -> bool:
    if math.isnan(best):
        return True
    return score < best if lower_is_better else score > best
