"""Kills one of several workers again and again, at any moment; compares with a run left alone.

    python -m tests.worker_kills                # 30 kills of one of two, about 12 minutes
    python -m tests.worker_kills --kills 5 --problem navigation_2d
    python -m tests.worker_kills --kills 12 --workers 1 2 3

Every life of the run is ended by `kill -9` of a random worker, the chief included, at a random
moment, from the start of Python on. The survivors have to end by themselves, with status 75 and one
line that names another; how long that took is printed. A worker that was killed before it met the
others leaves them waiting: it alone is started again. At the end the same command runs to its end
with two workers, and every weight and every number of the optimizer has to be, bit for bit, that of
a run of two workers which nobody disturbed; or to six digits, where lives have other numbers of
workers (`--workers`, one of them at random each life), whose sums are rounded otherwise.
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
    "sinusoid": ["--norm=None", "--meta_batch_size=12", "--save_every=25", "--validate_every=50"]
    + ["--validation_tasks=24"],
    "navigation_2d": ["--datasource=navigation_2d", "--meta_batch_size=6", "--horizon=20"]
    + ["--update_batch_size=4", "--update_lr=0.1", "--save_every=2", "--validate_every=4"]
    + ["--validation_tasks=4"],
}
LATEST = 24.0
"""Seconds after its start at which a life ends, at most; TensorFlow's start takes most of them."""
SIX_DIGITS = 3e-6
"""How far lives of other numbers of workers may take a tensor, as a share of its largest number."""
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


def one_life(words: list[str], number: int, chance: random.Random) -> tuple[str, list[float]]:
    """Starts some workers, kills one, and looks at the others; returns what was seen."""
    processes = cluster.start(lambda index: words, number)
    victim, moment = chance.randrange(number), chance.uniform(0, LATEST)
    time.sleep(moment)
    for process in processes:
        if process.poll() is not None:
            raise SystemExit(f"A worker ended by itself: {process.communicate()[0]}")
    processes[victim].send_signal(signal.SIGKILL)
    others = [process for process in processes if process is not processes[victim]]
    took = [end_of(other) for other in others]
    for process in processes:
        process.kill()
    processes[victim].communicate()
    what = f"worker {victim} of {number} after {moment:4.1f} s"
    for other, seconds in zip(others, took, strict=True):
        said = other.communicate()[0]
        if seconds is None:
            if "Run:" in said and victim > 0:
                raise SystemExit(f"{what}: another went on for {LEFT_WAITING} s: {said}")
            continue
        lines = said.strip().splitlines()
        if other.returncode != 75 or "gone" not in lines[-1] or "Traceback" in said:
            raise SystemExit(f"{what}: another ended with {other.returncode}: {said}")
    ended = [seconds for seconds in took if seconds is not None]
    if len(ended) < len(others):
        return f"{what}: {len(others) - len(ended)} still waited for it", ended
    return f"{what}: the others ended after {max(ended, default=0):.1f} s", ended


def run(problem: str, kills: int, seed: int, workers: list[int]) -> None:
    """Kills, finishes, compares, and prints what it took."""
    chance = random.Random(seed)
    took: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        disturbed, alone = Path(place) / "disturbed", Path(place) / "alone"
        for kill in range(kills):
            words = command(problem, disturbed, 10**6)
            told, ended = one_life(words, chance.choice(workers), chance)
            took += ended
            print(f"{kill + 1:3d} {told}; checkpoint {newest(disturbed)}", flush=True)
        iterations = newest(disturbed) + 10
        for directory in (disturbed, alone):
            for status, said in cluster.together(
                lambda index, d=directory: command(problem, d, iterations), 2
            ):
                if status:
                    raise SystemExit(f"{directory.name} ended with {status}: {said}")
        largest = compare(disturbed, alone, iterations)
    if largest > (0.0 if workers == [2] else SIX_DIGITS):
        raise SystemExit(f"{problem}: {iterations} iterations differ by {largest:.1e}.")
    print(f"{problem}: {kills} kills, {iterations} iterations, equal to {largest:.1e}.")
    if took:
        print(
            f"Of {len(took)} survivors that had met the other, the median ended after "
            f"{statistics.median(took):.1f} s, the last after {max(took):.1f} s."
        )


def compare(directory: Path, other: Path, iteration: int) -> float:
    """The largest difference in two checkpoints, as a share of its tensor's largest number."""
    readers = [
        tf.train.load_checkpoint(str(d / "run" / "checkpoints" / f"ckpt-{iteration}"))
        for d in (directory, other)
    ]
    names = [n for n in readers[0].get_variable_to_shape_map() if not n.startswith("_CHECK")]
    largest = 0.0
    for name in names:
        one, two = (reader.get_tensor(name) for reader in readers)
        if not np.array_equal(one, two, equal_nan=True):
            difference = np.abs(one - two).max() / np.abs(two).max()
            print(f"{name} differs by {difference:.1e}")
            largest = max(largest, float(difference))
    return largest


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--problem", choices=PROBLEMS, default="sinusoid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="numbers to draw from")
    given = parser.parse_args()
    run(given.problem, given.kills, given.seed, given.workers)


if __name__ == "__main__":
    main()
