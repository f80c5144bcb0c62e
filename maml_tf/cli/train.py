"""`maml-tf train`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maml_tf.cli import runs, start
from maml_tf.experiments import build, machine
from maml_tf.experiments.identity import said_alike, to_flags
from maml_tf.experiments.records import SettingValue
from maml_tf.experiments.settings import Settings, make

if TYPE_CHECKING:
    from maml_tf.engine.workers import Workers
    from maml_tf.training.loop import TrainingResult

_LOG = logging.getLogger(__name__)


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Meta-trains by the flags; a pre-training before it is a run of its own."""
    del words  # There are none.
    settings = make(given).trained()
    if not settings.method.trained:
        _LOG.info(
            "Nothing to train: --method=%s evaluates the fresh initialization.",
            settings.method.name,
        )
        return 0
    if not settings.run.iterations:
        raise ValueError("Nothing to train: --iterations and --pretrain_iterations are 0.")
    runs.run_directory(settings)  # A name that cannot be used is refused before anything is made.
    build.require_data(settings)
    start.on(settings.machine)
    with machine.together(settings.machine) as workers:
        if not workers.is_chief:
            logging.getLogger("maml_tf").setLevel(logging.WARNING)
        workers.refuse_difference("flags", said_alike(settings.given))
        before_it = None
        if before := settings.pretraining():
            result, learner = _train(before, workers)
            if result.interrupted:
                return 130
            before_it = learner
        result, _ = _train(settings, workers, before_it)
    return 130 if result.interrupted else 0


def _train(settings: Settings, workers: Workers, before: Any = None) -> tuple[TrainingResult, Any]:
    from maml_tf.experiments.build import make_learner, make_tasks, make_validation
    from maml_tf.plotting.callbacks import AdaptationCurves
    from maml_tf.tasks import JointBatches
    from maml_tf.training.loop import train

    tasks = make_tasks(settings, "train")
    classes = tasks.num_classes if isinstance(tasks, JointBatches) else None
    learner: Any = make_learner(settings, classes)
    validation = make_validation(settings, learner)
    if before is not None:
        learner.model.set_weights(before.model.get_weights())
        learner.inner.begin_anew()
        for name, counter in getattr(before, "counters", {}).items():
            learner.counters[name].assign(counter.value)
    elif settings.training.init:
        workers.by_chief(lambda: runs.start_from_release(settings, learner))
    run = settings.run
    with contextlib.ExitStack() as held:
        opened = runs.opened(settings) if run.log else contextlib.nullcontext()
        directory = workers.by_chief(lambda: held.enter_context(opened))
        _LOG.info("Run: %s", directory or "nothing is written (--log=False)")
        result = train(
            learner,
            tasks,
            iterations=run.iterations,
            logdir=directory,
            validation=validation,
            validation_tasks=run.validation_tasks,
            validation_steps=0 if settings.joint else settings.evaluation.steps,
            best_after=run.best_after,
            keep_best=run.keep_best,
            stop_after=run.stop_after,
            log_every=run.log_every,
            validate_every=run.validate_every,
            save_every=run.save_every,
            callbacks=[AdaptationCurves()] if workers.is_chief else [],
            description=to_flags(settings),
            progress=run.progress,
        )
    _report(result, settings)
    return result, learner


def _report(result: TrainingResult, settings: Settings) -> None:
    if result.interrupted:
        log = settings.run.log
        kept = "saved; the same command goes on from there" if log else "nothing saved"
        _LOG.info("Interrupted after iteration %d: %s.", result.iteration, kept)
    else:
        _LOG.info(
            "Done: %d iterations, best validation score %.4g.", result.iteration, result.best_score
        )
