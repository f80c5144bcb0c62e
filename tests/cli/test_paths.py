"""Paths as users have them, and what else lies there: volumes, copies, other processes."""

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers import error_of

from maml_tf import MetaLearner, losses, train
from maml_tf.cli.main import main, run
from maml_tf.experiments import machine
from maml_tf.experiments.identity import LONGEST_NAME
from maml_tf.networks import dense_network
from maml_tf.tasks import Sinusoid

SETTINGS = ["--norm=None", "--metatrain_iterations=4", "--validation_tasks=24"]
SETTINGS += ["--progress=False", "--jit_compile=False"]
EVALUATION = ["--test_set", "--num_test_tasks=24", "--progress=False", "--test_steps=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_up", lambda settings: None)
        assert run([*SETTINGS, f"--logdir={place}", "--run_name=run"]) == 0
        assert run(["evaluate", str(place / "run"), *EVALUATION]) == 0
    return place / "run"


@pytest.mark.slow
def test_a_home_directory_in_every_path(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert run([*SETTINGS, "--logdir=~/my logs", "--run_name=a b"]) == 0
    directory = tmp_path / "my logs" / "a b"
    assert (directory / "checkpoints" / "ckpt-4.index").exists()
    assert run(["evaluate", "~/my logs/a b", *EVALUATION]) == 0
    assert run(["release", "~/my logs/a b", "--to=~/rel"]) == 0
    assert run(["evaluate", "--init=~/rel", "--logdir=~/again", *EVALUATION]) == 0
    assert run(["export", "~/my logs/a b", "--to=~/ex port"]) == 0
    assert (tmp_path / "ex port" / "saved_model.pb").exists()
    assert not os.listdir(work)
    (result,) = (directory / "results").glob("test_*.json")
    flags = json.loads(result.read_text())["flags"]
    assert f"--logdir={tmp_path}/my logs" in flags and all(f.startswith("--") for f in flags)
    released = json.loads((tmp_path / "rel" / "result.json").read_text())["results"][0]["flags"]
    assert not [f for f in released if "logs" in f] and all(f.startswith("--") for f in released)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--logdir=logs[1]"], r"holds [, which TensorFlow takes for a pattern"),
        (["--logdir=logs", "--run_name=a*"], "holds *, which"),
        (["--logdir=logs", "--run_name=.."], "--run_name=.. is not a name"),
        (["--logdir=logs", "--run_name=."], "is not a name"),
        (["--logdir=logs", "--run_name=a/b"], "--run_name=a/b is not a name"),
        (["--logdir=logs", "--run_name=.hid"], "would be overlooked"),
        (["--logdir=logs", "--run_name=a.old1"], "would be overlooked"),
        (["--logdir=gs://bucket/logs"], "not a local directory"),
        (["--logdir=~nobody_here/logs"], "no home directory"),
    ],
)
def test_names_that_would_lose_a_run_are_refused_before_it(
    arguments, told, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert told in error_of([*SETTINGS, *arguments], capsys)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_long_name_is_cut_and_still_tells_runs_apart(tmp_path):
    long = "ä" * 150
    for last in "xy":
        assert run([*SETTINGS, f"--logdir={tmp_path}", f"--run_name={long}{last}"]) == 0
        command = [f"--logdir={tmp_path}", f"--run_name={long}{last}", *SETTINGS, *EVALUATION]
        assert run(["evaluate", *command]) == 0
    assert run([*SETTINGS, f"--logdir={tmp_path}", f"--run_name={long}x", "--resume=False"]) == 0
    names = os.listdir(tmp_path)
    assert len(names) == 3 and all(len(n.encode()) <= LONGEST_NAME + 5 for n in names)


# --- where exports go ---


@pytest.mark.slow
def test_an_export_into_the_present_directory(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(trained), "--to=."]) == 0
    assert os.getcwd() == str(tmp_path) and (tmp_path / "saved_model.pb").exists()
    (tmp_path / "mine.txt").write_text("mine")
    assert run(["export", str(trained), "--to=."]) == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_an_export_to_where_it_could_not_be_loaded_is_refused(trained, tmp_path, capsys):
    assert "pattern" in error_of(["export", str(trained), f"--to={tmp_path}/a[1]"], capsys)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_an_export_onto_a_volume_of_its_own(trained, tmp_path):
    place = tmp_path / "volume"
    place.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", place], check=False, capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a volume needs the superuser")
    try:
        (place / "lost+found").mkdir()
        for _ in range(2):
            assert run(["export", str(trained), f"--to={place}"]) == 0
            assert (place / "saved_model.pb").exists() and (place / "lost+found").exists()
        assert run(["release", str(trained), f"--to={place / 'models'}"]) == 0
        assert os.listdir(tmp_path) == ["volume"]
        assert not [name for name in os.listdir(place) if name.startswith(".")]
    finally:
        subprocess.run(["umount", place], check=True)


# --- other processes ---


def test_the_same_command_twice_at_once(trained, tmp_path, capsys):
    directory = shutil.copytree(trained, tmp_path / "run")
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); f.write('process 12 on b'); f.flush()"
    script += "; fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, directory / "run.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"held\n"
        command = [*SETTINGS, f"--logdir={tmp_path}", "--run_name=run"]
        assert "in use by process 12 on b" in error_of(command, capsys)
        assert "in use by process 12 on b" in error_of([*command, "--resume=False"], capsys)
        assert os.listdir(tmp_path) == ["run"]
        assert run(["evaluate", str(directory), *EVALUATION]) == 0  # reading is free
    finally:
        other.kill()
        other.wait()
    assert run([*SETTINGS, f"--logdir={tmp_path}", "--run_name=run"]) == 0
    assert not (directory / "run.lock").exists()


class Full(io.StringIO):
    """Standard output on a full device, or that nobody reads."""

    encoding = "ascii"

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def reconfigure(self, **options):
        assert options == {"errors": "replace"}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), BrokenPipeError(32, "x")]
)
def test_an_evaluation_that_nobody_hears_is_kept(trained, tmp_path, monkeypatch, capsys, error):
    directory = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(directory / "results")
    monkeypatch.setattr(sys, "stdout", Full(error))
    with pytest.raises(SystemExit) as exit:
        main(["evaluate", str(directory), *EVALUATION])
    assert exit.value.code == 1
    assert "The table cannot be printed" in capsys.readouterr().err
    assert len(list((directory / "results").glob("*.json"))) == 2


def test_who_has_seen_enough_of_a_list_is_told_nothing_more():
    program = "from maml_tf.cli.main import main; main(['list'])"
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run([sys.executable, "-c", program], stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
def test_a_terminal_without_the_sign_for_plus_or_minus(trained):
    command = [sys.executable, "-m", "maml_tf", "evaluate", str(trained), *EVALUATION]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert b"+- 95 %" in done.stdout and b"Traceback" not in done.stderr


# --- leftovers ---


def test_copies_and_halves_of_checkpoints_are_no_checkpoints(trained, tmp_path, capsys):
    directory = shutil.copytree(trained, tmp_path / "run")
    checkpoints = directory / "checkpoints"
    for name in ("._ckpt-9.index", "ckpt-8 (conflicted copy).index", "ckpt-x.index", "notes.txt"):
        (checkpoints / name).write_text("")
    litter = [checkpoints / "ckpt-7_temp", checkpoints / ".ckpt-7.12345678.part"]
    for place in litter:
        place.mkdir()
        (place / "part-00000-of-00001.data").write_text("")
    litter += [checkpoints / f"ckpt-7.{e}" for e in ("data-00000-of-00001", "sha256")]
    litter += [checkpoints / "checkpoint.tmp0123456789abcdef", directory / "tmpab12_xyz"]
    for file in litter[2:]:
        file.write_text("")
    assert run([*SETTINGS, f"--logdir={tmp_path}", "--run_name=run"]) == 0
    assert "has done 4 iterations" in capsys.readouterr().err
    assert not any(map(os.path.exists, litter))
    assert (checkpoints / "notes.txt").exists()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys):
    command = [*SETTINGS, f"--logdir={tmp_path}", "--run_name=run", "--save_every=2"]
    assert run(command) == 0
    data = tmp_path / "run" / "checkpoints" / "ckpt-4.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[-3] ^= 16
    data.write_bytes(content)
    assert run(command) == 0
    err = capsys.readouterr().err
    assert "SHA-256 differs" in err and "trying the one before" in err
    assert "Resuming after iteration 2" in err


# --- what already lies there ---


@pytest.mark.slow
def test_a_release_goes_into_no_directory_of_another_kind(trained, tmp_path, capsys):
    directory = shutil.copytree(trained, tmp_path / "logs" / "run")
    export = tmp_path / "export"
    assert run(["export", str(directory), f"--to={export}"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    before = sorted(tmp_path.rglob("*"))
    for place in (
        directory,
        directory / "checkpoints",
        directory.parent,
        export,
        tmp_path / "mine",
    ):
        message = error_of(["release", str(directory), f"--to={place}"], capsys)
        assert "something else than a release" in message
    assert sorted(tmp_path.rglob("*")) == before
    for _ in range(2):
        assert run(["release", str(directory), f"--to={tmp_path / 'models' / 'it'}"]) == 0
        (tmp_path / "models" / "it" / "README.md").write_text("mine")
    assert (tmp_path / "models" / "it" / "README.md").exists()


def test_a_release_of_a_runs_name_leaves_its_results(trained, tmp_path, capsys):
    directory = shutil.copytree(trained, tmp_path / "run")
    release = tmp_path / "models" / "run"
    assert run(["release", str(directory), f"--to={release}"]) == 0
    before = {p: p.read_bytes() for p in (directory / "results").iterdir()}
    command = ["evaluate", f"--init={release}", f"--logdir={tmp_path}", *EVALUATION]
    assert run([*command, "--num_test_tasks=8"]) == 0
    assert {p: p.read_bytes() for p in (directory / "results").iterdir()} == before
    assert len(list((tmp_path / "run.release" / "results").glob("*.json"))) == 2
    message = error_of(["evaluate", str(release), *EVALUATION], capsys)
    assert "is a release" in message and "--init=" in message


@pytest.mark.slow
def test_a_run_without_its_flags_is_set_aside_all_the_same(trained, tmp_path):
    directory = shutil.copytree(trained, tmp_path / "run")
    (directory / "flags.txt").unlink()
    assert run([*SETTINGS, f"--logdir={tmp_path}", "--run_name=run", "--resume=False"]) == 0
    assert sorted(os.listdir(tmp_path)) == ["run", "run.old1"]


@pytest.mark.slow
def test_copies_of_checkpoints_do_not_hide_a_release_to_start_from(trained, tmp_path, capsys):
    assert run(["release", str(trained), f"--to={tmp_path / 'release'}"]) == 0
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    (tmp_path / "new" / "checkpoints" / "ckpt-4 (conflicted copy).index").write_text("")
    command = [*SETTINGS, f"--logdir={tmp_path}", "--run_name=new"]
    assert run([*command, f"--init={tmp_path / 'release'}"]) == 0
    assert "Starting from the weights" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_shown(trained, tmp_path, capsys):
    directory = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(directory / "results")
    (directory / "results").write_text("")
    assert run(["evaluate", str(directory), *EVALUATION]) == 1
    said = capsys.readouterr()
    assert "(24 tasks)" in said.out and "Cannot write to" in said.err


def test_figures_remove_none_of_the_users_files(trained, tmp_path):
    (tmp_path / "chapter1.figures").write_text("mine")
    for _ in range(2):
        assert run(["figures", str(trained), f"--to={tmp_path}"]) == 0
    names = os.listdir(tmp_path)
    assert "chapter1.figures" in names
    assert len([name for name in names if name.endswith(".figures")]) <= 2


class Broken(io.StringIO):
    """Standard error that was closed at its other end."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stream", [Broken(), None], ids=["a closed pipe", "none"])
@pytest.mark.slow
def test_a_training_that_nobody_hears_goes_on(tmp_path, monkeypatch, stream):
    learner = MetaLearner(dense_network(1, 1, (3,)), losses.mean_squared_error)
    monkeypatch.setattr(sys, "stderr", stream)
    options = {"iterations": 4, "logdir": tmp_path, "validation": Sinusoid(shots=5, split="val")}
    assert train(learner, Sinusoid(shots=5), validation_tasks=4, **options).iteration == 4
    assert train(learner, Sinusoid(shots=5), **(options | {"iterations": 6})).iteration == 6


def test_an_error_that_nobody_hears_is_not_among_the_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert run(["nothing"]) == 1
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_a_lock_that_is_no_file(tmp_path, capsys, kind):
    (tmp_path / "run").mkdir()
    lock = tmp_path / "run" / "run.lock"
    os.mkfifo(lock) if kind == "a pipe" else lock.symlink_to("/dev/null")
    assert "run.lock" in error_of([*SETTINGS, f"--logdir={tmp_path}", "--run_name=run"], capsys)


def test_help_on_a_full_device(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Full(OSError(28, "No space left")))
    assert run(["--help"]) == 1
    assert "help cannot be printed" in capsys.readouterr().err
