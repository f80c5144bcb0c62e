"""`maml-tf evaluate`: a table on screen, JSON files, and the original's CSV file."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maml_tf.cli import original, runs, start
from maml_tf.experiments import build, fields, machine
from maml_tf.experiments.identity import flag_lines, said_alike, to_flags
from maml_tf.experiments.records import Kind, SettingValue
from maml_tf.experiments.settings import Machine, Settings, make
from maml_tf.system.files import write_atomically

if TYPE_CHECKING:
    from maml_tf.estimates import Tuning
    from maml_tf.results.records import Curve, Result
    from maml_tf.types import Estimate, Learner

_LOG = logging.getLogger(__name__)


def run(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """Adapts to held-out tasks of the test or the validation split, and measures."""
    if given.get("distribute") == "multiworker":
        return _run_together(given, words)
    directory, settings = runs.locate(given, words)
    if settings.evaluation.ensemble and settings.training.init:
        raise ValueError("A release has one set of weights; drop --ensemble, or name its run.")
    if settings.machine.distribute != "none":
        _LOG.info(
            "Evaluating on one device: --distribute=%s is for training.",
            settings.machine.distribute,
        )
    build.require_data(settings)
    start.on(settings.machine)
    tasks = build.make_tasks(settings, settings.evaluation.split)
    restore = runs.ensemble if settings.evaluation.ensemble else runs.restore
    learner, iteration = restore(directory, settings)
    curve, others = measure(settings, learner, tasks, iteration)
    _tell(directory, settings, curve, others)
    return 0


def _run_together(given: Mapping[str, SettingValue], words: list[str]) -> int:
    """As `run`, by several workers: each measures its share of the tasks, the chief writes."""
    runs.refuse_ensemble(given, "An evaluation by several workers")
    of_the_machine = [each.flag for each in fields.declared(Machine)]
    own = {flag: given[flag] for flag in of_the_machine if flag in given}
    start.on(make(own).machine)
    with machine.together(make(own).machine) as workers:
        workers.refuse_difference("flags", said_alike(given))
        found = workers.by_chief(lambda: runs.locate(given, words))
        # The flags are the run's own, which the chief alone need have at hand.
        flags = workers.texts("" if found is None else to_flags(found[1]))[0]
        settings = original.from_flags(flags).replace(**own)
        if not workers.is_chief:
            settings = settings.replace(progress=False)
        directory = Path() if found is None else found[0]
        build.require_data(settings)
        tasks = build.make_tasks(settings, settings.evaluation.split)
        learner, iteration = runs.restore(directory, settings, workers)
        curve, others = measure(settings, learner, tasks, iteration)
        workers.by_chief(lambda: _tell(directory, settings, curve, others))
    return 0


def _tell(directory: Path, settings: Settings, curve: Curve, others: list[Result]) -> None:
    """Writes what was measured, and prints it."""
    unwritten = None
    try:
        _keep(directory, settings, curve, others)
    except OSError as error:  # What was measured is at least shown.
        unwritten = error
    try:
        _say(settings, curve)
    except OSError as error:
        raise unwritten or OSError(
            f"The table cannot be printed ({error.strerror}); its numbers are in "
            f"{directory / 'results'}."
        ) from error
    if unwritten:
        raise unwritten


def is_done(settings: Settings, directory: Path) -> bool:
    """Whether a run has the results of these very settings and its newest weights."""
    from maml_tf.results.files import FOLDER, read
    from maml_tf.results.records import Curve
    from maml_tf.training.checkpoints import saved_iterations

    saved = saved_iterations(directory / "checkpoints") or [0]
    flags = flag_lines(settings)
    for path in (directory / FOLDER).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            for result in read(path):
                of_these = isinstance(result, Curve) and result.flags == flags
                if of_these and result.iteration == saved[-1]:
                    return True
    return False


def measure(
    settings: Settings, learner: Learner[Any], tasks: Any, iteration: int
) -> tuple[Curve, list[Result]]:
    """Measures a learner as the settings say.

    Returns:
      The curve, and what else its problem keeps for pictures.
    """
    from maml_tf import estimates
    from maml_tf.results import build as results

    began = time.perf_counter()
    tuning = tune(learner, settings)
    alpha = results.step_size(settings, tuning)
    estimate = estimates.evaluate(
        learner, tasks, step_size=alpha, **_protocol(settings, settings.evaluation.split)
    )
    curve = results.curve(
        settings,
        estimate,
        metric=learner.metric_name,
        iteration=iteration,
        seconds=time.perf_counter() - began,
        tuning=tuning,
        environment_steps=runs.environment_steps(learner),
    )
    return curve, _samples(settings, learner, tasks, iteration, tuning)


def tune(learner: Learner[Any], settings: Settings) -> Tuning | None:
    """Chooses alpha on validation tasks, where the settings say so."""
    if not settings.evaluation.tune_step_size:
        return None
    from maml_tf import estimates

    return estimates.tune_step_size(
        learner, build.make_tasks(settings, "val"), **_protocol(settings, "val")
    )


def _protocol(settings: Settings, split: str) -> dict[str, Any]:
    common: dict[str, Any] = {
        "num_tasks": settings.evaluation.tasks,
        "steps": settings.evaluation.steps,
        "progress": settings.run.progress,
    }
    if settings.problem.kind is Kind.POLICY:
        return {**common, "split": split}
    common["batch_statistics"] = settings.evaluation.batch_statistics
    if settings.evaluation.ways != settings.training.ways:
        common["ways"] = settings.evaluation.ways
    if settings.problem.kind is Kind.REGRESSION:  # Its small operations leave cores idle.
        common["workers"] = machine.workers(settings.machine)
    return common


def _samples(
    settings: Settings, learner: Any, tasks: Any, iteration: int, tuning: Tuning | None
) -> list[Result]:
    """What pictures of single tasks are made of."""
    from maml_tf.cli import samples
    from maml_tf.engine.workers import outside_scope
    from maml_tf.results import build as results

    if settings.problem.samples is None or settings.evaluation.ensemble:
        return []
    alpha, evaluation = results.step_size(settings, tuning), settings.evaluation
    if settings.problem.samples == "samples":
        sampled = samples.sample_tasks(
            learner, tasks, step_size=alpha, batch_statistics=evaluation.batch_statistics
        )
        return [results.samples(settings, sampled, iteration=iteration, tuning=tuning)]
    # Every worker walks all paths, of a sampler that shares no tasks: it knows where all go.
    alone = outside_scope(lambda: build.make_tasks(settings, evaluation.split))
    goals = samples.path_tasks(
        learner, alone, evaluation.steps or 0, step_size=alpha, split=evaluation.split
    )
    return [results.paths(settings, goals, iteration=iteration, tuning=tuning)]


def _keep(directory: Path, settings: Settings, curve: Curve, others: list[Result]) -> None:
    """Writes result files, before anything is printed: standard output may be closed or full."""
    from maml_tf.results.files import write
    from maml_tf.results.names import original_name

    for result in (*others, curve):  # The curve last: where it is, the other files are.
        _LOG.info("Wrote %s", write(result, directory))
    evaluation = settings.evaluation
    supervised = settings.problem.kind is not Kind.POLICY and evaluation.split == "test"
    supervised &= not evaluation.ensemble and evaluation.ways == settings.training.ways
    if supervised and evaluation.batch_statistics == "transductive" and evaluation.inputs == "all":
        write_atomically(directory / original_name(curve), _original_csv(curve.estimate))


def _say(settings: Settings, curve: Curve) -> None:
    from maml_tf.results import wording

    heading = [f"{curve.experiment}, {curve.method}", f"iteration {curve.iteration}"]
    if curve.ensemble:
        heading[-1] = f"ensemble of the {curve.ensemble} best checkpoints"
    policy = settings.problem.kind is Kind.POLICY
    heading += [f"{curve.split} split"]
    heading += [f"{curve.shots} trajectories" if policy else f"K = {curve.shots}"]
    heading += [f"{curve.ways} ways of {curve.outputs} outputs"] if curve.fewer_ways else []
    if settings.method.adapts_at_test:
        alpha = curve.step_size
        heading += ["meta-learned step sizes" if alpha is None else f"step size {alpha:g}"]
        heading[-1] += " (the best on validation tasks)" if curve.tuned else ""
    heading += ["support points in one half"] if curve.inputs == "half" else []
    shown = f"\n{', '.join(heading)}:\n{table(curve.estimate, curve.metric)}"
    print(_printable(f"{shown}\n{wording.sentence(curve)}"), flush=True)


def _printable(text: str) -> str:
    """Text that standard output can show, whatever its encoding."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return text.encode(encoding, "replace").decode(encoding)


def table(estimate: Estimate, metric: str) -> str:
    """Formats the metric after each gradient step; accuracy in per cent."""
    scale, unit = (100.0, " (%)") if metric == "accuracy" else (1.0, "")
    interval = _printable("± 95 %").replace("?", "+-")
    lines = [f"{'steps':>5}  {metric + unit:>14}  {interval:>8}  {'std':>8}"]
    for step, row in enumerate(zip(estimate.mean, estimate.ci95, estimate.std, strict=True)):
        mean, ci95, std = (scale * value for value in row)
        lines.append(f"{step:>5}  {mean:>14.4g}  {ci95:>8.3g}  {std:>8.3g}")
    return "\n".join([*lines, f"({estimate.num_tasks} tasks)"])


def _original_csv(estimate: Estimate) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([f"update{step}" for step in range(len(estimate.mean))])
    for row in (estimate.mean, estimate.std, estimate.ci95):
        writer.writerow(list(row))
    return text.getvalue()
