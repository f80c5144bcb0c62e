"""Measures exports for LiteRT beside SavedModels: bytes, and milliseconds of a call on one thread.

    pip install -e .[litert]
    python -m benchmarks.litert
    python -m benchmarks.litert --models omniglot_5way_1shot --steps 5

Sets are those of an evaluation: N * K support and N * Q query examples. Each runtime is a process
of its own, and they take turns; a time is the median of all its calls.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SIZES = {"sinusoid_10shot": (10, 10), "omniglot_5way_1shot_dense": (5, 5)}
SIZES["omniglot_5way_1shot"] = (5, 5)
CALLS = ("adapt", "predict")


def main() -> None:
    """Exports, measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--steps", type=int, help="gradient steps, if not the training's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each call in a round")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure, options.models[0], options.seconds)
        return
    print("| | | bytes | adapt ms | predict ms |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in options.models:
            _export(name, Path(place, name), options.steps)
            times: dict[str, list[list[float]]] = {"saved_model": [], "litert": []}
            for _ in range(options.rounds):
                for runtime, rows in times.items():
                    rows.append(_in_a_process(runtime, Path(place, name), name, options.seconds))
            for runtime, rows in times.items():
                size = sum(f.stat().st_size for f in _files(Path(place, name), runtime))
                middle = [statistics.median(column) for column in zip(*rows, strict=True)]
                print(f"| {name} | {runtime} | {size:,} | {middle[0]:.3f} | {middle[1]:.3f} |")


def _export(name: str, place: Path, steps: int | None) -> None:
    import maml_tf

    learner = maml_tf.load(f"models/{name}")
    support, query = SIZES[name]
    sizes = {"support_examples": support, "query_examples": query}
    maml_tf.export(learner, place / "saved_model", steps=steps)
    maml_tf.export(learner, place / "litert", format="litert", steps=steps, **sizes)


def _files(place: Path, runtime: str) -> list[Path]:
    """What has to be on the device."""
    if runtime == "litert":
        return [place / runtime / "model.tflite"]
    return [f for f in (place / runtime).rglob("*") if f.is_file() and f.suffix != ".json"]


def _in_a_process(runtime: str, place: Path, name: str, seconds: float) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.litert", "--models", name]
    command += ["--seconds", str(seconds), "--measure", runtime, str(place)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(number) for number in done.stdout.split()[-len(CALLS) :]]


def measure(runtime: str, place: str, name: str, seconds: float) -> None:
    """Prints the median milliseconds of `adapt` and of `predict`."""
    import numpy as np

    draw, (support, query) = np.random.default_rng(0), SIZES[name]
    shape = (1,) if name.startswith("sinusoid") else (28, 28, 1)
    x, queries = (draw.random((n, *shape), "float32") for n in (support, query))
    y = np.sin(x) if name.startswith("sinusoid") else np.arange(5, dtype="int32")
    prepare = _litert if runtime == "litert" else _saved_model
    for call in prepare(Path(place, runtime), x, y, queries):
        print(f"{1e3 * _median(call, seconds):.4f}")


def _saved_model(place: Path, x, y, queries) -> list[Callable[[], object]]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(str(place))
    x, y, queries = map(tf.constant, (x, y, queries))
    adapted = model.adapt(x, y)
    return [lambda: model.adapt(x, y), lambda: model.predict(queries, adapted)]


def _litert(place: Path, x, y, queries) -> list[Callable[[], object]]:
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(model_path=str(place / "model.tflite"), num_threads=1)
    adapt, predict = map(model.get_signature_runner, CALLS)
    adapted = adapt(support_x=x, support_y=y)
    return [lambda: adapt(support_x=x, support_y=y), lambda: predict(x=queries, **adapted)]


def _median(call: Callable[[], object], seconds: float) -> float:
    for _ in range(5):
        call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 20:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
