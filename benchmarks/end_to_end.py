"""Trains and evaluates MiniImagenet as a user does, and times it beside the bare meta-step.

    python -m benchmarks.generated_images /tmp/generated/csv --layout=csv      # and folders, npz
    python -m benchmarks.end_to_end /tmp/generated/folders /tmp/generated/csv /tmp/generated/npz

For each folder and both orders, in turn: `maml-tf train` with flags/miniimagenet_5way_1shot.flags
and `maml-tf evaluate` in one process of their own, then `benchmarks.worker` with the same
arithmetic. What is not yet prepared in a folder is decoded by its first process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.worker import child

ORDERS = {"second": "maml", "first": "fomaml"}
SETTING = "miniimagenet_5way_1shot"
FLAGFILE = Path(__file__).parents[1] / "flags" / f"{SETTING}.flags"
COLUMNS = "{:<12}{:>8}{:>9}{:>9}{:>14}{:>13}{:>8}{:>9}{:>12}"


def train_and_evaluate(data_dir: str, order: str, iterations: int, tasks: int) -> dict[str, float]:
    """Runs both commands in this process, and watches the calls of the compiled loop.

    Returns:
      Seconds until the first meta-step, of the first one (it compiles), and of the evaluation;
      milliseconds of each later iteration; peak resident MB.
    """
    began = time.perf_counter()
    from maml_tf.cli.main import run
    from maml_tf.meta_learner import MetaLearner

    calls = []
    meta_steps = MetaLearner.meta_steps

    def watched(self, tasks, start, count):
        before = time.perf_counter()
        metrics = meta_steps(self, tasks, start, count)
        metrics.query_loss.numpy()
        calls.append((before, time.perf_counter() - before, count))
        return metrics

    MetaLearner.meta_steps = watched  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as logs:
        line = [f"--flagfile={FLAGFILE}", f"--method={ORDERS[order]}", f"--logdir={logs}"]
        line += [f"--data_dir={data_dir}", f"--metatrain_iterations={iterations}"]
        line += [f"--num_test_tasks={tasks}", f"--validation_tasks={tasks}", "--progress=False"]
        if run(["train", *line]):
            raise SystemExit(1)
        trained = time.perf_counter()
        if run(["evaluate", "--test_set", *line]):
            raise SystemExit(1)
    return {
        "start_s": calls[0][0] - began,
        "first_step_s": calls[0][1],
        "iteration_ms": 1e3 * sum(c[1] for c in calls[1:]) / sum(c[2] for c in calls[1:]),
        "evaluate_s": time.perf_counter() - trained,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="data_dirs")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=24, help="of the evaluation")
    parser.add_argument("--child", choices=list(ORDERS), help="one measurement, as JSON")
    options = parser.parse_args()
    sizes = (options.iterations, options.tasks)
    if options.child:
        print(json.dumps(train_and_evaluate(options.folders[0], options.child, *sizes)))
        return
    header = ("folder", "order", "start s", "first s", "iteration ms", "meta-step ms", "ratio")
    print(COLUMNS.format(*header, "peak MB", "evaluate s"))
    for order in ORDERS:
        for folder in options.folders:
            command = [sys.executable, "-m", "benchmarks.end_to_end", folder, "--child", order]
            command += ["--iterations", str(options.iterations), "--tasks", str(options.tasks)]
            whole = child(command)
            bare = [sys.executable, "-m", "benchmarks.worker", SETTING]
            bare += ["--repeats", str(options.iterations - 1)]
            step = child([*bare, "--first_order"] if order == "first" else bare)
            if whole is None or step is None:
                continue
            ratio = whole["iteration_ms"] / step["median_ms"]
            numbers = [f"{whole['start_s']:.1f}", f"{whole['first_step_s']:.1f}"]
            numbers += [f"{whole['iteration_ms']:.0f}", f"{step['median_ms']:.0f}", f"{ratio:.2f}"]
            numbers += [f"{whole['peak_rss_mb']:.0f}", f"{whole['evaluate_s']:.1f}"]
            print(COLUMNS.format(Path(folder).name, order, *numbers), flush=True)


if __name__ == "__main__":
    main()
