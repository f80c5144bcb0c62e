"""One measurement of this package's meta-step, in a process of its own; prints one line of JSON.

    python -m benchmarks.worker omniglot_5way_1shot --tasks 64 --inner_steps 5
    python -m benchmarks.worker omniglot_20way_1shot --levers multi_step_loss=1000000

Thread counts are global to a process, and peak memory is its whole life's: the other benchmarks
start this one anew for each figure. Imports TensorFlow only when it measures.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks import settings


def config_fields(setting: settings.Setting) -> dict:
    """The flags that describe a setting."""
    return {
        "problem": setting.name.split("_")[0],
        "norm": "none" if setting.regression else "batch_norm",
        "ways": setting.ways,
        "shots": setting.shots,
        "queries": setting.queries,
        "meta_batch_size": setting.tasks,
        "inner_steps": setting.inner_steps,
        "step_size": setting.step_size,
        "filters": setting.filters,
        "max_pool": setting.max_pool,
        "conv": setting.convolutional or setting.regression,
        "method": "fomaml" if setting.first_order else "maml",
    }


def prepare(setting: settings.Setting, with_data: bool = False, **fields):
    """Makes the learner of a setting, and its tasks: one meta-batch again and again, or drawn.

    Args:
      setting: what to run.
      with_data: draw each meta-batch inside the step, images from an array of the real data set's
        size, instead of repeating one.
      fields: flags, other than the setting's.

    Returns:
      `MetaLearner`, `TaskSource`.
    """
    import tensorflow as tf

    from maml_tf.experiments import machine
    from maml_tf.experiments.build import make_learner
    from maml_tf.experiments.settings import make
    from maml_tf.tasks import ConstantTasks, Episodes, Sinusoid
    from maml_tf.types import Batch, Task

    made = make({**config_fields(setting), **fields})
    machine.set_up(made.machine)
    learner = make_learner(made)
    if with_data and setting.regression:
        return learner, Sinusoid(shots=setting.shots, queries=setting.queries)
    if with_data:
        classes, examples = (1100, 20) if setting.channels == 1 else (64, 600)
        shape = (classes, examples, setting.image_size, setting.image_size, setting.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        rotate = setting.channels == 1
        sizes = (setting.ways, setting.shots, setting.queries)
        return learner, Episodes(images, *sizes, rotations=rotate, scale=1 / 255)
    arrays = settings.random_task_batch(setting)
    for part in ("support_x", "query_x"):  # dense networks: flat there, images here
        shape = [*arrays[part].shape[:2], *learner.model.input_shape[1:]]
        arrays[part] = arrays[part].reshape(shape)
    task = Task(
        *(Batch(*(tf.constant(arrays[f"{s}_{a}"]) for a in "xy")) for s in ("support", "query"))
    )
    return learner, ConstantTasks(task)


def calls_of(setting: settings.Setting) -> int:
    """Meta-steps a call: small ones by the hundred, for that is how training runs them."""
    return 1 if setting.convolutional else 100


def measure(learner, tasks, count: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a meta-step, seconds to compile, and this process's peak MB.

    The median is of wall time, the mean of processor time, which other programs change less.
    """
    start = time.perf_counter()
    learner.meta_steps(tasks, 0, 1)
    compile_seconds = time.perf_counter() - start
    learner.meta_steps(tasks, 1, 2 * count)
    seconds, processor = [], time.process_time()
    for i in range(repeats):
        start = time.perf_counter()
        learner.meta_steps(tasks, i * count, count).query_loss.numpy()
        seconds.append((time.perf_counter() - start) / count)
    return {
        "median_ms": 1e3 * statistics.median(seconds),
        "processor_ms": 1e3 * (time.process_time() - processor) / (repeats * count),
        "compile_s": compile_seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def compare(makers: dict[str, Callable], count: int, repeats: int) -> dict[str, dict[str, float]]:
    """Meta-steps of several learners in turn, and the ratio of each to the first.

    Ratios are medians over the turns: what slows the machine down slows neighbours down alike.

    Args:
      makers: by name, what makes a learner and its tasks.
      count: meta-steps a turn.
      repeats: turns.
    """
    made = {name: make() for name, make in makers.items()}
    for learner, tasks in made.values():
        learner.meta_steps(tasks, 0, 1)
        learner.meta_steps(tasks, 1, 2 * count)
    wall: dict[str, list[float]] = {name: [] for name in made}
    processor: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(1, repeats + 1):
        for name, (learner, tasks) in made.items():
            begun = time.perf_counter(), time.process_time()
            learner.meta_steps(tasks, turn * count, count).query_loss.numpy()
            wall[name].append((time.perf_counter() - begun[0]) / count)
            processor[name].append((time.process_time() - begun[1]) / count)
    first = next(iter(made))

    def ratio(seconds: dict[str, list[float]], name: str) -> float:
        return statistics.median(np.divide(seconds[name], seconds[first]))

    return {
        name: {
            "median_ms": 1e3 * statistics.median(wall[name]),
            "ratio": ratio(wall, name),
            "processor_ratio": ratio(processor, name),
        }
        for name in made
    }


def flags(word: str) -> dict[str, bool | int | float | str]:
    """A flag said as NAME=VALUE, by its name."""
    from maml_tf.cli.flags import parse

    return parse([f"--{word}"]).given


def child(command: list[str]) -> dict[str, float] | None:
    """Runs a measurement in a process of its own; None, and its last words, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        print(" ".join(command), "failed:", done.stderr.strip()[-300:], file=sys.stderr)
        return None
    return json.loads(lines[-1])


def main() -> None:
    """Prints one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=list(settings.SETTINGS))
    parser.add_argument("--repeats", type=int, default=10, help="timed steps")
    parser.add_argument("--with_data", action="store_true", help="draw meta-batches in the step")
    parser.add_argument("--tasks", type=int, help="T, other than the setting's")
    parser.add_argument("--inner_steps", type=int, help="S, other than the setting's")
    parser.add_argument("--first_order", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--levers", nargs="*", help="flags, such as clip=1: what each one costs")
    options = parser.parse_args()
    others = {name: getattr(options, name) for name in ("tasks", "inner_steps", "first_order")}
    setting = dataclasses.replace(
        settings.SETTINGS[options.setting], **{k: v for k, v in others.items() if v}
    )
    usual = functools.partial(prepare, setting, options.with_data, recompute=options.recompute)
    if options.levers:
        makers = {"without": usual}
        makers |= {word: functools.partial(usual, **flags(word)) for word in options.levers}
        print(json.dumps(compare(makers, calls_of(setting), options.repeats), indent=1))
        return
    learner, tasks = usual()
    print(json.dumps(measure(learner, tasks, calls_of(setting), options.repeats)))


if __name__ == "__main__":
    main()
