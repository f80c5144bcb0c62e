"""The scripts, with a stand-in for the program that writes down how it was called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def called(tmp_path):
    """Runs run_experiments.sh; returns the command lines of the program that it called."""
    program = tmp_path / "environment" / "bin" / "maml-tf"
    program.parent.mkdir(parents=True)
    told = tmp_path / "told.jsonl"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"print(json.dumps(sys.argv[1:]), file=open({str(told)!r}, 'a'))\n"
    )
    program.chmod(0o755)
    for extras in ("", "[rl]"):  # so that it installs nothing
        (program.parents[1] / f"maml-tf{extras}.installed").touch()
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def call(*arguments):
        environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(program.parents[1])}
        script = str(ROOT / "run_experiments.sh")
        subprocess.run([script, *arguments], check=True, env=environment, capture_output=True)
        return [json.loads(line) for line in told.read_text().splitlines()]

    return call


@pytest.mark.parametrize("spelling", [["--logdir={}"], ["--logdir", "{}"]])
def test_a_space_in_the_log_directory(spelling, called, tmp_path):
    place = f"{tmp_path}/my  runs [1]*"
    given = [word.format(place) for word in spelling]
    data = f"--data_dir={tmp_path}/the data"
    assert called("sinusoid_5shot", *given, data) == [["reproduce", "sinusoid_5shot", *given, data]]


def test_the_script_without_a_name_says_how_it_is_called():
    done = subprocess.run([str(ROOT / "run_experiments.sh")], capture_output=True, text=True)
    assert done.returncode == 1 and "usage:" in done.stderr and "quick|all|list|NAME" in done.stderr
