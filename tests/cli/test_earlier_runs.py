"""Runs of version 0.1.0 before its flags were renamed: they are found, evaluated, and go on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from maml_tf.cli.main import run

EARLIER = Path(__file__).parents[1] / "data" / "earlier_runs"
SINUSOID = (
    "--datasource=sinusoid --norm=None --meta_batch_size=2 --meta_lr=0.002 --num_filters=40 "
    "--validation_tasks=2 --save_every=3 --progress=False"
).split()
NAVIGATION = (
    "--datasource=navigation_2d --meta_batch_size=2 --horizon=4 --validation_tasks=2 "
    "--save_every=2 --progress=False"
).split()
RUNS = {
    "sinusoid_3shot": (
        SINUSOID,
        ["--update_batch_size=3", "--metatrain_iterations=5"],
        "--update_batch_size=2 --train_update_batch_size=3 --num_test_tasks=4 --test_steps=2",
        "test_2shot_stepsize0.01.json",
    ),
    "navigation_2d": (
        NAVIGATION,
        ["--update_batch_size=2", "--metatrain_iterations=4"],
        "--update_batch_size=2 --num_test_tasks=4 --test_steps=1",
        "test_2trajectories_stepsize0.01.json",
    ),
}


@pytest.fixture(params=RUNS)
def earlier(request, tmp_path, monkeypatch):
    """A copy of an earlier run, and the command lines that it was made by."""
    if request.param == "navigation_2d":
        pytest.importorskip("gymnasium", reason="needs the extra rl")
    (directory,) = EARLIER.glob(f"{request.param}.*")
    shutil.copytree(directory, tmp_path / "logs" / directory.name)
    monkeypatch.chdir(tmp_path)
    return Path("logs") / directory.name, request.param, *RUNS[request.param]


def curve(path):
    read = json.loads(path.read_text())
    return np.array([read["mean"], read["std"]]), read["iteration"], read["num_tasks"]


def same(path, other):
    np.testing.assert_allclose(curve(path)[0], curve(other)[0], rtol=1e-4)
    assert curve(path)[1:] == curve(other)[1:]


def test_an_earlier_run_is_evaluated_by_its_command_line_and_by_its_name(earlier):
    directory, _, common, _, evaluation, name = earlier
    result = directory / "results" / name
    expected = EARLIER / directory.name / "results" / name
    result.unlink()
    assert run(["evaluate", *common, "--test_set", *evaluation.split()]) == 0
    same(result, expected)
    result.unlink()
    again = [word for word in evaluation.split() if "train_" not in word]
    assert run(["evaluate", str(directory), "--test_set", "--progress=False", *again]) == 0
    same(result, expected)
    assert run(["figures", str(directory)]) == 0  # both spellings of its flags


def test_an_earlier_run_goes_on(earlier, caplog):
    directory, name, common, training, evaluation, file = earlier
    assert run(["train", *common, *training]) == 0
    assert [path.name for path in Path("logs").iterdir()] == [directory.name]
    assert "--shots=" in (directory / "flags.txt").read_text()
    assert run(["evaluate", *common, "--test_set", *evaluation.split()]) == 0
    same(directory / "results" / file, EARLIER / f"{name}_trained_on.json")
