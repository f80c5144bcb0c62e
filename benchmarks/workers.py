"""What several workers gain: two of a core each beside one, what they exchange, and a model.

    python -m benchmarks.workers --rounds 3                       # about 10 minutes on two cores
    python -m benchmarks.workers --experiments omniglot_5way_1shot --plot docs/figures/scale.png

Each measurement is a process, or two, held to a core each. Rounds alternate between one and two, so
that a busy machine slows both. Efficiency is the time of one over twice the time of two: 1 is all
that there is to gain. The model is of a ring: W workers pass 2 (W - 1) messages of a W-th of the
bytes on, each of which costs a delay, TensorFlow's own handling and the wire. Delay and handling
are fitted to exchanges of several sizes, measured here; the wire is what a network is sold as.

Needs Linux, whose processes can be held to cores.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

EXPERIMENTS = ("omniglot_5way_1shot", "cheetah_velocity")
SIZES = (1, 12_500, 125_000, 500_000)
"""Numbers of four bytes in the exchanges that the model is fitted to."""

NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
"""Bytes per second."""

STEPS = {"omniglot_5way_1shot": 25, "cheetah_velocity": 3}
"""Timed meta-steps of a measurement; of others 5."""

STEPS_A_CALL = {"cheetah_velocity": 1}
"""Meta-steps of a compiled call, which a training makes about a second long; of others 5."""


class Measured(NamedTuple):
    """One experiment."""

    name: str
    seconds: float  # a meta-step of one core
    together: float  # of two workers of one core each
    exchanges: float  # a meta-step
    size: float  # bytes of all of them, as each worker gives them
    weights: int  # bytes of what is meta-learned
    tasks: int


class Cost(NamedTuple):
    """What passing a message on costs."""

    delay: float  # seconds
    handling: float  # seconds per byte


def ring(cost: Cost, workers: int, exchanges: float, size: float, bandwidth: float) -> float:
    """Seconds that `exchanges` of `size` bytes in all take in a ring of workers."""
    if workers == 1:
        return 0.0
    messages = 2 * (workers - 1)
    wire = cost.handling + 1 / bandwidth
    return messages * (exchanges * cost.delay + size / workers * wire)


def efficiency(m: Measured, cost: Cost, workers: int, bandwidth: float, tasks: int) -> float:
    """The share of what W workers could gain on a meta-batch of `tasks` that they do gain."""
    share = -(-tasks // workers)  # One has the most.
    alone = m.seconds * tasks / m.tasks
    step = m.seconds * share / m.tasks
    return alone / workers / (step + ring(cost, workers, m.exchanges, m.size, bandwidth))


# --- in a process of its own ---


def measure(name: str, steps: int) -> None:
    """Times meta-steps of an experiment; prints one line of JSON."""
    import numpy as np
    import tensorflow as tf

    from maml_tf.cli import flags, original
    from maml_tf.engine import replicas
    from maml_tf.engine.workers import Workers
    from maml_tf.experiments import build, machine
    from maml_tf.experiments.settings import make

    counted: list[int] = []
    a_call = STEPS_A_CALL.get(name, 5)
    packed, gather = replicas._packed, Workers.gather

    def counting(tensors: Any) -> Any:
        vectors = packed(tensors)
        with tf.control_dependencies([tf.py_function(lambda *v: note(v), vectors, [])]):
            return [tf.identity(vector) for vector in vectors]

    def note(vectors: Any) -> None:
        counted.extend(v.shape.num_elements() * v.dtype.size for v in vectors)

    def gathering(self: Any, value: Any) -> Any:
        counted.append(np.asarray(value).nbytes)
        return gather(self, value)

    words = [f"--flagfile=flags/{name}.flags", "--intra_op_threads=1", "--inter_op_threads=1"]
    words += ["--distribute=multiworker"] if os.environ.get("TF_CONFIG") else []
    settings = make(original.translate(flags.parse(words).given))
    machine.set_up(settings.machine)
    with machine.together(settings.machine) as workers:
        tasks = build.make_tasks(settings, "train")
        learner: Any = build.make_learner(settings)
        learner.meta_steps(tasks, 0, 1)
        each = []
        for start in range(1, steps, a_call):
            began = time.perf_counter()
            learner.meta_steps(tasks, start, a_call)
            each.append((time.perf_counter() - began) / a_call)
        sizes: list[float] = []
        if workers.together:
            replicas._packed, Workers.gather = counting, gathering  # type: ignore[method-assign]
            again: Any = build.make_learner(settings)
            again.meta_steps(tasks, 0, 1)
            sizes = [float(size) for size in counted]
            Workers.gather = gather  # type: ignore[method-assign]
            costs = exchange_times(workers)
        found = {
            "seconds": statistics.median(each),
            "exchanges": len(sizes),
            "size": sum(sizes),
            "weights": sum(4 * int(np.prod(v.shape)) for v in learner.variables),
            "tasks": learner.meta_batch_size,
            "times": costs if workers.together else {},
        }
        if workers.is_chief:
            print(json.dumps(found), flush=True)


def exchange_times(workers: Any) -> dict[int, float]:
    """Seconds of one sum over the workers, by its numbers."""
    import tensorflow as tf

    from maml_tf.engine.replicas import Replicas

    strategy, times = workers._strategy, {}
    for size in SIZES:

        @tf.function(autograph=False)
        def several(vector: tf.Tensor) -> tf.Tensor:
            mean = Replicas(strategy, workers.count).mean(lambda v, _: v + 1)
            return tf.while_loop(
                lambda i, _: i < 20, lambda i, v: (i + 1, mean(v, None)), [0, vector]
            )[1]

        vector = tf.zeros([size])
        several(vector)
        tries = []
        for _ in range(5):
            began = time.perf_counter()
            several(vector).numpy()
            tries.append((time.perf_counter() - began) / 20)
        times[size] = statistics.median(tries)
    return times


# --- from outside ---


def processes(name: str, steps: int, workers: int) -> dict[str, Any]:
    """Measures by one process, or by several, each on a core of its own."""
    places = [socket.socket() for _ in range(workers)]
    for place in places:
        place.bind(("localhost", 0))
    cluster = {"worker": [f"localhost:{place.getsockname()[1]}" for place in places]}
    for place in places:
        place.close()
    started = []
    for index in range(workers):
        own = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        own.pop("TF_CONFIG", None)
        if workers > 1:
            task = {"type": "worker", "index": index}
            own["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        command = [sys.executable, "-m", "benchmarks.workers", f"--child={name}"]
        started.append(
            subprocess.Popen(
                [*command, f"--steps={steps}"],
                env=own,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                preexec_fn=lambda core=index: os.sched_setaffinity(0, [core]),  # type: ignore[misc]
            )
        )
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"A process of {name} failed.")
    return json.loads(outputs[0].splitlines()[-1])


def compare(name: str, rounds: int) -> tuple[Measured, dict[int, float]]:
    """Measures one experiment by one and by two, in turns."""
    steps = STEPS.get(name, 5)
    alone, both = [], []
    for _ in range(rounds):
        alone.append(processes(name, steps, 1))
        both.append(processes(name, steps, 2))
    times = {s: statistics.median(b["times"][str(s)] for b in both) for s in SIZES}
    fixed = {key: both[-1][key] for key in ("exchanges", "size", "weights", "tasks")}
    seconds, together = (statistics.median(m["seconds"] for m in each) for each in (alone, both))
    return Measured(name, seconds, together, **fixed), times


def fit(times: dict[int, float]) -> Cost:
    """Delay and handling of the messages of exchanges between two, by least squares."""
    import numpy as np

    # Two messages of half the bytes each.
    rows = np.array([[2.0, 4.0 * size] for size in times])
    seconds = np.array(list(times.values()))
    weights = 1 / seconds  # Relative errors count: a scalar is as much a fact as a megabyte.
    delay, handling = np.linalg.lstsq(rows * weights[:, None], seconds * weights, rcond=None)[0]
    return Cost(max(delay, 0.0), max(handling, 0.0))


def show(measured: list[Measured], times: dict[int, float], cost: Cost) -> None:
    """Prints the tables."""
    print("\n| exchange of | ms |\n|---|---|")
    for size, seconds in times.items():
        print(f"| {4 * size:,} bytes | {1e3 * seconds:.2f} |")
    print(
        f"\nFitted: {1e3 * cost.delay:.2f} ms a message, {1e9 * cost.handling:.2f} ns a byte.\n\n"
        "| experiment | one core, ms | two workers, ms | efficiency | exchanges a step | bytes a "
        "step | bytes of the weights |\n|---|---|---|---|---|---|---|"
    )
    for m in measured:
        print(
            f"| {m.name} | {1e3 * m.seconds:.0f} | {1e3 * m.together:.0f} | "
            f"{m.seconds / 2 / m.together:.2f} | {m.exchanges:.0f} | {m.size:,.0f} | "
            f"{m.weights:,} |"
        )
    heads = [f"{w} at {network}" for network in NETWORKS for w in (8, 64)]
    print("\n| predicted efficiency | T | " + " | ".join(heads) + " |", "|---" * 6 + "|", sep="\n")
    for m in measured:
        for tasks in (m.tasks, 1024):
            cells = [
                f"{efficiency(m, cost, w, b, tasks):.2f}"
                for b in NETWORKS.values()
                for w in (8, 64)
            ]
            print(f"| {m.name} | {tasks} | " + " | ".join(cells) + " |")


def plot(path: Path, measured: list[Measured], cost: Cost) -> None:
    """Draws how many times faster W workers are, measured and predicted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from maml_tf.plotting.style import COLOURS

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    counts = [1, 2, 4, 8, 16, 32, 64]
    for axes, m in zip(figure.subplots(1, len(measured), squeeze=False)[0], measured, strict=True):
        axes.plot(counts, counts, color="0.7", label="all there is to gain")
        cases = [(m.tasks, n, b) for n, b in NETWORKS.items()]
        cases += [(1024, n, b) for n, b in NETWORKS.items()]
        for colour, (tasks, network, bandwidth) in zip(COLOURS, cases, strict=False):
            gains = [w * efficiency(m, cost, w, bandwidth, tasks) for w in counts]
            style = "--" if "100" in network else "-"
            axes.plot(counts, gains, style, color=colour, label=f"T = {tasks}, {network}")
        axes.plot([2], [m.seconds / m.together], "ko", label="measured, loopback")
        axes.set(xscale="log", yscale="log", xlabel="workers", title=m.name.replace("_", " "))
        axes.set(ylabel="times as fast as one", xticks=counts, xticklabels=counts)
        axes.set(yticks=counts, yticklabels=counts)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=7)
    FigureCanvasAgg(figure)
    figure.savefig(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        measure(given.child, given.steps)
        return
    found = [compare(name, given.rounds) for name in given.experiments]
    measured = [m for m, _ in found]
    times = {size: statistics.median(t[size] for _, t in found) for size in SIZES}
    cost = fit(times)
    show(measured, times, cost)
    if given.plot:
        plot(given.plot, measured, cost)


if __name__ == "__main__":
    main()
