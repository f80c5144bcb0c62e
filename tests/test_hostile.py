"""A few cases of the long trials: `python -m tests.fuzz` and `python -m tests.kills`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def trial(*arguments):
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_hostile_input():
    assert "40 cases, seed 7: 0 faults" in trial("tests.fuzz", "--count=40", "--seed=7")


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler"
)
def test_sudden_death():
    assert "0 failures" in trial("tests.kills", "--count=18", "--seed=7")
