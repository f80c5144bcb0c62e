"""`maml-tf evaluate`: a table on screen, a JSON file, and the original's CSV file."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

from maml_tf.cli import runs
from maml_tf.config import Config
from maml_tf.evaluation import evaluate
from maml_tf.experiment import make_tasks
from maml_tf.result_files import VERSION
from maml_tf.types import Estimate

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Adapts to held-out tasks of the test or the validation split, and measures."""
    directory, config = runs.locate(given, words)
    runs.set_up_machine(config)
    split = "test" if config.test_set else "val"
    tasks = make_tasks(config, split)
    learner, iteration = runs.restore(directory, config)
    estimate = evaluate(
        learner,
        tasks,
        num_tasks=config.num_test_tasks,
        steps=config.test_steps,
        batch_statistics=config.batch_statistics,
        step_size=None if config.learn_step_size else config.update_lr,
        progress=config.progress,
    )
    metric = learner.metric_name
    print(f"\n{config.experiment}, {config.method}, iteration {iteration}, {split} split:")
    print(table(estimate, metric))
    _write(directory, config, split, metric, iteration, estimate)
    return 0


def table(estimate: Estimate, metric: str) -> str:
    """Formats the metric after each gradient step; accuracy in per cent."""
    scale, unit = (100.0, " (%)") if metric == "accuracy" else (1.0, "")
    lines = [f"{'steps':>5}  {metric + unit:>14}  {'± 95 %':>8}  {'std':>8}"]
    for step, row in enumerate(zip(estimate.mean, estimate.ci95, estimate.std, strict=True)):
        mean, ci95, std = (scale * value for value in row)
        lines.append(f"{step:>5}  {mean:>14.4g}  {ci95:>8.3g}  {std:>8.3g}")
    return "\n".join([*lines, f"({estimate.num_tasks} tasks)"])


def _write(directory: Path, config: Config, split, metric, iteration, estimate: Estimate) -> None:
    trained = config.trained()
    result = {
        "version": VERSION,
        "kind": "curve",
        "datasource": config.datasource,
        "experiment": trained.experiment,
        "method": trained.method,
        "metric": metric,
        "split": split,
        "seed": config.seed,
        "num_tasks": estimate.num_tasks,
        "ways": config.num_classes if config.classification else None,
        "shots": config.update_batch_size,
        "train_shots": trained.update_batch_size,
        "queries": config.query_shots,
        "inputs": "all",
        "conv": config.conv,
        "step_size": None if config.learn_step_size else config.update_lr,
        "batch_statistics": config.batch_statistics,
        "steps": list(range(len(estimate.mean))),
        "mean": list(estimate.mean),
        "ci95": list(estimate.ci95),
        "std": list(estimate.std),
        "iteration": iteration,
        "flags": config.to_flags().split(),
    }
    (directory / "results").mkdir(parents=True, exist_ok=True)
    name = f"{split}_{config.update_batch_size}shot_stepsize{config.update_lr:g}"
    name += "" if config.batch_statistics == "transductive" else f"_{config.batch_statistics}"
    path = directory / "results" / f"{name}.json"
    runs.write_atomically(path, json.dumps(result, indent=1) + "\n")
    original = f"test_ubs{config.update_batch_size}_stepsize{config.update_lr:g}.csv"
    if split == "test" and config.batch_statistics == "transductive":
        runs.write_atomically(directory / original, _original_csv(estimate))
    _LOG.info("Wrote %s", path)


def _original_csv(estimate: Estimate) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([f"update{step}" for step in range(len(estimate.mean))])
    for row in (estimate.mean, estimate.std, estimate.ci95):
        writer.writerow(list(row))
    return text.getvalue()
