"""A disk that is full: one line, nothing half written, and afterwards the run goes on."""

import contextlib
import json
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import error_of

from maml_tf import MetaLearner, export, losses, train
from maml_tf.cli import runs
from maml_tf.cli.main import run
from maml_tf.experiments import machine
from maml_tf.networks import dense_network
from maml_tf.tasks import Sinusoid

SETTINGS = ["--norm=None", "--metatrain_iterations=40", "--validation_tasks=24", "--save_every=10"]
SETTINGS += ["--validate_every=20", "--progress=False", "--jit_compile=False", "--run_name=run"]
EVALUATION = ["--test_set", "--num_test_tasks=24", "--progress=False", "--test_steps=2"]


@contextlib.contextmanager
def no_room_beyond(size):
    """Every write that makes a file longer than `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(arguments, capsys):
    """The one line of a command for which there was no room."""
    line = error_of(arguments, capsys)
    assert "no room is left" in line
    return line


def files(directory):
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*")}


def final_weights(directory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_up", lambda settings: None)
        learner, _ = runs.restore(directory, runs.read_flags(directory))
    return learner.model.get_weights()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_up", lambda settings: None)
        assert run([*SETTINGS, f"--logdir={place}"]) == 0
        assert run(["evaluate", str(place / "run"), *EVALUATION]) == 0
    return place / "run"


@pytest.mark.parametrize("log_every", [pytest.param(100, marks=pytest.mark.slow), 1])
@pytest.mark.slow
def test_a_training_goes_on_where_it_was(trained, tmp_path, capsys, log_every):
    command = [*SETTINGS, f"--logdir={tmp_path}", f"--log_every={log_every}"]
    assert run([*command, "--metatrain_iterations=10"]) == 0
    # Checkpoints are of 25 kB; an event file of many points is as large.
    with no_room_beyond(20_000):
        line = refused(command, capsys)
    assert "The checkpoint of iteration 10 is kept" in line
    assert {n for n in files(tmp_path / "run" / "checkpoints") if n.startswith("ckpt")} == {
        f"ckpt-10.{ending}" for ending in ("index", "data-00000-of-00001", "sha256")
    }
    assert not list(tmp_path.rglob("*.part"))
    assert run(command) == 0
    for a, b in zip(final_weights(tmp_path / "run"), final_weights(trained), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_cannot_begin(tmp_path, capsys):
    with no_room_beyond(500):
        refused([*SETTINGS, f"--logdir={tmp_path}"], capsys)
    assert files(tmp_path) <= {"run"}


def test_weights_that_could_not_be_logged_are_kept(tmp_path):
    """The event file fails first; one checkpoint still fits."""
    learner = MetaLearner(dense_network(1, 1, (3,)), losses.mean_squared_error)
    options = {"iterations": 3000, "logdir": tmp_path, "log_every": 1, "progress": False}
    with no_room_beyond(30_000), pytest.raises(OSError, match=r"no room.* iteration \d+ is kept"):
        train(learner, Sinusoid(shots=2), save_every=3000, **options)
    assert list((tmp_path / "checkpoints").glob("ckpt-*.index"))
    assert not tf.summary.scalar("of somebody else", 1.0, step=0)  # there is no default writer
    assert train(learner, Sinusoid(shots=2), iterations=2, progress=False).iteration == 2


@pytest.mark.parametrize("limit", [pytest.param(3_000, marks=pytest.mark.slow), 20_000])
@pytest.mark.slow
def test_an_export_leaves_the_earlier_one(trained, tmp_path, capsys, limit):
    target = tmp_path / "export"
    with no_room_beyond(limit):
        refused(["export", str(trained), f"--to={target}"], capsys)
    assert not files(tmp_path)
    assert run(["export", str(trained), f"--to={target}"]) == 0
    before = {name: (target / name).read_bytes() for name in ("saved_model.pb", "SHA256SUMS")}
    with no_room_beyond(limit):
        refused(["export", str(trained), f"--to={target}"], capsys)
    assert before == {name: (target / name).read_bytes() for name in before}
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("limit", [200, 20_000])
@pytest.mark.slow
def test_a_release_leaves_the_earlier_one(trained, tmp_path, capsys, limit):
    target = tmp_path / "release"
    command = ["release", str(trained), f"--to={target}"]
    with no_room_beyond(limit):
        refused(command, capsys)
    assert not files(tmp_path)
    assert run(command) == 0
    with no_room_beyond(limit):
        refused(command, capsys)
    assert run(["evaluate", f"--init={target}", f"--logdir={tmp_path}", *EVALUATION]) == 0


def test_results_are_whole_or_absent(trained, tmp_path, capsys):
    run_directory = tmp_path / "run"
    shutil.copytree(trained, run_directory)
    for file in (run_directory / "results").iterdir():
        file.unlink()
    with no_room_beyond(300):
        refused(["evaluate", str(run_directory), *EVALUATION], capsys)
    assert not files(run_directory / "results")
    assert run(["evaluate", str(run_directory), *EVALUATION]) == 0
    for file in (run_directory / "results").glob("*.json"):
        json.loads(file.read_text())


def test_figures_are_whole_or_absent(trained, tmp_path, capsys):
    with no_room_beyond(2_000):
        refused(["figures", str(trained), f"--to={tmp_path / 'figures'}"], capsys)
    assert not [n for n in files(tmp_path) if n.endswith((".png", ".pdf"))]
    assert run(["figures", str(trained), f"--to={tmp_path / 'figures'}"]) == 0


def test_a_learners_file_and_export_from_python(tmp_path):
    learner = MetaLearner(
        dense_network(1, 1, (40,)), losses.mean_squared_error, optimizer=keras.optimizers.SGD(0.1)
    )
    with no_room_beyond(300):
        with pytest.raises(OSError, match="no room is left"):
            learner.save(tmp_path / "a.weights.h5")
        with pytest.raises(OSError, match="no room is left"):
            export(learner, tmp_path / "export")
    assert not files(tmp_path)
