"""Writes the package's own compiled programs for a machine that has JAX, and no TensorFlow.

    python -m benchmarks.gpu.export --to DIR steps [SETTING ...]
    python -m benchmarks.gpu.export --to DIR training NAME --flagfile=... --iterations=40000

`steps` are meta-steps on fixed data, for `benchmarks.gpu.run_steps`. A `training` is the loop of
meta-steps of a command line, with its tasks drawn in it, for `benchmarks.gpu.train`; the flags are
those of `maml-tf train`. Both are what TensorFlow compiles with XLA, lowered to StableHLO.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("JAX_PLATFORMS", "cpu")
PLATFORMS = ("cpu", "cuda")
LARGE = 1 << 20
"""Bytes from which an array has a file of its own, which programs share."""
RELEASES = {
    "sinusoid": "sinusoid_10shot",
    "omniglot_5way_1shot": "omniglot_5way_1shot",
    "omniglot_5way_1shot_dense": "omniglot_5way_1shot_dense",
    "omniglot_20way_1shot": "omniglot_20way_1shot",
}
"""Weights to start from: at initial ones float32 itself is some percent from float64."""
STEPS = {
    # name: setting, other fields of it, TF32
    "sinusoid": ("sinusoid", {}, False),
    "omniglot_5way_1shot": ("omniglot_5way_1shot", {}, False),
    "omniglot_5way_1shot_8_tasks": ("omniglot_5way_1shot", {"tasks": 8}, False),
    "omniglot_5way_1shot_256_tasks": ("omniglot_5way_1shot", {"tasks": 256}, False),
    "omniglot_5way_1shot_dense": ("omniglot_5way_1shot_dense", {}, False),
    "omniglot_20way_1shot": ("omniglot_20way_1shot", {}, False),
    "omniglot_20way_1shot_tf32": ("omniglot_20way_1shot", {}, True),
    "miniimagenet_5way_1shot": ("miniimagenet_5way_1shot", {}, False),
    "miniimagenet_5way_1shot_tf32": ("miniimagenet_5way_1shot", {}, True),
}


def write(directory: Path, name: str, program: bytes, variables: dict, about: dict) -> None:
    """Writes a program: `NAME.jax`, its variables `NAME.npz`, and `NAME.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    small, large = {}, {}
    for key, value in variables.items():
        value = np.asarray(value)
        if value.nbytes < LARGE:
            small[key] = value
            continue
        large[key] = f"{hashlib.sha256(value.tobytes()).hexdigest()[:16]}.npz"
        if not (directory / large[key]).exists():
            np.savez_compressed(directory / large[key], value=value)
    (directory / f"{name}.jax").write_bytes(program)
    np.savez_compressed(directory / f"{name}.npz", **small)
    (directory / f"{name}.json").write_text(json.dumps({**about, "large": large}, indent=1))
    print(f"{name}: {len(program) / 1e3:.0f} kB, {len(variables)} variables", flush=True)


def training(name: str, words: list[str]) -> tuple[bytes, dict, dict]:
    """The loop of meta-steps of a command line."""
    import tensorflow as tf

    from maml_tf.cli import runs
    from maml_tf.cli.flags import parse
    from maml_tf.engine.compilation import looped
    from maml_tf.experiments import machine
    from maml_tf.experiments.build import make_learner, make_tasks
    from maml_tf.experiments.settings import make
    from maml_tf.saving.stablehlo import lower
    from maml_tf.supervised.portable import variables_of

    settings = make(parse([*words, "--jit_compile=True"]).given).trained()
    machine.set_up(settings.machine)
    learner, tasks = make_learner(settings), make_tasks(settings, "train")
    if settings.training.init:
        runs.start_from_release(settings, learner)
    spec = learner._steps.spec
    loop = looped(lambda index: learner.meta_step(tasks, index), spec, jit_compile=True)
    variables = variables_of(learner)
    state = list(variables)[: len(learner.state)]
    variables |= {f"tasks_{k}": v for k, v in vars(tasks).items() if tf.is_tensor(v)}
    arguments = {"start": tf.TensorSpec([], tf.int64), "count": tf.TensorSpec([], tf.int32)}
    program = lower(
        lambda *given: dict(zip(spec._fields, loop(*given), strict=True)),
        arguments,
        variables,
        platforms=PLATFORMS,
    )
    about = {"flags": words, "iterations": settings.run.iterations, "state": state}
    return program, variables, about


def step(name: str) -> tuple[bytes, dict, dict]:
    """One meta-step on the fixed data of a setting, and the loss that TensorFlow makes of it."""
    import tensorflow as tf

    from benchmarks import settings, worker
    from maml_tf.supervised.portable import programs

    setting_name, others, tf32 = STEPS[name]
    setting = dataclasses.replace(settings.SETTINGS[setting_name], **others)
    learner, tasks = worker.prepare(setting, jit_compile=True)
    if setting_name in RELEASES:
        learner.model.load_weights(f"models/{RELEASES[setting_name]}/initial.weights.h5")
    task = tasks(0, setting.tasks)
    sizes = {f"{s}_examples": t.x.shape[1] for s, t in task._asdict().items()}
    made = programs(learner, **sizes, platforms=PLATFORMS, tf32=tf32)
    _, metrics = tf.function(learner.meta_gradient, autograph=False)(task)
    about = {"setting": dataclasses.asdict(setting), "loss": float(metrics.query_loss)}
    return made.functions["meta_step"], dict(made.variables), about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", required=True, type=Path, help="directory")
    parser.add_argument("kind", choices=["steps", "training"])
    parser.add_argument("names", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.kind == "training":
        name, *words = options.names
        write(options.to, name, *training(name, words))
        return
    names = options.names or list(STEPS)
    if len(names) == 1:
        write(options.to, names[0], *step(names[0]))
        return
    for name in names:  # A process each, for threads are global to it.
        words = ["benchmarks.gpu.export", "--to", str(options.to), "steps", name]
        subprocess.run([sys.executable, "-m", *words], check=True)


if __name__ == "__main__":
    main()
