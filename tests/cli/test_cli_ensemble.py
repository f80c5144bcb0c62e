"""Ensembles and averages by commands, beside the single checkpoints that they are made of."""

import json

import numpy as np
import pytest
import tensorflow as tf
from test_averages import assert_same
from test_ensemble import predicted, state

import maml_tf
from maml_tf.cli.main import run as command
from maml_tf.experiments import machine
from maml_tf.results import files, rows
from maml_tf.results.choice import Wanted
from maml_tf.results.records import Curve
from maml_tf.supervised.evaluation import DRAW
from maml_tf.tasks import Sinusoid
from maml_tf.training.checkpoints import Checkpoints

FLAGS = ["--iterations=6", "--validate_every=1", "--save_every=3", "--progress=False"]
FLAGS += ["--validation_tasks=24", "--test_steps=2", "--jit_compile=False", "--norm=none"]
FLAGS += ["--meta_step_size=0.02", "--keep_best=3", "--run_name=run", "--meta_batch_size=4"]
EVALUATION = ["--split=test", "--test_tasks=24", "--test_steps=2", "--progress=False"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_up", lambda settings: None)
        assert command(["train", *FLAGS, f"--logdir={place}"]) == 0
        assert command(["evaluate", str(place / "run"), *EVALUATION]) == 0
        assert command(["evaluate", str(place / "run"), "--ensemble=2", *EVALUATION]) == 0
    return place / "run"


@pytest.mark.slow
def test_the_command_averages_the_best_checkpoints(run):
    (path,) = run.glob("results/test_*_ensemble2.json")
    (curve,) = files.read(path)
    learner = maml_tf.load(run)
    checkpoints = Checkpoints(run / "checkpoints", learner)
    members = []
    for iteration in checkpoints.ranked()[:2]:
        assert (run / "checkpoints" / "best" / f"ckpt-{iteration}.index").is_file()
        assert checkpoints.restore_best(len(members))
        members.append(state(learner))
    held_out = Sinusoid(shots=5, split="test")
    task = held_out(tf.constant(0, tf.int64), DRAW)
    mean = np.mean([predicted(learner, member, task) for member in members], 0)
    expected = ((mean - np.asarray(task.query.y)) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(curve.mean, expected, rtol=1e-4)
    assert (curve.ensemble, curve.iteration) == (2, checkpoints.ranked()[0])
    assert json.loads(path.read_text())["ensemble"] == 2
    assert "ensemble of 2" in curve.label


@pytest.mark.slow
def test_its_numbers_are_mixed_with_no_others(run, capsys):
    single, ensemble = sorted(
        (r for p in run.glob("results/test*.json") for r in files.read(p)),
        key=lambda result: result.ensemble or 0,
    )
    wanted = Wanted(Curve, "maml", "sinusoid", shots=5, train_shots=5, step=1)
    assert wanted.fits(single) and not wanted.fits(ensemble)
    assert {row["ensemble"] for row in rows(run)} == {None, 2}
    assert len(list(run.glob("*.csv"))) == 1
    assert command(["runs", str(run)]) == 0
    assert f"{single.mean[-1]:.2f}" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError):  # the best iteration has no other result
        files.release(run.glob("results/*ensemble2.json"), ensemble.iteration)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "RUN", "--ensemble=4"], "keeps 3 of its best checkpoints, not the 4 of --en"),
        (["evaluate", "RUN", "--ensemble=1"], "--ensemble must be from 2 to 1000"),
        (["evaluate", "RUN", "--ensemble=2", "--use_best"], "validated best; drop --use_best"),
        (["evaluate", "RUN", "--ensemble=2", "--test_iteration=3"], "drop --test_iteration"),
        (
            ["evaluate", "--init=models/sinusoid_10shot", "--ensemble=2"],
            "A release has one set of weights",
        ),
        (["release", "RUN", "--to=x", "--ensemble=2"], "release takes one set of weights; drop"),
        (["export", "RUN", "--ensemble=2"], "export takes one set of weights; drop --ensemble"),
        (["train", "--keep_best=0"], "--keep_best must be from 1 to 1000"),
        (["train", "--stop_after=-1"], "--stop_after must be from 0"),
    ],
)
def test_what_the_commands_refuse(run, words, message, capsys):
    assert command([str(run) if word == "RUN" else word for word in words]) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]


AVERAGED = ["--iterations=4", "--validate_every=2", "--save_every=2", "--progress=False"]
AVERAGED += ["--validation_tasks=24", "--test_steps=1", "--jit_compile=False", "--average=0.6"]
AVERAGED += ["--learn_step_size=layer", "--meta_step_size=0.01", "--norm=none"]


@pytest.mark.slow
def test_commands_take_the_averages(tmp_path):
    assert command(["train", *AVERAGED, f"--logdir={tmp_path}"]) == 0
    (directory,) = tmp_path.iterdir()
    assert "average_0.6" in directory.name
    loaded, raw = maml_tf.load(directory), maml_tf.load(directory)
    Checkpoints(directory / "checkpoints", raw).restore_latest()
    weights = state(raw)
    average = [np.asarray(v) for v in raw.optimizer.variables if v.name.endswith("average")]
    assert len(average) == len(state(loaded))
    assert_same(state(loaded), average)
    assert max(np.abs(a - w).max() for a, w in zip(average, weights, strict=True)) > 1e-4
    given = [str(directory), "--progress=False", "--test_tasks=24", "--test_steps=1"]
    assert command(["evaluate", "--split=test", *given]) == 0
    assert command(["release", *given[:2], f"--to={tmp_path / 'models' / 'sine'}"]) == 0
    assert_same(state(maml_tf.load(tmp_path / "models" / "sine")), average)
