"""Watches what a long training takes of memory and disk.

    python -m benchmarks.endurance --minutes 10

Trains the sinusoid through the command line, and samples the process and its run's directory: after
the start nothing may grow but the event file, by its points.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    """What was seen at one moment."""

    seconds: float
    resident: float  # MB
    files: int
    checkpoints: float  # kB
    events: float  # kB

    def __str__(self) -> str:
        """A line of the table."""
        return (
            f"{self.seconds:8.0f} s {self.resident:10.1f} MB {self.files:6d} files "
            f"{self.checkpoints:10.1f} kB of checkpoints {self.events:10.1f} kB of events"
        )


def sample(process: subprocess.Popen, logdir: Path, began: float) -> Sample:
    """Looks at a process and its files."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
    sizes = {}
    for path in logdir.rglob("*"):
        try:
            sizes[path] = path.stat().st_size / 1024 if path.is_file() else 0
        except FileNotFoundError:  # a checkpoint that has gone
            continue
    checkpoints = sum(size for path, size in sizes.items() if "ckpt-" in path.name)
    events = sum(size for path, size in sizes.items() if "tfevents" in path.name)
    return Sample(time.monotonic() - began, resident, len(sizes), checkpoints, events)


def main() -> None:
    """Trains, samples and prints; the second half beside the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("flags", nargs="*", help="further flags of maml-tf train, after --")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "maml_tf", "train", f"--logdir={folder}", "--norm=None"]
        command += ["--metatrain_iterations=100000000", "--progress=False", *asked.flags]
        process, began, samples = subprocess.Popen(command), time.monotonic(), []
        every = asked.minutes * 60 / 20
        while time.monotonic() - began < asked.minutes * 60 and process.poll() is None:
            time.sleep(every)
            samples.append(sample(process, Path(folder), began))
            print(samples[-1], flush=True)
        process.send_signal(signal.SIGINT)
        process.wait()
    middle, last = samples[len(samples) // 2], samples[-1]
    print(f"second half: {last.resident - middle.resident:+.1f} MB resident, ", end="")
    print(f"{last.files - middle.files:+d} files, ", end="")
    print(f"{last.checkpoints - middle.checkpoints:+.1f} kB of checkpoints, ", end="")
    print(f"{last.events - middle.events:+.1f} kB of events")


if __name__ == "__main__":
    main()
