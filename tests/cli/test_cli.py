"""The command line, as a user types it; in this process, so that it is quick."""

import csv
import json
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import generated_images
from maml_tf.cli import runs
from maml_tf.cli.main import run
from maml_tf.config import Config

ROOT = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("MAML_TF_DATA", ROOT.parent / "shared" / "data"))
needs_omniglot = pytest.mark.skipif(
    not (REAL_DATA / "omniglot").is_dir(),
    reason="needs the real Omniglot: set MAML_TF_DATA (data/omniglot/README.md)",
)


@pytest.fixture(autouse=True)
def leave_the_machine_alone(monkeypatch):
    """Thread counts and loggers are global; tests share a process."""
    monkeypatch.setattr(runs, "set_up_machine", lambda config: None)
    yield
    log = logging.getLogger("maml_tf")
    log.handlers, log.propagate = [], True


QUICK = ["--norm=None", "--update_batch_size=10", "--validation_tasks=24", "--progress=False"]
QUICK += ["--jit_compile=False"]  # XLA takes seconds to compile


def sinusoid(logdir, *more):
    return [f"--logdir={logdir}", "--metatrain_iterations=20", *QUICK, *more]


def error_of(arguments, capsys):
    assert run(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("maml-tf: ") and not any("Traceback" in line for line in lines)
    return lines[-1]


def test_train_evaluate_figures_export_and_resume(tmp_path, capsys):
    flags = sinusoid(tmp_path)
    assert run(["train", *flags]) == 0
    (directory,) = tmp_path.iterdir()
    assert run(["evaluate", "--test_set", "--num_test_tasks=48", *flags]) == 0
    table = capsys.readouterr().out
    assert "± 95 %" in table and "(48 tasks)" in table and "iteration 20" in table
    (path,) = (directory / "results").glob("*.json")
    result = json.loads(path.read_text())
    assert result["split"] == "test" and result["shots"] == 10 and result["metric"] == "loss"
    assert len(result["mean"]) == len(result["ci95"]) == len(result["std"]) == 11
    rows = list(csv.reader((directory / "test_ubs10_stepsize0.01.csv").open()))
    assert rows[0][:2] == ["update0", "update1"]
    np.testing.assert_allclose([float(v) for v in rows[1]], result["mean"])
    assert run(["figures", str(directory)]) == 0
    assert (directory / "figures" / "adaptation_loss.png").stat().st_size > 1000
    assert run(["export", *flags]) == 0
    assert (directory / "export" / "saved_model.pb").exists()
    assert run(sinusoid(tmp_path, "--metatrain_iterations=25")) == 0
    assert run(["evaluate", str(directory), "--num_test_tasks=24", "--progress=False"]) == 0
    assert "iteration 25, val split" in capsys.readouterr().out


def test_pretraining_and_the_oracle_as_the_original_spelled_them(tmp_path):
    flags = sinusoid(tmp_path, "--pretrain_iterations=5", "--metatrain_iterations=0")
    assert run([*flags]) == 0
    assert run([*flags, "--baseline=oracle"]) == 0
    assert run(sinusoid(tmp_path, "--pretrain_iterations=5", "--metatrain_iterations=5")) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3 and sum(".pretrained." in name for name in names) == 2
    assert run([*flags, "--train=False", "--num_test_tasks=24"]) == 0


ORIGINAL = {
    "sinusoid 10-shot": "--datasource=sinusoid --metatrain_iterations=70000 --norm=None "
    "--update_batch_size=10",
    "Omniglot 5-way 1-shot": "--datasource=omniglot --metatrain_iterations=60000 "
    "--meta_batch_size=32 --update_batch_size=1 --update_lr=0.4 --num_updates=1",
    "Omniglot 20-way 1-shot": "--datasource=omniglot --metatrain_iterations=60000 "
    "--meta_batch_size=16 --update_batch_size=1 --num_classes=20 --update_lr=0.1 --num_updates=5",
}
FEW = ["--metatrain_iterations=2", "--validation_tasks=24", "--test_steps=1", "--num_test_tasks=24"]


@pytest.mark.parametrize(
    "name",
    [
        "sinusoid 10-shot",
        pytest.param("Omniglot 5-way 1-shot", marks=needs_omniglot),
        pytest.param("Omniglot 20-way 1-shot", marks=[needs_omniglot, pytest.mark.slow]),
    ],
)
def test_the_originals_command_lines(name, tmp_path, capsys):
    line = [*ORIGINAL[name].split(), f"--logdir={tmp_path}/", f"--data_dir={REAL_DATA}", *FEW]
    assert run(line) == 0
    assert run([*line, "--train=False", "--test_set=True"]) == 0
    assert "iteration 2, test split" in capsys.readouterr().out


MINIIMAGENET = (
    "--datasource=miniimagenet --metatrain_iterations=60000 --meta_batch_size=4 "
    "--update_batch_size=1 --update_lr=0.01 --num_updates=5 --num_classes=5 "
    "--num_filters=32 --max_pool=True"
).split()


def test_miniimagenet_says_what_is_missing(tmp_path, capsys):
    line = [*MINIIMAGENET, f"--logdir={tmp_path}", f"--data_dir={tmp_path}"]
    message = error_of(line, capsys)
    assert "data/miniimagenet/README.md" in message


SMALL = ["--num_filters=4", "--num_updates=1", "--task_chunks=1", "--queries=2"]
SMALL += ["--num_classes=2", "--test_steps=1", "--progress=False"]


@pytest.mark.parametrize(
    "layout, order",
    [
        ("folders", []),
        ("npy", ["--stop_grad"]),
        pytest.param("csv", [], marks=pytest.mark.slow),
        pytest.param("npz", [], marks=pytest.mark.slow),
    ],
    ids=["folders", "npy, first order", "csv", "npz"],
)
def test_miniimagenet(layout, order, tmp_path, capsys):
    generated_images.write(tmp_path / "miniimagenet", layout, (3, 2, 2), examples=3)
    flags = [*MINIIMAGENET, f"--data_dir={tmp_path}", f"--logdir={tmp_path / 'logs'}", *FEW, *SMALL]
    assert run(["prepare", *flags]) == 0
    assert "miniimagenet is ready" in capsys.readouterr().err
    assert run([*flags, *order]) == 0
    assert "Done: 2 iterations" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "flags").glob("*.flags")), ids=lambda p: p.stem)
def test_every_flagfile_is_read(path):
    from maml_tf.cli import flags

    given, words = flags.parse([f"--flagfile={path}"])
    assert not words and Config(**given).experiment.startswith(path.stem.removesuffix("_dense"))


def test_help_explains_every_flag(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    import dataclasses

    for field in dataclasses.fields(Config):
        assert f"--{field.name}={field.default}" in text


# --- mistakes: one line, the fault and the mend, exit code 1, nothing lost ---


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--datasource=mnist"], "must be one of sinusoid, omniglot, miniimagenet; got 'mnist'"),
        (["--meta_batch_size=-1"], "--meta_batch_size must be 1 or more"),
        (["--meta_batch_size=many"], "meta_batch_size"),
        (["--no_such_flag=1"], "Unknown command line flag 'no_such_flag'"),
        (["--flagfile=nowhere.flags"], "nowhere.flags"),
        (["trian"], "Unknown command 'trian'; there are train, evaluate"),
        (["train", "logs/x"], "train takes flags only"),
        (["--metatrain_iterations=0"], "Nothing to train"),
        (["--datasource=omniglot", "--data_dir=nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "No run in nowhere"),
        (["figures", "nowhere"], "No run in nowhere"),
        (["export", "--seed=99"], "No trained run in"),
    ],
)
def test_mistakes(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(arguments, capsys)
    assert not list(tmp_path.iterdir())


def test_a_log_directory_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    message = error_of(sinusoid(tmp_path / "file" / "logs"), capsys)
    assert "Cannot write to" in message and "--logdir" in message


def test_a_run_is_not_continued_with_other_settings(tmp_path, capsys):
    flags = sinusoid(tmp_path, "--run_name=mine")
    assert run(flags) == 0
    message = error_of([*flags, "--update_lr=0.5"], capsys)
    assert "--update_lr=0.01, now 0.5" in message
    assert "now 0.5" not in (tmp_path / "mine" / "flags.txt").read_text()
    assert run([*flags, "--update_lr=0.5", "--resume=False"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "mine.old1"}


def test_another_network_in_the_same_directory(tmp_path, capsys):
    flags = sinusoid(tmp_path, "--run_name=mine")
    assert run(flags) == 0
    (tmp_path / "mine" / "flags.txt").unlink()
    assert "another network" in error_of([*flags, "--norm=batch_norm"], capsys)


def test_all_checkpoints_broken(tmp_path, capsys):
    flags = sinusoid(tmp_path, "--run_name=mine")
    assert run(flags) == 0
    for file in (tmp_path / "mine" / "checkpoints").glob("ckpt-*.index"):
        file.write_bytes(b"broken")
    assert "can be read" in error_of(flags, capsys)


@needs_omniglot
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--update_batch_size=15", "--queries=10"], "20"),
        (["--num_classes=2000"], "2000-way episodes need 2000 classes"),
    ],
)
def test_more_than_the_data_has(flags, message, tmp_path, capsys):
    line = ["--datasource=omniglot", f"--data_dir={REAL_DATA}", f"--logdir={tmp_path}", *flags]
    assert message in error_of(line, capsys)
    assert not list(tmp_path.iterdir())


def test_a_truncated_zip(tmp_path, capsys):
    folder = tmp_path / "data" / "omniglot"
    folder.mkdir(parents=True)
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}/A/character01/0001_01.png", os.urandom(5000))
        whole = (folder / f"{name}.zip").read_bytes()
        (folder / f"{name}.zip").write_bytes(whole[: len(whole) // 2])
    line = ["--datasource=omniglot", f"--data_dir={tmp_path / 'data'}", "--update_batch_size=1"]
    assert "images_background.zip" in error_of([*line, f"--logdir={tmp_path / 'logs'}"], capsys)
