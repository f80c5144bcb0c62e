"""A release holds what a run's evaluation needs, and nothing of the machine that made it."""

import json
import shutil

import numpy as np
import pytest
from helpers import error_of

import maml_tf
from maml_tf.cli.main import run
from maml_tf.experiments import machine

SETTINGS = ["--norm=None", "--metatrain_iterations=20", "--validation_tasks=24"]
SETTINGS += ["--progress=False", "--jit_compile=False", "--run_name=run"]
EVALUATION = ["--test_set", "--num_test_tasks=48", "--progress=False", "--test_steps=2"]
NUMBERS = ("mean", "std", "ci95", "iteration", "method", "experiment", "shots", "train_shots")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was evaluated, and the release made of it."""
    place = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_up", lambda settings: None)
        assert run([*SETTINGS, f"--logdir={place}"]) == 0
        assert run(["evaluate", str(place / "run"), *EVALUATION]) == 0
        target = place / "models" / "sine"
        assert run(["release", str(place / "run"), f"--to={target}"]) == 0
    return place / "run", target


def results(directory):
    (path,) = (directory / "results").glob("test_*.json")
    return json.loads(path.read_text())


def test_a_release_gives_the_same_numbers_as_its_run(trained, tmp_path):
    directory, release = trained
    flags = [f"--init={release}", f"--logdir={tmp_path}", *EVALUATION]
    assert run(["evaluate", *flags]) == 0
    ours, again = results(directory), results(tmp_path / "sine")
    assert {name: again[name] for name in NUMBERS if name in ours} == {
        name: ours[name] for name in NUMBERS if name in ours
    }
    assert ours["iteration"] == 20


def test_a_release_is_small_and_knows_nothing_of_this_machine(trained):
    directory, release = trained
    assert {p.name for p in release.iterdir()} == {
        "initial.weights.h5",
        "flags.txt",
        "result.json",
        "SHA256SUMS",
        "README.md",
    }
    assert sum(path.stat().st_size for path in release.iterdir()) < 100_000
    for name in ("flags.txt", "result.json"):
        assert str(directory.parent) not in (release / name).read_text()
    said = json.loads((release / "result.json").read_text())
    assert said["iteration"] == 20 and said["kind"] == "release"
    assert said["results"][0]["mean"] == results(directory)["mean"]


@pytest.mark.slow
def test_a_release_tells_what_its_training_began_from(trained, tmp_path):
    _, release = trained
    comments = [t for t in (release / "flags.txt").read_text().splitlines() if t.startswith("#")]
    comments = [text for text in comments if not text.startswith("# derived: ")]
    assert len(comments) == 1  # the checksum
    settings = [flag for flag in SETTINGS if flag != "--run_name=run"]
    further = [f"--init={release}", f"--logdir={tmp_path}", "--run_name=further", *settings]
    assert run(["train", *further, "--seed=1"]) == 0
    directory = tmp_path / "further"
    assert run(["evaluate", str(directory), *EVALUATION]) == 0
    target = tmp_path / "models" / "sine"
    assert run(["release", str(directory), f"--to={target}"]) == 0
    first, *rest = (target / "flags.txt").read_text().splitlines()
    assert first == "# Trained from the weights of sine (--init)."
    assert "--seed=1" in rest and "--init=" in rest
    again = ["evaluate", f"--flagfile={target / 'flags.txt'}", f"--init={target}"]
    assert run([*again, f"--logdir={tmp_path / 'again'}", *EVALUATION]) == 0
    assert results(tmp_path / "again" / "sine")["mean"] == results(directory)["mean"]


@pytest.mark.slow
def test_a_release_is_exported_like_a_run(trained, tmp_path):
    _, release = trained
    assert run(["export", f"--init={release}", f"--to={tmp_path / 'export'}"]) == 0
    assert (tmp_path / "export" / "saved_model.pb").exists()


def test_another_network_is_one_line(trained, tmp_path, capsys):
    _, release = trained
    flags = [f"--init={release}", "--norm=batch_norm", f"--logdir={tmp_path}", *EVALUATION]
    message = error_of(["evaluate", *flags], capsys)
    assert "initial.weights.h5 does not fit this network" in message
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_weights_are_one_line(trained, tmp_path, capsys):
    broken = shutil.copytree(trained[1], tmp_path / "broken")
    (broken / "SHA256SUMS").unlink()  # as of an earlier version
    (broken / "initial.weights.h5").write_bytes(b"nothing")
    assert "does not fit" in error_of(["evaluate", f"--init={broken}", *EVALUATION], capsys)


@pytest.mark.parametrize("name", ["initial.weights.h5", "flags.txt", "result.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["a flipped bit", "cut", "empty", "missing"])
def test_a_damaged_file_of_a_release_is_named(trained, tmp_path, capsys, name, damage):
    broken = shutil.copytree(trained[1], tmp_path / "broken")
    content = bytearray((broken / name).read_bytes())
    content[len(content) // 2] ^= 4
    cut = {"a flipped bit": content, "cut": content[: len(content) // 3], "empty": b""}
    if damage == "missing":
        (broken / name).unlink()
    else:
        (broken / name).write_bytes(cut[damage])
    command = ["evaluate", f"--init={broken}", f"--logdir={tmp_path / 'logs'}", *EVALUATION]
    if (name, damage) == ("SHA256SUMS", "missing"):  # as of an earlier version
        assert run(command) == 0
        return
    message = error_of(command, capsys)
    assert name in message or "as it was written" in message or "does not list" in message
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("damage", ["a changed flag", "cut", "empty"])
@pytest.mark.cases(1)
def test_a_damaged_flagfile_of_a_run_is_named(trained, tmp_path, capsys, damage):
    broken = shutil.copytree(trained[0], tmp_path / "run")
    flags = (broken / "flags.txt").read_text()
    changed = flags.replace("--norm=none", "--norm=batch_norm")
    assert changed != flags
    cut = {"a changed flag": changed, "cut": flags[: len(flags) // 2], "empty": ""}
    (broken / "flags.txt").write_text(cut[damage])
    for command in ("evaluate", "export"):
        message = error_of([command, str(broken), "--num_test_tasks=2"], capsys)
        assert "flags.txt is" in message
    (broken / "flags.txt").write_bytes(b"\xef\xbb\xbf" + flags.replace("\n", "\r\n").encode())
    assert run(["evaluate", str(broken), *EVALUATION]) == 0


@pytest.mark.parametrize("content", ['{"version": 2}', "{}", "text"])
def test_results_of_another_version_are_one_line(trained, tmp_path, capsys, content):
    broken = tmp_path / "models"
    shutil.copytree(trained[1], broken)
    (broken / "SHA256SUMS").unlink()  # as of an earlier version
    (broken / "result.json").write_text(content)
    message = error_of(["evaluate", f"--init={broken}", *EVALUATION], capsys)
    assert "result.json is not a result file of this version" in message


def test_only_results_of_these_very_weights_are_released(trained, tmp_path, capsys):
    other = shutil.copytree(trained[0], tmp_path / "run")
    (path,) = (other / "results").glob("test_*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "iteration": 10}))
    message = error_of(["release", str(other), f"--to={tmp_path / 'models'}"], capsys)
    assert "No result of iteration 20" in message and "maml-tf evaluate" in message
    assert not (tmp_path / "models").exists()


def test_what_a_release_cannot_be_made_of(trained, tmp_path, capsys):
    directory, release = trained
    assert "--to=models/NAME" in error_of(["release", str(directory)], capsys)


@pytest.mark.slow
def test_the_inner_optimizer_is_released_too(tmp_path, capsys):
    settings = [*SETTINGS, "--inner_steps=2", f"--logdir={tmp_path / 'logs'}", "--inner_clip=5"]
    adaptive = [*settings, "--inner_optimizer=momentum", "--inner_momentum=0.5"]
    assert run(["train", *adaptive]) == 0
    directory, release = tmp_path / "logs" / "run", tmp_path / "models" / "sine"
    assert run(["evaluate", str(directory), *EVALUATION]) == 0
    assert run(["release", str(directory), f"--to={release}"]) == 0
    for place in (directory, release):
        learner = maml_tf.load(place)
        assert learner.inner_optimizer.get_config() == {"momentum": 0.5}
        assert learner.inner_clip == 5.0
    said = error_of(["train", *settings, "--iterations=9"], capsys)
    assert "--inner_optimizer=momentum, now sgd" in said
    flags = directory / "flags.txt"
    lines = flags.read_text().replace("=momentum", "=rmsprop").splitlines()[:-1]  # no checksum
    flags.write_text("\n".join(lines) + "\n")  # as of a later version
    said = error_of(["evaluate", str(directory), *EVALUATION], capsys)
    assert "--inner_optimizer must be one of sgd, momentum, adam" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weight", "layer_and_step"])
def test_learned_step_sizes_are_released_too(kind, tmp_path, capsys):
    settings = [*SETTINGS, "--inner_steps=2", f"--logdir={tmp_path / 'logs'}"]
    learned = [*settings, f"--learn_step_size={kind}", "--step_size=0.1"]
    assert run(["train", *learned]) == 0
    directory, release = tmp_path / "logs" / "run", tmp_path / "models" / "sine"
    evaluation = [word for word in EVALUATION if "steps" not in word] + ["--test_steps=4"]
    assert run(["evaluate", str(directory), *evaluation]) == 0
    assert run(["release", str(directory), f"--to={release}"]) == 0
    again = [f"--init={release}", f"--logdir={tmp_path / 'again'}", *evaluation]
    assert run(["evaluate", *again]) == 0
    assert results(tmp_path / "again" / "sine")["mean"] == results(directory)["mean"]
    ours, theirs = maml_tf.load(directory), maml_tf.load(release)
    for one, other in zip(ours.step_sizes, theirs.step_sizes, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.any(np.asarray(one) != np.float32(0.1))
    theirs.step_sizes[0].assign(0 * theirs.step_sizes[0])
    theirs.load(release)
    np.testing.assert_array_equal(theirs.step_sizes[0], ours.step_sizes[0])
    other = ["evaluate", *again, "--learn_step_size=layer"]
    assert "weights than this learner: of shape" in error_of(other, capsys)
    assert "this learner 0" in error_of(["evaluate", *again, "--learn_step_size=False"], capsys)
    # A run that starts there takes the step sizes, or none.
    start = [f"--init={release}", "--iterations=1", "--meta_step_size=1e-30"]
    assert run(["train", *learned, *start, "--run_name=on"]) == 0
    on = maml_tf.load(tmp_path / "logs" / "on")
    np.testing.assert_allclose(on.step_sizes[0], ours.step_sizes[0], rtol=1e-6)
    assert run(["train", *settings, *start, "--run_name=without"]) == 0
    assert not maml_tf.load(tmp_path / "logs" / "without").step_sizes


@pytest.mark.slow
def test_a_run_starts_from_a_release_and_then_goes_its_own_way(trained, tmp_path, capsys):
    _, release = trained
    start = [*SETTINGS, f"--init={release}", f"--logdir={tmp_path}", "--run_name="]
    assert run(["train", *start, "--metatrain_iterations=1", "--meta_lr=1e-30"]) == 0
    assert f"Starting from the weights of {release}, iteration 20" in capsys.readouterr().err
    (directory,) = tmp_path.iterdir()
    assert directory.name.endswith(".init_sine")
    # A step of no size: the released weights, of a run that is called after its own iteration.
    assert run(["evaluate", *start, "--meta_lr=1e-30", *EVALUATION]) == 0
    assert "iteration 1, test split" in capsys.readouterr().out
    assert results(directory)["mean"] == pytest.approx(results(trained[0])["mean"], rel=1e-6)
    assert run(["train", *start, "--meta_lr=1e-30", "--metatrain_iterations=2"]) == 0
    assert "Starting from" not in capsys.readouterr().err
    # By the directory alone, and with other flags, which mean the release.
    assert run(["evaluate", str(directory), *EVALUATION]) == 0
    assert "iteration 2, test split" in capsys.readouterr().out
    assert run(["evaluate", f"--init={release}", f"--logdir={tmp_path}", *EVALUATION]) == 0
    assert "iteration 20, test split" in capsys.readouterr().out


def test_a_release_to_start_from_that_is_not_there_or_does_not_fit(trained, tmp_path, capsys):
    start = [*SETTINGS, f"--logdir={tmp_path}"]
    assert "No release in nowhere" in error_of(["train", *start, "--init=nowhere"], capsys)
    other = [*start, f"--init={trained[1]}", "--norm=batch_norm"]
    assert "does not fit this network" in error_of(["train", *other], capsys)
    assert not list(tmp_path.iterdir())
