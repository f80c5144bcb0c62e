"""Random command lines, and random damage to every kind of file that a run leaves or reads.

    python -m tests.fuzz --count 500 --seed 0

Each case runs in a process of its own. It fails if there is a traceback, a crash or a hang, if an
error is not one line, if something appears outside of the case's directory, or if a command with
damaged files ends well with other numbers than with whole ones and says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks import generated_images
from maml_tf.cli import original
from maml_tf.experiments import problems
from maml_tf.experiments.settings import SETTINGS
from tests.forks import HUNG, give

LIMIT = 120
"""Seconds of a case."""

OMNIGLOT = Path(os.environ.get("MAML_TF_DATA", Path(__file__).parents[2] / "shared" / "data"))

COMMANDS = ("", "train", "evaluate", "export", "figures", "render", "release", "prepare")
COMMANDS += ("reproduce",)
QUICK = ["--progress=False", "--jit_compile=False", "--validation_tasks=4", "--num_test_tasks=4"]
QUICK += ["--meta_batch_size=2"]
RUN = ["--norm=None", "--metatrain_iterations=4", "--save_every=2", "--run_name=run"]
RUN += ["--logdir=logs", "--test_steps=2", *QUICK]

INTEGERS = ["-1", "0", "1", "2", "3", "5"]
NO_INTEGERS = ["", "x", "1.5", "1e3", "-2", str(-(2**63)), str(2**31), str(2**32), "9" * 40]
NO_INTEGERS += ["0x10", "\u0661", " 1", "None", "nan", "--", "True"]
FLOATS = ["-1", "0", "0.01", "0.5", "1", "1e-30"]
NO_FLOATS = ["", "x", "nan", "inf", "-inf", "1e999", "1,5", "0x1p3", "-3", "1e300", "1_0"]
STRINGS = ["", "x", "a b", "\u00fc\u2603", "a" * 300, "True", "0"]
NO_STRINGS = ["~", "..", "a/b", "[1]", "a*", "~nobody/x", "gs://a/b", "a\nb", "\x1b[1m", "\udcff"]
NO_STRINGS += ["/dev/null", "/proc/self/mem", "/", "-", "--seed", "%s", "{}", "\\", "a\u202eb"]
FEW = {
    "metatrain_iterations": ["0", "1", "2"],
    "pretrain_iterations": ["0", "0", "1"],
    "num_test_tasks": ["1", "4"],
    "validation_tasks": ["1", "4"],
    "meta_batch_size": ["1", "2", "3"],
    "environment": ["CartPole-v1", "Pendulum-v1", "nowhere:X-v0", "json:X-v0", "x", ""],
    "logdir": ["logs", "elsewhere", "a b"],
    "run_name": ["", "run", "other"],
    "init": ["", "release", "logs/run", "logs"],
    "to": ["", "there", "logs", "logs/run", "export", "it.gif"],
    "data_dir": ["", "data", "nowhere", str(OMNIGLOT)],
    "horizon": ["1", "3"],
    "download": ["False"],
    "distribute": ["none"],
}


class Fuzz:
    """Cases, all from one seed, and what was wrong with them."""

    def __init__(self, folder: Path, seed: int):
        """Makes a run, a release, an export and data to begin from."""
        self.seed, self.folder, self.faults = seed, folder, []
        self.kinds: Counter[str] = Counter()
        self.base, self.place, self.log = folder / "base", folder / "case", folder / "log"
        self.base.mkdir()
        generated_images.write(
            self.base / "data" / "miniimagenet", "csv", classes=(6, 5, 5), examples=20
        )
        (self.base / "some.flags").write_text("\n".join(RUN) + "\n")
        made = [["train", *RUN], ["evaluate", "logs/run", "--test_set", *QUICK]]
        made += [["release", "logs/run", "--to=release"], ["export", "logs/run", "--to=export"]]
        made += [["prepare", "--datasource=miniimagenet", "--data_dir=data", "--num_classes=2"]]
        status, _ = give(made, self.log, cwd=self.base)
        assert status == 0, self.log.read_text()
        self.whole: dict[str, object] = {}

    def command_line(self, number: int) -> None:
        """A random command line."""
        chance = random.Random(f"{self.seed} command line {number}")
        arguments = _command_line(chance)
        self._reset()
        self._give("command line", [arguments])

    def damage(self, number: int) -> None:
        """A command whose files are damaged."""
        chance = random.Random(f"{self.seed} damage {number}")
        self._reset()
        name = chance.choice(sorted(READERS))
        files, commands = READERS[name]
        found = sorted(p for pattern in files for p in self.place.glob(pattern) if p.is_file())
        if name not in self.whole:
            status = self._give(name, commands, f"{name}, whole")
            assert status == 0, self.log.read_text()
            self.whole[name] = _numbers(self.place)
            self._reset()
        file = chance.choice(found)
        kind = chance.choice(sorted(DAMAGES))
        DAMAGES[kind](file, chance)
        before = _numbers(self.place)
        told = f"{file.relative_to(self.place)}: {kind}"
        status = self._give(f"{name}: {kind}", commands, told)
        said = self.log.read_text(errors="replace")
        if status == 0 and "cannot be read" not in said:
            if _numbers(self.place) not in (self.whole[name], before):
                self._fault(told, commands, "other numbers, and nothing is said")

    def _reset(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.base, self.place)

    def _give(self, kind: str, commands: list[list[str]], told: str = "") -> int:
        beside = set(os.listdir(self.folder))
        began = time.monotonic()
        status, _ = give(commands, self.log, limit=LIMIT, cwd=self.place)
        said = self.log.read_text(errors="replace")
        lines = [line for line in said.splitlines() if line.startswith("maml-tf: ")]
        self.kinds[f"{kind}: {'ends well' if status == 0 else 'one line'}"] += 1
        if status == HUNG:
            self._fault(told, commands, f"no end in {LIMIT} s")
        elif status not in (0, 1, 130):
            self._fault(
                told, commands, f"exit status {status} after {time.monotonic() - began:.0f} s"
            )
        elif "Traceback" in said:
            self._fault(told, commands, "a traceback")
        elif len(lines) != (status != 0):
            self._fault(told, commands, f"exit status {status} and {len(lines)} lines of error")
        if set(os.listdir(self.folder)) != beside or (self.place / "~").exists():
            self._fault(told, commands, "something appeared elsewhere")
        return status

    def _fault(self, told: str, commands: list[list[str]], what: str) -> None:
        said = self.log.read_text(errors="replace")[-1500:]
        fault = f"{what}: {told} {commands}\n{said}\n"
        print(fault.encode(errors="backslashreplace").decode(), flush=True)
        self.faults.append(fault)


def _command_line(chance: random.Random) -> list[str]:
    fields = {name: (*_kind(name),) for name in (*SETTINGS, *original.RENAMED, *original.REPLACED)}
    names = chance.sample(sorted(fields), chance.choice([0, 1, 2, 3, 4, 6, 9]))
    command = chance.choice(COMMANDS)
    arguments = [command] if command else []
    arguments += [word for word in ("logs/run", "nowhere", "x\ny") if chance.random() < 0.15]
    wrong = chance.choice([0, 0, 0.2, 0.5])
    flags = [_flag(chance, name, *fields[name], wrong) for name in names]
    if chance.random() < 0.7:
        flags = [*RUN, *flags]
    if chance.random() < 0.15:
        odd = ["--nothing=1", "--", "-x", "--=", "--flagfile=some.flags", "--flagfile=data"]
        flags.append(chance.choice([*odd, "--flagfile=nowhere", "--undefok=x", "--helpfull=1"]))
    given = [*arguments, *flags]
    return given + [flag for flag in QUICK if flag.partition("=")[0] not in " ".join(given)]


def _kind(name: str) -> tuple[type, tuple[str, ...]]:
    """Type and choices of a flag, of today or earlier."""
    if name in original.REPLACED:
        return type(original.REPLACED[name].default), ()
    each = SETTINGS[original.RENAMED.get(name, name)]
    return each.kind, tuple(problems.known()) if each.flag == "problem" else each.choices


def _flag(
    chance: random.Random, name: str, kind: type, choices: tuple[str, ...], wrong: float
) -> str:
    right = {bool: ["True", "False"], int: INTEGERS, float: FLOATS, str: STRINGS}[kind]
    other = {bool: NO_INTEGERS, int: NO_INTEGERS, float: NO_FLOATS, str: NO_STRINGS}[kind]
    values = FEW.get(name, choices or right)
    if chance.random() < wrong and name not in ("download", "distribute"):
        values = other
    if kind is bool and chance.random() < 0.3:
        return chance.choice([f"--{name}", f"--no{name}"])
    form = "--{}={}" if chance.random() < 0.9 else chance.choice(["-{}={}", "--{} {}", "{}={}"])
    return form.format(name, chance.choice(values))


def _numbers(place: Path) -> object:
    """The numbers that were measured, and of the newest checkpoint the weights' bytes."""
    told: dict[str, object] = {}
    for file in sorted(p for p in place.rglob("results/*.json") if p.is_file()):
        try:
            read = json.loads(file.read_text())
            told[file.relative_to(place).as_posix()] = read["mean"], read["iteration"]
        except (ValueError, RecursionError, KeyError, TypeError):
            continue
    newest = sorted(p for p in place.glob("logs/run/checkpoints/ckpt-8.data*") if p.is_file())
    return told, [file.read_bytes() for file in newest]


MORE = [argument for argument in RUN if "metatrain" not in argument]
READERS: dict[str, tuple[list[str], list[list[str]]]] = {
    "goes on": (
        ["logs/run/*.txt", "logs/run/*.json", "logs/run/checkpoints/*"],
        [["train", *MORE, "--metatrain_iterations=8"]],
    ),
    "evaluates": (
        ["logs/run/*.txt", "logs/run/checkpoints/*"],
        [["evaluate", "logs/run", "--test_set", *QUICK]],
    ),
    "evaluates the best": (
        ["logs/run/*.txt", "logs/run/checkpoints/best/*"],
        [["evaluate", "logs/run", "--test_set", "--use_best", *QUICK]],
    ),
    "evaluates a release": (
        ["release/*"],
        [["evaluate", "--init=release", "--logdir=again", "--test_set", *QUICK]],
    ),
    "starts from a release": (
        ["release/*"],
        [["train", *RUN, "--init=release", "--run_name=new", "--metatrain_iterations=2"]],
    ),
    "releases": (
        ["logs/run/*.txt", "logs/run/results/*", "logs/run/checkpoints/*"],
        [["release", "logs/run", "--to=again"]],
    ),
    "exports over an export": (
        ["export/**/*", "logs/run/*.txt"],
        [["export", "logs/run", "--to=export"]],
    ),
    "draws": (["logs/run/results/*", "release/*.json"], [["figures", "logs", "release"]]),
    "prepares": (
        ["data/miniimagenet/**/*"],
        [["prepare", "--datasource=miniimagenet", "--data_dir=data", "--num_classes=2"]],
    ),
    "reads a flagfile": (["some.flags"], [["evaluate", "--flagfile=some.flags", "--test_set"]]),
}
"""Commands, and the files that they read."""


def _flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice([1, 1, 1, 8, 100])):
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def _cut(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content) + 1)])


def _garble(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    start = chance.randrange(len(content) + 1)
    content[start : start + chance.randrange(200)] = chance.randbytes(chance.randrange(200))
    file.write_bytes(content)


def _nest(file: Path, chance: random.Random) -> None:
    file.write_text(chance.choice(["[", '{"a":', "(", "--flagfile=some.flags\n"]) * 100_000)


def _zeros(file: Path, chance: random.Random) -> None:
    del chance
    file.write_bytes(bytes(file.stat().st_size))


def _remove(file: Path, chance: random.Random) -> None:
    del chance
    file.unlink()


def _directory(file: Path, chance: random.Random) -> None:
    del chance
    file.unlink()
    file.mkdir()


def _pipe(file: Path, chance: random.Random) -> None:
    del chance
    file.unlink()
    os.mkfifo(file)


def _other(file: Path, chance: random.Random) -> None:
    others = sorted(p for p in file.parent.iterdir() if p.is_file() and p != file)
    if others:
        shutil.copyfile(chance.choice(others), file)


def _broken_link(file: Path, chance: random.Random) -> None:
    file.unlink()
    file.symlink_to(chance.choice(["nowhere", file.name, "/dev/zero"]))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "flipped bits": _flip,
    "cut": _cut,
    "garbled": _garble,
    "zeros": _zeros,
    "deep nesting": _nest,
    "removed": _remove,
    "a directory": _directory,
    "a pipe": _pipe,
    "another file": _other,
    "a broken link": _broken_link,
}


def main() -> int:
    """Runs the cases; 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500, help="cases; two of five are damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["command_line", "damage"])
    parser.add_argument("--first", type=int, default=0, help="begin with this case")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        os.environ["XDG_CACHE_HOME"] = os.path.join(tempfile.gettempdir(), "maml_tf_fuzz_cache")
        fuzz = Fuzz(Path(folder), asked.seed)
        for number in range(asked.first, asked.first + asked.count):
            case = "damage" if number % 5 in (1, 3) else "command_line"
            if asked.only in (None, case):
                getattr(fuzz, case)(number)
            if number % 50 == 49:
                print(f"{number + 1} cases, {len(fuzz.faults)} faults", flush=True)
    for kind, count in sorted(fuzz.kinds.items()):
        print(f"  {count:4d}  {kind}")
    print(f"{asked.count} cases, seed {asked.seed}: {len(fuzz.faults)} faults")
    return min(len(fuzz.faults), 1)


if __name__ == "__main__":
    sys.exit(main())
