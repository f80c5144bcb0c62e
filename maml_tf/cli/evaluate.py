"""`maml-tf evaluate`: a table on screen, JSON files, and the original's CSV file."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import sys
import time
from pathlib import Path
from typing import Any

from maml_tf.cli import runs
from maml_tf.cli.samples import sample_tasks
from maml_tf.estimates import Tuning, evaluate, tune_step_size
from maml_tf.experiments.build import make_tasks
from maml_tf.experiments.identity import to_flags
from maml_tf.experiments.settings import Config
from maml_tf.results import build as results
from maml_tf.results.files import FOLDER, read, write
from maml_tf.results.names import original_name
from maml_tf.results.records import Curve, PathTask, Result
from maml_tf.system.files import write_atomically
from maml_tf.tasks import Sinusoid
from maml_tf.training.checkpoints import saved_iterations
from maml_tf.types import Estimate

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Adapts to held-out tasks of the test or the validation split, and measures."""
    directory, config = runs.locate(given, words)
    if config.distribute != "none":
        _LOG.info("Evaluating on one device: --distribute=%s is for training.", config.distribute)
    runs.set_up_machine(config)
    tasks = make_tasks(config, results.split(config))
    learner, iteration = runs.restore(directory, config)
    began = time.perf_counter()
    tuning = tune(learner, config)
    alpha = results.step_size(config, tuning)
    estimate = _measure(config, learner, tasks, alpha)
    seconds = time.perf_counter() - began
    unwritten = None
    try:
        _keep(directory, config, learner, tasks, iteration, tuning, estimate, seconds)
    except OSError as error:  # What was measured is at least shown.
        unwritten = error
    try:
        _say(config, learner, iteration, tuning, estimate)
    except OSError as error:
        raise unwritten or OSError(
            f"The table cannot be printed ({error.strerror}); its numbers are in "
            f"{directory / 'results'}."
        ) from error
    if unwritten:
        raise unwritten
    return 0


def is_done(given: dict[str, Any]) -> bool:
    """Whether the run of some settings has the results of these very settings and weights."""
    try:
        directory, config = runs.locate(given, [])
    except (OSError, ValueError):  # Whoever evaluates says so.
        return False
    saved = saved_iterations(directory / "checkpoints") or [0]
    flags = tuple(to_flags(config).splitlines())
    for path in (directory / FOLDER).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            for result in read(path):
                of_these = isinstance(result, Curve) and result.flags == flags
                if of_these and result.iteration == saved[-1]:
                    return True
    return False


def _keep(directory, config: Config, learner, tasks, iteration, tuning, estimate, seconds) -> None:
    """Writes result files, before anything is printed: standard output may be closed or full."""
    alpha = results.step_size(config, tuning)
    curve = results.curve(
        config,
        estimate,
        metric=learner.metric_name,
        iteration=iteration,
        seconds=seconds,
        tuning=tuning,
    )
    if isinstance(tasks, Sinusoid):
        statistics = config.batch_statistics
        sampled = sample_tasks(learner, tasks, step_size=alpha, batch_statistics=statistics)
        _write(directory, results.samples(config, sampled, iteration=iteration, tuning=tuning))
    if config.datasource == "navigation_2d":
        split = results.split(config)
        walked = _rl().paths(learner, tasks, config.test_steps, step_size=alpha, split=split)
        goals = [PathTask.from_json(task) for task in walked]
        _write(directory, results.paths(config, goals, iteration=iteration, tuning=tuning))
    _write(directory, curve)  # At last: where it is, the other files are.
    original = not config.reinforcement and config.test_set
    if original and config.batch_statistics == "transductive" and config.inputs == "all":
        write_atomically(directory / original_name(curve), _original_csv(estimate))


def _protocol(config: Config) -> dict[str, Any]:
    common = {
        "num_tasks": config.num_test_tasks,
        "steps": config.evaluation_steps,
        "progress": config.progress,
    }
    if config.reinforcement:
        return common
    return {**common, "batch_statistics": config.batch_statistics}


def _measure(config: Config, learner: Any, tasks: Any, alpha: float | None) -> Estimate:
    if config.reinforcement:
        split = results.split(config)
        return _rl().evaluate(learner, tasks, step_size=alpha, split=split, **_protocol(config))
    return evaluate(learner, tasks, step_size=alpha, **_protocol(config))


def tune(learner: Any, config: Config) -> Tuning | None:
    """Chooses alpha on validation tasks, where the settings say so."""
    if not config.tunes_step_size:
        return None
    choose = _rl().tune_step_size if config.reinforcement else tune_step_size
    return choose(learner, make_tasks(config, "val"), **_protocol(config))


def _rl():
    from maml_tf.rl import evaluation  # needs an extra

    return evaluation


def _say(config: Config, learner: Any, iteration: int, tuning, estimate: Estimate) -> None:
    trained, alpha = config.trained(), results.step_size(config, tuning)
    told = [f"{trained.experiment}, {config.method}", f"iteration {iteration}"]
    shots = config.update_batch_size
    told += [f"{results.split(config)} split"]
    told += [f"{shots} trajectories" if config.reinforcement else f"K = {shots}"]
    if config.method != "nearest_neighbour":
        told += ["meta-learned step sizes" if alpha is None else f"step size {alpha:g}"]
        told[-1] += " (the best on validation tasks)" if tuning else ""
    told += ["support points in one half"] if config.inputs == "half" else []
    print(_printable(f"\n{', '.join(told)}:\n{table(estimate, learner.metric_name)}"), flush=True)


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


def _write(directory: Path, result: Result) -> None:
    _LOG.info("Wrote %s", write(result, directory))


def _original_csv(estimate: Estimate) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([f"update{step}" for step in range(len(estimate.mean))])
    for row in (estimate.mean, estimate.std, estimate.ci95):
        writer.writerow(list(row))
    return text.getvalue()
