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
from typing import NamedTuple

from benchmarks.worker import child

ORDERS = {"second": "maml", "first": "fomaml"}
SETTING = "miniimagenet_5way_1shot"
FLAGFILE = Path(__file__).parents[1] / "flags" / f"{SETTING}.flags"
COLUMNS = "{:<10}{:>8}{:>9}{:>9}{:>14}{:>14}{:>7}{:>14}{:>14}{:>7}{:>9}{:>12}"


class _Call(NamedTuple):
    """One call of the compiled loop."""

    began: float
    seconds: float
    processor: float  # seconds of all threads
    count: int  # iterations


def train_and_evaluate(
    data_dir: str, order: str, iterations: int, tasks: int, steps: int
) -> dict[str, float]:
    """Runs both commands in this process, and watches the calls of the compiled loop.

    Returns:
      Seconds until the first meta-step, of the first one (it compiles), and of the evaluation;
      milliseconds of each later iteration, by the clock and of the processor; peak resident MB.
    """
    began = time.perf_counter()
    from maml_tf.cli.main import run
    from maml_tf.supervised.learner import MetaLearner

    calls = []
    meta_steps = MetaLearner.meta_steps

    def watched(self, tasks, start, count):
        before, processor = time.perf_counter(), time.process_time()
        metrics = meta_steps(self, tasks, start, count)
        metrics.query_loss.numpy()
        wall, processor = time.perf_counter() - before, time.process_time() - processor
        calls.append(_Call(before, wall, processor, count))
        return metrics

    MetaLearner.meta_steps = watched  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as logs:
        line = [f"--flagfile={FLAGFILE}", f"--method={ORDERS[order]}", f"--logdir={logs}"]
        line += [f"--data_dir={data_dir}", f"--metatrain_iterations={iterations}"]
        line += [f"--num_test_tasks={tasks}", f"--validation_tasks={tasks}", "--progress=False"]
        line += [f"--test_steps={steps}"]
        if run(["train", *line]):
            raise SystemExit(1)
        trained = time.perf_counter()
        if run(["evaluate", "--test_set", *line]):
            raise SystemExit(1)
    later = calls[1:]
    iterations_done = sum(call.count for call in later)
    return {
        "start_s": calls[0].began - began,
        "first_step_s": calls[0].seconds,
        "iteration_ms": 1e3 * sum(call.seconds for call in later) / iterations_done,
        "processor_ms": 1e3 * sum(call.processor for call in later) / iterations_done,
        "evaluate_s": time.perf_counter() - trained,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="data_dirs")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=24, help="of the evaluation")
    parser.add_argument("--steps", type=int, default=10, help="gradient steps of the evaluation")
    parser.add_argument("--child", choices=list(ORDERS), help="one measurement, as JSON")
    options = parser.parse_args()
    sizes = (options.iterations, options.tasks, options.steps)
    if options.child:
        print(json.dumps(train_and_evaluate(options.folders[0], options.child, *sizes)))
        return
    times = ("iteration ms", "meta-step ms", "ratio", "its processor", "its processor", "ratio")
    header = ("folder", "order", "start s", "first s", *times, "peak MB", "evaluate s")
    print(COLUMNS.format(*header))
    for order in ORDERS:
        for folder in options.folders:
            command = [sys.executable, "-m", "benchmarks.end_to_end", folder, "--child", order]
            for name in ("iterations", "tasks", "steps"):
                command += [f"--{name}", str(getattr(options, name))]
            whole = child(command)
            bare = [sys.executable, "-m", "benchmarks.worker", SETTING]
            bare += ["--repeats", str(options.iterations - 1)]
            step = child([*bare, "--first_order"] if order == "first" else bare)
            if whole is None or step is None:
                continue
            numbers = [f"{whole['start_s']:.1f}", f"{whole['first_step_s']:.1f}"]
            for ours, bare_ms in (("iteration_ms", "median_ms"), ("processor_ms",) * 2):
                numbers += [f"{whole[ours]:.0f}", f"{step[bare_ms]:.0f}"]
                numbers += [f"{whole[ours] / step[bare_ms]:.2f}"]
            numbers += [f"{whole['peak_rss_mb']:.0f}", f"{whole['evaluate_s']:.1f}"]
            print(COLUMNS.format(Path(folder).name, order, *numbers), flush=True)


if __name__ == "__main__":
    main()
