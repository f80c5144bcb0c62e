"""Times one meta-step of each setting, beside peers where they are installed.

    python -m benchmarks.meta_step                                       every setting
    python -m benchmarks.meta_step --settings omniglot_5way_1shot --peers torch jax

For each: milliseconds (median of at least ten steps), tasks a second, arithmetic rate and its share
of the matrix-product rate measured in the same process, peak memory, seconds to compile, and the
ratio to the faster peer. Each measurement is a process of its own, because thread counts are global
to one; ours and the peers' take turns, round after round, because machines drift.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from benchmarks import settings

PEERS = ("torch", "jax")
COLUMNS = "{:<32}{:>9}{:>9}{:>9}{:>9}{:>8}{:>10}{:>10}"


def measure(name: str, repeats: int, with_data: bool) -> dict[str, float]:
    """Measures this package's meta-step in this process.

    Args:
      name: of a setting.
      repeats: timed meta-steps.
      with_data: draw each meta-batch inside the step, instead of repeating one.

    Returns:
      Milliseconds, GFLOP/s of the step and of a 2048 x 2048 product, MB, seconds to compile.
    """
    import resource

    import numpy as np
    import tensorflow as tf

    from maml_tf.cli import runs
    from maml_tf.config import Config
    from maml_tf.experiment import make_learner
    from maml_tf.tasks import Episodes, Sinusoid
    from maml_tf.types import Batch, Task

    setting = settings.SETTINGS[name]
    config = Config(**_settings_as_config(setting))
    runs.set_up_machine(config)
    learner = make_learner(config)
    if not with_data:
        arrays = settings.random_task_batch(setting)
        for part in ("support_x", "query_x"):  # dense networks: flat there, images here
            shape = [*arrays[part].shape[:2], *learner.model.input_shape[1:]]
            arrays[part] = arrays[part].reshape(shape)
        task = Task(
            *(Batch(*(tf.constant(arrays[f"{s}_{a}"]) for a in "xy")) for s in ("support", "query"))
        )

        def tasks(index, num_tasks):
            return task
    elif setting.regression:
        tasks = Sinusoid(shots=setting.shots, queries=setting.queries)
    else:
        shape = (64, 40, setting.image_size, setting.image_size, setting.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        rotate = setting.channels == 1
        tasks = Episodes(images, setting.ways, setting.shots, setting.queries, rotations=rotate)

    start = time.perf_counter()
    learner.meta_steps(tasks, 0, 1)
    compile_seconds = time.perf_counter() - start
    # Small steps are timed by the hundred: that is how training runs them.
    count = 100 if not setting.convolutional else 1
    learner.meta_steps(tasks, 1, 2 * count)
    seconds = []
    for i in range(repeats):
        start = time.perf_counter()
        learner.meta_steps(tasks, i * count, count).query_loss.numpy()
        seconds.append((time.perf_counter() - start) / count)
    return {
        "median_ms": 1e3 * statistics.median(seconds),
        "compile_s": compile_seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _settings_as_config(setting: settings.Setting) -> dict:
    datasource = setting.name.split("_")[0]
    return {
        "datasource": datasource,
        "norm": "None" if setting.regression else "batch_norm",
        "num_classes": setting.ways,
        "update_batch_size": setting.shots,
        "queries": setting.queries,
        "meta_batch_size": setting.tasks,
        "num_updates": setting.inner_steps,
        "update_lr": setting.step_size,
        "num_filters": setting.filters,
        "max_pool": setting.max_pool,
        "conv": setting.convolutional or setting.regression,
        "stop_grad": setting.first_order,
        "clip": -1.0,
    }


def _child(command: list[str]) -> dict[str, float] | None:
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        print(" ".join(command), "failed:", done.stderr.strip()[-300:], file=sys.stderr)
        return None
    return json.loads(lines[-1])


def compare(name: str, peers: list[str], options: argparse.Namespace) -> dict[str, list[dict]]:
    """Measures ours, ours with data, and each peer in turn, `options.rounds` times."""
    own = [sys.executable, "-m", "benchmarks.meta_step", "--repeats", str(options.repeats)]
    commands = {
        "maml_tf": [*own, "--worker", name],
        "maml_tf, data drawn": [*own, "--with_data", "--worker", name],
    }
    for peer in peers:
        run = [options.peer_python, "-m", "benchmarks.peers.run", "--peer", peer]
        commands[peer] = [*run, "--setting", name, "--repeats", str(options.repeats)]
    results: dict[str, list[dict]] = {who: [] for who in commands}
    for _ in range(options.rounds):
        for who, command in commands.items():
            if (result := _child(command)) is not None:
                results[who].append(result)
    return results


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="*", default=list(settings.SETTINGS))
    parser.add_argument("--peers", nargs="*", default=[], choices=PEERS)
    parser.add_argument("--peer_python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of a measurement")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each, in turn")
    parser.add_argument("--with_data", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker, options.repeats, options.with_data)))
        return
    from benchmarks.peers.run import matmul_gflops

    header = ("setting", "ms", "tasks/s", "GFLOP/s", "matmul", "share", "peak MB", "compile s")
    print(COLUMNS.format(*header))
    for name in options.settings:
        rate = matmul_gflops()
        work = settings.floating_point_operations(settings.SETTINGS[name])
        medians = {}
        for who, rows in compare(name, options.peers, options).items():
            if not rows:
                continue
            ms = statistics.median(row["median_ms"] for row in rows)
            medians[who] = ms
            gflops = work / ms / 1e6
            numbers = [f"{ms:.3g}", f"{1e3 * settings.SETTINGS[name].tasks / ms:.0f}"]
            numbers += [f"{gflops:.1f}", f"{rate:.1f}", f"{gflops / rate:.0%}"]
            numbers += [f"{max(row['peak_rss_mb'] for row in rows):.0f}"]
            numbers += [f"{statistics.median(row['compile_s'] for row in rows):.1f}"]
            label = name if who == "maml_tf" else f"  {who}"
            print(COLUMNS.format(label, *numbers), flush=True)
        best = min((medians[p] for p in options.peers if p in medians), default=None)
        if best:
            print(f"  ratio to the faster peer: {medians['maml_tf'] / best:.3f}", flush=True)


if __name__ == "__main__":
    main()
