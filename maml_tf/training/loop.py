"""The one training loop: restore, step, log, validate, save, stop.

It takes any `Learner`: supervised learning compiles the steps of one call of `meta_steps` into one
graph, reinforcement learning alternates between a simulator and graphs. Nothing random depends on
what happened before, so a run that was stopped or killed goes on to the same weights, bit for bit
on one CPU.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import keras
import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from maml_tf import arguments
from maml_tf.engine.strategies import refuse_parameter_servers
from maml_tf.engine.workers import Workers
from maml_tf.estimates import direction
from maml_tf.saving.descriptions import describe
from maml_tf.system.files import Unwritable, refuse_pattern, user_path
from maml_tf.system.locks import run_lock
from maml_tf.system.progress import Bar
from maml_tf.system.signals import stop_signal
from maml_tf.training import callbacks as keras_callbacks
from maml_tf.training.callbacks import Callbacks
from maml_tf.training.history import History
from maml_tf.training.resuming import Memory, Store, all_variables, open_run, tell, tell_start
from maml_tf.training.summaries import Summaries
from maml_tf.training.window import MAY_BE_NAN, Window
from maml_tf.types import Estimate, Evaluator, Learner, Metrics

_LOG = logging.getLogger(__name__)

_ABILITIES = ("meta_steps", "check_tasks", "state", "variables", "metric_name")
"""What tells a learner from other things."""

CALL_SECONDS = 1.0
"""About how long one compiled call runs: the progress bar and a signal wait this long at most."""

TasksT = TypeVar("TasksT")


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


class NonFiniteLoss(ValueError):
    """The loss or a weight stopped being a finite number."""


class Plan(NamedTuple):
    """How long a training goes on, and what it does when."""

    iterations: int  # of the whole run
    log_every: int
    validate_every: int
    save_every: int
    best_after: int  # gradient steps after which a validation decides which weights are best
    stop_after: int = 0  # validations without a better score that end the training; 0: none do

    def checked(self) -> Plan:
        """The plan as numbers of Python.

        Raises:
          ValueError: one is out of range.
        """
        least = {"iterations": 0, "best_after": 0, "stop_after": 0}
        made = {n: arguments.count(n, v, least.get(n, 1)) for n, v in self._asdict().items()}
        return Plan(**made)


def train(
    learner: Learner[TasksT],
    tasks: TasksT,
    *,
    iterations: int,
    logdir: str | Path | None = None,
    validation: TasksT | Evaluator | None = None,
    validation_tasks: int = 96,
    validation_steps: int = 10,
    best_after: int | None = None,
    restore_best: bool = False,
    keep_best: int = 1,
    stop_after: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
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
      validation: held-out tasks, like `tasks`, or a ready `Evaluator`. The weights with the best
        score so far are kept apart.
      validation_tasks: how many held-out tasks.
      validation_steps: gradient steps of their adaptation curve.
      best_after: gradient steps after which the validation decides which weights are best; as many
        as the training takes by default, and no more than the curve has.
      restore_best: at the end, also of an interrupted training, put the weights that validated
        best into the learner; by default it keeps the last. Of an optimizer with `use_ema` both
        are averages, which is what validations measure.
      keep_best: how many of the weights that validated best `logdir` keeps.
      stop_after: end the training like a finished one after so many validations in a row without
        a better score; a run that goes on counts on. 0: train for all `iterations`.
      callbacks: `keras.callbacks.Callback` objects; of several workers the chief alone calls
        `CSVLogger`, `ModelCheckpoint` and `TensorBoard`. A validation ends an epoch, or without one
        every `log_every` meta-steps; batch hooks are called once per compiled call. `logs` hold
        the means of what meta-steps saw since the last epoch, `val_<metric>` at the step that
        decides which weights are best, and `val_<metric>_after_step_<i>`. `model.stop_training`
        ends the training like a finished one. Keras' callbacks know the model's weights alone:
        `restore_best` restores learned step sizes and the optimizer, too.
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
    arguments.learner(learner, _ABILITIES)
    decides = learner.inner_steps if best_after is None else best_after
    plan = Plan(iterations, log_every, validate_every, save_every, decides, stop_after).checked()
    _check_counts(validation_tasks, keep_best, validation_steps)
    for name, value in ("restore_best", restore_best), ("record", record), ("progress", progress):
        arguments.boolean(name, value)
    directory = _directory(logdir, record)
    if not isinstance(description, str):
        raise ValueError(f"description must be text, not {arguments.shown(description)}.")
    called = keras_callbacks.checked(callbacks)
    learner.check_tasks(tasks)
    refuse_parameter_servers(getattr(learner, "strategy", None))
    _check_choice(validation is None, restore_best, plan.stop_after)
    lower_is_better = validation is not None and direction(learner)
    evaluator = _evaluator(learner, validation, validation_tasks, validation_steps)
    workers = Workers(getattr(learner, "strategy", None))
    with workers.named(), contextlib.ExitStack() as held:
        _compare(workers, learner, tasks, plan, evaluator)
        opened = held.enter_context(_opened(workers, learner, tasks, directory, keep_best))
        in_memory = Memory(learner, keep_best=restore_best)
        store, start = _agree(workers, learner, *(opened or (in_memory, 0)))
        tell_start(start, plan.iterations, directory if opened else None)
        loop = _Loop(learner, tasks, plan, start, workers, progress=progress)
        loop.store, loop.evaluator, loop.lower_is_better = store, evaluator, lower_is_better
        loop.summaries = Summaries(directory or "", disabled=not opened)
        held.enter_context(contextlib.closing(loop))
        loop.call_back(called if workers.is_chief else keras_callbacks.that_write_nothing(called))
        if start == 0:
            loop.summaries.text("flags", description)
        held.enter_context(logging_redirect_tqdm([logging.getLogger("maml_tf")]))
        with loop.saying_what_is_kept():
            interrupted = loop.run(held.enter_context(stop_signal()))
        best_score = loop.best_score
        if workers.is_chief:
            _settle(learner, store, restore_best=restore_best, interrupted=interrupted)
        workers.take_from_chief(all_variables(learner))
        loop.callbacks.end()
    return TrainingResult(loop.iteration, best_score, interrupted, loop.history.arrays())


def _compare(
    workers: Workers,
    learner: Learner[TasksT],
    tasks: TasksT,
    plan: Plan,
    evaluator: Evaluator | None,
) -> None:
    """Refuses workers that would train otherwise than the chief.

    Raises:
      ValueError: one would; names what differs.
    """
    if workers.together:
        described = json.dumps(describe(learner, tasks), indent=0).splitlines()
        validated = None if evaluator is None else evaluator.steps
        lengths = [f"{name}={number}" for name, number in plan._asdict().items()]
        own = [*described, f"validation_steps={validated}", *lengths]
        workers.refuse_difference("settings", own)


@contextlib.contextmanager
def _opened(
    workers: Workers,
    learner: Learner[TasksT],
    tasks: TasksT,
    directory: Path | None,
    keep_best: int,
) -> Iterator[tuple[Store, int] | None]:
    """Holds a run's directory, if there is one; the chief alone does."""
    with contextlib.ExitStack() as held:

        def opened() -> tuple[Store, int] | None:
            if directory is None:
                return None
            held.enter_context(run_lock(directory))
            return open_run(directory, learner, tasks, keep_best=keep_best)

        yield workers.by_chief(opened)


def _agree(
    workers: Workers, learner: Learner[TasksT], store: Store, start: int
) -> tuple[Store, int]:
    """Lets all workers begin where the chief does: with its weights, at its iteration."""
    if not workers.together:
        return store, start
    counters = getattr(learner, "counters", {}).values()
    workers.take_from_chief([*all_variables(learner), *counters])
    start, since_best = map(int, workers.from_chief([start, store.since_best]))
    best_score = float(workers.from_chief(float(store.best_score)))
    if isinstance(store, Memory):
        store.best_score, store.since_best = best_score, since_best
    return store, start


def _check_counts(validation_tasks: int, keep_best: int, validation_steps: int) -> None:
    arguments.count("validation_tasks", validation_tasks, 1)
    arguments.count("keep_best", keep_best, 1)
    arguments.count("validation_steps", validation_steps, 0)


def _check_choice(unvalidated: bool, restore_best: bool, stop_after: int) -> None:
    """Refuses what needs validations, where there are none.

    Raises:
      ValueError: names it.
    """
    if unvalidated and (restore_best or stop_after):
        what = "restore_best=True" if restore_best else f"stop_after={stop_after}"
        raise ValueError(f"{what} needs validation tasks to tell which weights are best.")


def _directory(logdir: str | Path | None, record: bool) -> Path | None:
    """Where to write, if anywhere."""
    if logdir is None:
        return None
    directory = user_path(logdir, "logdir")
    if record:
        refuse_pattern(directory)
    return directory if record else None


def _settle(
    learner: Learner[TasksT], store: Store, *, restore_best: bool, interrupted: bool
) -> None:
    """Leaves the learner with the weights that were asked for."""
    restored = restore_best and not math.isnan(float(store.best_score)) and store.restore_best()
    if restore_best and not restored:
        _LOG.warning("Nothing was validated, so the learner keeps the last weights.")
    if restored or not interrupted:
        _finalize(learner)


def _finalize(learner: Learner[TasksT]) -> None:
    """Leaves averages in a learner that has some: checkpoints keep the weights to go on from."""
    if hasattr(learner, "finalize"):
        learner.finalize()


def _evaluator(
    learner: Learner[TasksT], validation: TasksT | Evaluator | None, num_tasks: int, steps: int
) -> Evaluator | None:
    """What measures the learner, of what `train` takes as validation."""
    if validation is None:
        return None
    if hasattr(validation, "steps") and not isinstance(validation, type) and callable(validation):
        return validation
    return learner.evaluator(validation, num_tasks=num_tasks, steps=steps)


class _Loop:
    """The state of one training."""

    def __init__(
        self,
        learner: Learner[TasksT],
        tasks: TasksT,
        plan: Plan,
        start: int,
        workers: Workers,
        *,
        progress: bool,
    ):
        self.learner, self.tasks, self.plan, self.workers = learner, tasks, plan, workers
        self.iteration = self.saved = start
        self.store: Store
        self.summaries: Summaries
        self.history = History()
        self.evaluator: Evaluator | None = None
        self.lower_is_better = False
        self._window = Window(learner.metric_name)
        self._seconds_per_step = math.inf
        self._cost_is_known = False
        self._affordable = 1  # The first call compiles: it says no more than a step's cost at most.
        self._is_stopped = self._is_ended = self._is_called_back = False
        total = plan.iterations
        self._bar = Bar(
            total=total,
            initial=start,
            desc="meta-train",
            unit="it",
            until_first="compiling",
            disable=not (progress and workers.is_chief),
        )
        self._validated = ""
        self.call_back(())

    def call_back(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Takes Keras' callbacks; what validates is known by now."""
        every, iterations = self._epoch, self.plan.iterations
        self.callbacks = Callbacks(callbacks, self.learner, every=every, iterations=iterations)

    @property
    def _epoch(self) -> int:
        """Meta-steps of an epoch of the callbacks."""
        return self.plan.validate_every if self.evaluator else self.plan.log_every

    @property
    def best_score(self) -> float:
        """The best validation score so far, or nan."""
        return float(self.store.best_score)

    def run(self, stop: list[str]) -> bool:
        """Trains to the end, or until `stop` holds a signal's name; whether it was stopped."""
        self.callbacks.begin()
        self._hear(stop)
        while not self._at_end() and not self._is_stopped:
            self._advance(self._boundary())
            self._hear(stop)
            if self._at_end() or self.iteration % self._epoch == 0:
                if self.evaluator:
                    self._validate(self.evaluator)
                self.callbacks.end_epoch()
                self._hear(stop)
            if self._at_end() or self.iteration % self.plan.save_every == 0:
                self._save()
                self._hear(stop)
        if self._is_stopped and self.iteration != self.saved:
            self._save()
        if self._stalled:
            tell(
                f"Ended after iteration {self.iteration}: {self.store.since_best} validations in a "
                f"row without a better score than {self.best_score:.4g}."
            )
        return self._is_stopped and not self._at_end()

    def _hear(self, stop: list[str]) -> None:
        """Takes notice of signals and callbacks; several workers of each other's, all alike."""
        affordable = max(1, int(CALL_SECONDS / self._seconds_per_step))
        told = bool(stop), self.callbacks.stopped, bool(self.callbacks)
        heard = self.workers.gather([affordable, *told])
        self._affordable = int(heard[0, 0])  # as the chief's clock says
        self._is_stopped, self._is_ended, self._is_called_back = (heard[:, 1:].sum(0) > 0).tolist()

    @property
    def _stalled(self) -> bool:
        """Whether so many validations were without a better score that the training ends."""
        return 0 < self.plan.stop_after <= self.store.since_best

    def _at_end(self) -> bool:
        done = self.iteration >= self.plan.iterations
        return done or self._is_ended or self._stalled

    def _boundary(self) -> int:
        """The meta-step that the next compiled call must not go past."""
        plan, boundaries = self.plan, [self.plan.iterations]
        boundaries.append(_next(self.iteration, plan.save_every))
        if self.evaluator or self._is_called_back:
            boundaries.append(_next(self.iteration, self._epoch))
        return min(boundaries)

    def close(self) -> None:
        """Puts away the progress bar and the event file."""
        self._bar.close()
        self.callbacks.close()
        with contextlib.suppress(OSError):  # Flushed at each checkpoint, which says so.
            self.summaries.close()

    def _advance(self, boundary: int) -> None:
        """One compiled call, of about `CALL_SECONDS`, not past `boundary`."""
        count = min(self._affordable, boundary - self.iteration)
        self.callbacks.begin_call(self.iteration)
        began, first = time.perf_counter(), math.isinf(self._seconds_per_step)
        seen = self.learner.meta_steps(self.tasks, self.iteration, count)
        metrics = type(seen)(*map(np.asarray, seen))
        seconds = time.perf_counter() - began
        self._check_finite(metrics)
        self._seconds_per_step = seconds / count
        self.history.add(self.iteration + 1, metrics)
        self.iteration += count
        if seconds > CALL_SECONDS / 2 and not first:
            self._tell_cost()
        self._log(metrics, count)
        self.callbacks.end_call(self.iteration, metrics)

    def _tell_cost(self) -> None:
        """Says once, from the first call that is long enough to measure, how long it will take."""
        rest = self.plan.iterations - self.iteration
        if rest and not self._cost_is_known:
            about = duration(rest * self._seconds_per_step)
            rate = 1 / self._seconds_per_step
            _LOG.info("%d iterations to go, about %s at %.3g it/s.", rest, about, rate)
        self._cost_is_known = True

    def _check_finite(self, metrics: Metrics) -> None:
        fields = [f for f in metrics._fields if f not in MAY_BE_NAN and len(getattr(metrics, f))]
        values = [getattr(metrics, field) for field in fields]
        finite = np.stack([np.isfinite(v).reshape(len(v), -1).all(1) for v in values])
        if not finite.all():
            field = fields[int(np.argmin(finite.all(1)))].replace("_", " ")
            self._not_finite(field, self.iteration + int(np.argmin(finite.all(0))))

    def _not_finite(self, what: str, iteration: int) -> None:
        kept = self.store.available()
        good = f"the checkpoint of iteration {kept[-1]} is intact" if kept else "nothing was saved"
        if isinstance(self.store, Memory) and self.store.restore_best():
            _finalize(self.learner)
            good = (
                f"the learner has the best weights again, of iteration {self.store.best_iteration}"
            )
        raise NonFiniteLoss(
            f"The {what} is not finite at iteration {iteration}; {good}. {self.learner.remedy}"
        )

    def _log(self, metrics: Metrics, count: int) -> None:
        first, every, logged = self.iteration - count, self.plan.log_every, 0
        for end in range(_next(first, every), self.iteration + 1, every):
            self._window.add(metrics, logged, end - first)
            logged = end - first
            self._write_window(end)
        if logged < count:
            self._window.add(metrics, logged)
        self._bar.update(count)
        self._bar.set_postfix_str(self._progress(metrics), refresh=False)

    def _write_window(self, iteration: int) -> None:
        means = self._window.take()
        scalars = {n if "/" in n else f"train/{n}": mean for n, mean in means.items()}
        if math.isfinite(self._seconds_per_step):
            rate = self.learner.meta_batch_size / self._seconds_per_step
            scalars["train/tasks_per_second"] = rate
        self.summaries.scalars(scalars, iteration)

    def _progress(self, metrics: Metrics) -> str:
        rate = f"{self.learner.meta_batch_size / self._seconds_per_step:.0f} tasks/s"
        parts = [metrics.progress(self.learner.metric_name), rate, self._validated]
        return ", ".join(filter(None, parts))

    def _validate(self, evaluator: Evaluator) -> None:
        self.callbacks.begin_validation()
        with getattr(self.learner, "averaged", contextlib.nullcontext)():
            estimate = self._from_chief(evaluator())
        self.history.add_validation(self.iteration, estimate)
        metric, decides = self.learner.metric_name, min(self.plan.best_after, evaluator.steps)
        self.summaries.validation(metric, estimate, self.iteration)
        score = float(estimate.mean[decides])
        self._validated = f"validation {score:.3g}"
        if _better(score, self.best_score, lower_is_better=self.lower_is_better):
            self._check_weights()
            self.store.save_best(self.iteration, score)
        else:
            self.store.save_lesser(self.iteration, score)
        with self.summaries.at(self.iteration):
            self.callbacks.end_validation(estimate, metric, decides, self.iteration)

    def _from_chief(self, estimate: Estimate) -> Estimate:
        """The chief's, where there are several workers: what follows from it is decided alike."""
        if not self.workers.together:
            return estimate
        own = np.stack([estimate.mean, estimate.std, estimate.ci95]).astype(np.float64)
        mean, std, ci95 = self.workers.from_chief(own)
        return Estimate(mean, std, ci95, estimate.num_tasks)

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
