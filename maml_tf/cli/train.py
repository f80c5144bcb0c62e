"""`maml-tf train`."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from maml_tf.cli import runs
from maml_tf.experiments.build import make_learner, make_tasks, make_validation
from maml_tf.experiments.identity import to_flags
from maml_tf.experiments.settings import Config
from maml_tf.plotting.callbacks import AdaptationCurves
from maml_tf.tasks import JointBatches
from maml_tf.training.loop import TrainingResult, train

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Meta-trains by the flags; a pre-training before it is a run of its own."""
    del words  # There are none.
    config = Config(**given).trained()
    if config.method == "random":
        _LOG.info("Nothing to train: --method=random evaluates the fresh initialisation.")
        return 0
    if not config.iterations:
        raise ValueError(
            "Nothing to train: --metatrain_iterations and --pretrain_iterations are 0."
        )
    runs.run_directory(config)  # A name that cannot be used is refused before anything is made.
    runs.set_up_machine(config)
    with runs.strategy(config).scope():
        initial = None
        if before := config.pretraining():
            result, learner = _train(before)
            if result.interrupted:
                return 130
            initial = learner.model.get_weights()
        result, _ = _train(config, initial)
    return 130 if result.interrupted else 0


def _train(config: Config, initial=None):
    tasks = make_tasks(config, "train")
    learner = make_learner(config, tasks.num_classes if isinstance(tasks, JointBatches) else None)
    validation = make_validation(config, learner)
    if initial is not None:
        learner.model.set_weights(initial)
    elif config.init:
        runs.start_from_release(config, learner)
    place = runs.opened(config) if config.log else contextlib.nullcontext()
    with place as directory:
        _LOG.info("Run: %s", directory or "nothing is written (--log=False)")
        result = train(
            learner,  # type: ignore[arg-type]
            tasks,
            iterations=config.iterations,
            logdir=directory,
            validation=validation,
            validation_tasks=config.validation_tasks,
            validation_steps=0 if config.joint else config.test_steps,
            best_after=config.deciding_step,
            log_every=config.log_every,
            validate_every=config.validate_every,
            save_every=config.save_every,
            callbacks=[AdaptationCurves()],
            description=to_flags(config),
            progress=config.progress,
        )
    _report(result, config)
    return result, learner


def _report(result: TrainingResult, config: Config) -> None:
    if result.interrupted:
        kept = "saved; the same command goes on from there" if config.log else "nothing saved"
        _LOG.info("Interrupted after iteration %d: %s.", result.iteration, kept)
    else:
        _LOG.info(
            "Done: %d iterations, best validation score %.4g.", result.iteration, result.best_score
        )
