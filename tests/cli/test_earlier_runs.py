"""Runs of version 0.1.0 before its flags were renamed: they are found, evaluated, and go on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from maml_tf.cli import flags, original, runs
from maml_tf.cli.main import run
from maml_tf.experiments.settings import make

EARLIER = Path(__file__).parents[1] / "data" / "earlier_runs"
SINUSOID = (
    "--datasource=sinusoid --norm=None --meta_batch_size=2 --meta_lr=0.002 --num_filters=40 "
    "--validation_tasks=2 --save_every=3 --progress=False --jit_compile=False"
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


@pytest.mark.slow
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


@pytest.mark.cases(1)
def test_an_earlier_run_goes_on(earlier, caplog):
    directory, name, common, training, evaluation, file = earlier
    assert run(["train", *common, *training]) == 0
    assert [path.name for path in Path("logs").iterdir()] == [directory.name]
    assert "--shots=" in (directory / "flags.txt").read_text()
    assert run(["evaluate", *common, "--test_set", *evaluation.split()]) == 0
    same(directory / "results" / file, EARLIER / f"{name}_trained_on.json")


SAID = ("--learn_step_size", "--learn_step_size=True", "--learn_step_size=weight")
NOT_SAID = ("--nolearn_step_size", "--learn_step_size=False", "--seed=0")


@pytest.mark.parametrize("words", [SAID, NOT_SAID], ids=["learned", "not"])
def test_step_sizes_were_learned_or_not(words):
    """Before, `--learn_step_size` was True or False."""
    found = [make(original.translate(flags.parse([word]).given)) for word in words]
    found += [original.from_flags("\n".join([word, "--step_size=0.01"])) for word in words[1:]]
    learned = words is SAID
    assert {each.training.learn_step_size for each in found} == {"weight" if learned else None}
    (name,) = {runs.run_directory(each).name for each in found}
    usual = "sinusoid_5shot.maml.mbs_25.numstep_1.updatelr_0.01"
    assert name == (f"{usual}.learn_step_size_True" if learned else usual)


@pytest.mark.slow
def test_the_run_of_a_learner_with_step_sizes_goes_on(tmp_path, monkeypatch):
    """Its flags as an earlier version wrote them, in the directory that it named."""
    monkeypatch.chdir(tmp_path)
    common = "--shots=2 --queries=2 --meta_batch_size=2 --save_every=2 --progress=False".split()
    common += ["--validation_tasks=2", "--learn_step_size"]
    assert run(["train", *common, "--iterations=2"]) == 0
    (directory,) = Path("logs").iterdir()
    file = directory / "flags.txt"
    text = file.read_text().rpartition(runs._CHECKSUM)[0]
    assert "--learn_step_size=weight\n" in text
    file.write_text(text.replace("--learn_step_size=weight", "--learn_step_size=True"))
    described = json.loads((directory / "learner.json").read_text())
    del described["learn_step_size"]
    (directory / "learner.json").write_text(json.dumps(described))
    assert run(["train", *common, "--iterations=4"]) == 0
    assert [path.name for path in Path("logs").iterdir()] == [directory.name]
    assert run(["evaluate", str(directory), "--test_tasks=4", "--test_steps=1"]) == 0
    assert json.loads(next(directory.glob("results/*.json")).read_text())["iteration"] == 4
