"""Kills runs without warning, starts them again, and compares with runs that were left alone.

    python -m tests.kills                    # 100 kills over all scenarios
    python -m tests.kills --every --only sinusoid export    # at every change of a file

Half of the kills come at random moments, half at changes of files: the n-th write, rename, removal
or new directory below the run's directory, whoever makes it: Python, TensorFlow or HDF5. A small
library, compiled here and preloaded, counts them, so that this needs Linux and a C compiler.

Every killed command is given again. It has to end well, with the very bytes of the undisturbed
one (weights, optimizer, results, exports, caches; wall times aside) and with no file more.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
OMNIGLOT = Path(os.environ.get("MAML_TF_DATA", ROOT.parent / "shared" / "data"))

QUICK = ["--progress=False", "--jit_compile=False", "--inter_op_threads=2", "--log_every=5"]
SINUSOID = ["--norm=None", "--metatrain_iterations=40", "--save_every=5", "--validate_every=10"]
SINUSOID += ["--validation_tasks=24", "--run_name=run", *QUICK]
EVALUATION = ["--test_set", "--num_test_tasks=24", "--test_steps=2", *QUICK]
IMAGES = ["--datasource=omniglot", "--num_classes=2", "--update_batch_size=1", "--num_filters=4"]
IMAGES += ["--metatrain_iterations=12", "--meta_batch_size=2", "--save_every=3", "--run_name=run"]
IMAGES += ["--validate_every=6", "--validation_tasks=2", f"--data_dir={OMNIGLOT}", *QUICK]
WALK = ["--datasource=navigation_2d", "--metatrain_iterations=3", "--meta_batch_size=2"]
WALK += ["--update_batch_size=2", "--horizon=5", "--save_every=1", "--validate_every=2"]
WALK += ["--validation_tasks=2", "--run_name=run", "--update_lr=0.1", *QUICK]
WALKED = ["--test_set", "--num_test_tasks=2", "--test_steps=1", *QUICK]


class Scenario(NamedTuple):
    """Command lines; `DIR` in them is the directory that is watched."""

    before: list[list[str]]  # given once, and left alone
    commands: list[list[str]]  # killed


SCENARIOS = {
    "sinusoid": Scenario(
        [], [["train", "--logdir=DIR", *SINUSOID], ["evaluate", "DIR/run", *EVALUATION]]
    ),
    "omniglot": Scenario([], [["train", "--logdir=DIR", *IMAGES]]),
    "navigation": Scenario(
        [], [["train", "--logdir=DIR", *WALK], ["evaluate", "DIR/run", *WALKED]]
    ),
    "export": Scenario(
        [["train", "--logdir=DIR", *SINUSOID], ["export", "DIR/run", "--test_iter=20"]],
        [["export", "DIR/run"]],
    ),
    "release": Scenario(
        [["train", "--logdir=DIR", *SINUSOID], ["evaluate", "DIR/run", *EVALUATION]],
        [["release", "DIR/run", "--to=DIR/models/it"], ["figures", "DIR/run"]],
    ),
    "prepare": Scenario(
        [], [["prepare", "--datasource=miniimagenet", "--data_dir=DIR", "--num_classes=2"]]
    ),
}


def main() -> int:
    """Kills; returns how often a run ended otherwise than it should."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100, help="kills over all scenarios")
    parser.add_argument("--every", action="store_true", help="kill at every change of a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    asked = parser.parse_args()
    if "KILLS_LIBRARY" not in os.environ:
        return _again_with_the_library()
    if not (OMNIGLOT / "omniglot").is_dir():
        asked.only = [name for name in asked.only if name != "omniglot"]
        print("omniglot is left out: there is no data (data/omniglot/README.md)")
    failures = 0
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        for name in asked.only:
            share = -(-asked.count // len(asked.only))
            place = Path(folder) / name
            failures += Kills(name, place, random.Random(f"{asked.seed} {name}")).run(
                share, asked.every
            )
    print(f"{failures} failures")
    return min(failures, 1)


def _again_with_the_library() -> int:
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        library = f"{folder}/kills.so"
        source = str(Path(__file__).with_suffix(".c"))
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        environment = {**os.environ, "KILLS_LIBRARY": library, "LD_PRELOAD": library}
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
        command = [sys.executable, "-m", "tests.kills", *sys.argv[1:]]
        return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


class Kills:
    """One scenario: what it is without kills, and then with them."""

    def __init__(self, name: str, place: Path, chance: random.Random):
        """Makes what comes before the commands that are killed."""
        self.name, self.chance = name, chance
        self.directory, self.start, self.log = place / "it", place / "start", place / "log"
        self.start.mkdir(parents=True)
        if name == "prepare":
            _images(self.start)
        scenario = SCENARIOS[name]
        self.commands = [[a.replace("DIR", str(self.directory)) for a in c] for c in scenario[1]]
        before = [[a.replace("DIR", str(self.directory)) for a in c] for c in scenario[0]]
        self._reset()
        if before:
            assert self._give(before)[0] == 0, self.log.read_text()
            shutil.rmtree(self.start)
            shutil.copytree(self.directory, self.start, symlinks=True)
        began = time.perf_counter()
        self._reset()
        status, self.changes = self._give(self.commands)
        assert status == 0, self.log.read_text()
        self.seconds = time.perf_counter() - began
        self.expected = _contents(self.directory)

    def run(self, count: int, every: bool) -> int:
        """Kills, goes on and compares; returns the number of failures."""
        faults, killed = [], 0
        numbers = range(1, self.changes + 1)
        if not every:
            numbers = self.chance.sample(numbers, min(count // 2, self.changes))
        moments = [self.chance.uniform(0, self.seconds) for _ in range(count - count // 2)]
        plans = [(number, None) for number in numbers] + [(0, moment) for moment in moments]
        for change, moment in plans:
            self._reset()
            status, _ = self._give(self.commands, change, moment)
            killed += status == -signal.SIGKILL
            status, _ = self._give(self.commands)
            fault = f"exit status {status}" if status else self._difference()
            if fault:
                where = f"change {change}" if change else f"{moment:.2f} s"
                faults.append(f"  killed at {where}: {fault}\n{self.log.read_text()[-600:]}")
                print(f"{self.name}:{faults[-1]}", flush=True)
        told = f"{self.name}: {self.changes} changes of files in {self.seconds:.1f} s; killed "
        told += f"{killed} times ({len(numbers)} at changes); {len(faults)} differ"
        print(told, flush=True)
        return len(faults)

    def _reset(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(self.start, self.directory, symlinks=True)

    def _difference(self) -> str:
        found = _contents(self.directory)
        names = sorted(
            name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name)
        )
        return ", ".join(
            name + ("" if name in found else " is missing")
            if name in self.expected
            else f"{name} is litter"
            for name in names
        )

    def _give(self, commands, change: int = 0, moment: float | None = None) -> tuple[int, int]:
        """Gives commands in a process of their own; its status and how many changes it made."""
        library = ctypes.CDLL(os.environ["KILLS_LIBRARY"])
        status, said = give(
            commands,
            self.log,
            before=lambda: library.kills_arm(str(self.directory).encode(), ctypes.c_long(change)),
            after=lambda: str(library.kills_counted()).encode(),
            kill_after=moment,
        )
        return status, int(said or 0)


def _contents(directory: Path) -> dict[str, str]:
    """What is compared: of every file its bytes, without those that the clock or chance makes."""
    contents = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if "tfevents" in name or path.is_dir():
            contents |= {name: "directory"} if path.is_dir() else {}
        elif path.name in ("fingerprint.pb", "SHA256SUMS"):  # The first has a random number.
            contents[name] = "there"
        elif path.suffix == ".json":
            parsed = json.loads(path.read_text())
            contents[name] = json.dumps(_without_times(parsed), sort_keys=True)
        else:
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


def _without_times(parsed):
    if isinstance(parsed, dict):
        return {key: _without_times(v) for key, v in parsed.items() if key != "seconds"}
    return [_without_times(v) for v in parsed] if isinstance(parsed, list) else parsed


def _images(directory: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.generated_images", str(directory), "--layout=csv"]
    subprocess.run([*command, "--classes", "3", "2", "2", "--examples", "20"], check=True, cwd=ROOT)


if __name__ == "__main__":
    if "KILLS_LIBRARY" in os.environ:  # TensorFlow is imported under the library alone.
        from tests.forks import give
    sys.exit(main())
