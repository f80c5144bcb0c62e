"""Kills one of two workers again and again, at any moment, and compares with a run left alone.

    python -m tests.worker_kills                # 30 kills, about 12 minutes
    python -m tests.worker_kills --kills 5 --problem navigation_2d

Every life of the run is ended by `kill -9` of a random worker, the chief included, at a random
moment, from the start of Python on. The survivor has to end by itself, with status 75 and one line
that names the other; how long that took is printed. A worker that was killed before it met the
others leaves them waiting: it alone is started again. At the end the same command runs to its end,
and every weight and every number of the optimizer has to be, bit for bit, that of a run of two
workers which nobody disturbed.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))
import cluster  # noqa: E402

COMMON = ["--distribute=multiworker", "--run_name=run", "--progress=False", "--log_every=5"]
COMMON += ["--jit_compile=False", "--inter_op_threads=1"]
PROBLEMS = {
    "sinusoid": ["--norm=None", "--meta_batch_size=8", "--save_every=25", "--validate_every=50"]
    + ["--validation_tasks=24"],
    "navigation_2d": ["--datasource=navigation_2d", "--meta_batch_size=4", "--horizon=20"]
    + ["--update_batch_size=4", "--update_lr=0.1", "--save_every=2", "--validate_every=4"]
    + ["--validation_tasks=4"],
}
LATEST = 24.0
"""Seconds after its start at which a life ends, at most; TensorFlow's start takes most of them."""
LEFT_WAITING = 20.0
"""Seconds after which a survivor counts as waiting for the others' start."""


def command(problem: str, directory: Path, iterations: int) -> list[str]:
    """Words of one worker; the chief alone writes into the directory."""
    own = [f"--logdir={directory}", f"--metatrain_iterations={iterations}"]
    return ["-m", "maml_tf", "train", *COMMON, *PROBLEMS[problem], *own]


def newest(directory: Path) -> int:
    """The iteration of the newest checkpoint."""
    saved = (directory / "run" / "checkpoints").glob("ckpt-*.index")
    return max((int(path.stem.partition("-")[2]) for path in saved), default=0)


def end_of(survivor: subprocess.Popen) -> float | None:
    """Seconds until a process ends by itself; None if it does not."""
    began = time.monotonic()
    try:
        survivor.wait(LEFT_WAITING)
    except subprocess.TimeoutExpired:
        return None
    return time.monotonic() - began


def one_life(words: list[str], chance: random.Random) -> tuple[str, float | None]:
    """Starts both, kills one, and looks at the other; returns what was seen."""
    processes = cluster.start(lambda index: words, 2)
    victim, moment = chance.randrange(2), chance.uniform(0, LATEST)
    time.sleep(moment)
    for process in processes:
        if process.poll() is not None:
            raise SystemExit(f"A worker ended by itself: {process.communicate()[0]}")
    processes[victim].send_signal(signal.SIGKILL)
    seconds = end_of(processes[1 - victim])
    for process in processes:
        process.kill()
    said = processes[1 - victim].communicate()[0]
    processes[victim].communicate()
    what = f"worker {victim} after {moment:4.1f} s"
    if seconds is None:
        if "Run:" in said and victim == 1:
            raise SystemExit(f"{what}: the other went on for {LEFT_WAITING} s: {said}")
        return f"{what}: the other still waited for it", None
    status, lines = processes[1 - victim].returncode, said.strip().splitlines()
    if status != 75 or "gone" not in lines[-1] or "Traceback" in said:
        raise SystemExit(f"{what}: the other ended with {status}: {said}")
    return f"{what}: the other ended after {seconds:.1f} s", seconds


def run(problem: str, kills: int, seed: int) -> None:
    """Kills, finishes, compares, and prints what it took."""
    chance = random.Random(seed)
    took = []
    with tempfile.TemporaryDirectory() as place:
        disturbed, alone = Path(place) / "disturbed", Path(place) / "alone"
        for kill in range(kills):
            told, seconds = one_life(command(problem, disturbed, 10**6), chance)
            took += [] if seconds is None else [seconds]
            print(f"{kill + 1:3d} {told}; checkpoint {newest(disturbed)}", flush=True)
        iterations = newest(disturbed) + 10
        for directory in (disturbed, alone):
            for status, said in cluster.together(
                lambda index, d=directory: command(problem, d, iterations), 2
            ):
                if status:
                    raise SystemExit(f"{directory.name} ended with {status}: {said}")
        compare(disturbed, alone, iterations)
    print(
        f"{problem}: {kills} kills, {iterations} iterations, equal bit for bit. Of {len(took)} "
        f"survivors that had met the other, the median ended after {statistics.median(took):.1f} "
        f"s, the last after {max(took):.1f} s."
    )


def compare(directory: Path, other: Path, iteration: int) -> None:
    """Compares all of two checkpoints.

    Raises:
      SystemExit: they differ.
    """
    readers = [
        tf.train.load_checkpoint(str(d / "run" / "checkpoints" / f"ckpt-{iteration}"))
        for d in (directory, other)
    ]
    names = [n for n in readers[0].get_variable_to_shape_map() if not n.startswith("_CHECK")]
    for name in names:
        one, two = (reader.get_tensor(name) for reader in readers)
        if not np.array_equal(one, two, equal_nan=True):
            raise SystemExit(f"{name} differs by {np.abs(one - two).max()}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--problem", choices=PROBLEMS, default="sinusoid")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    run(given.problem, given.kills, given.seed)


if __name__ == "__main__":
    main()
