"""`maml-tf prepare`, and users without a home folder."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

import maml_tf
from benchmarks import generated_images
from maml_tf.cli.main import run
from maml_tf.tasks.images import cache as image_cache

LINE = ["prepare", "--datasource=miniimagenet", "--num_classes=2", "--update_batch_size=1"]
LINE += ["--queries=2"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with nothing kept, and a user's cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    generated_images.write(tmp_path / "data" / "miniimagenet", "folders", (3, 2, 2), examples=3)
    yield tmp_path / "data"
    for folder in (tmp_path / "data" / "miniimagenet", tmp_path / "user"):
        if folder.exists():
            folder.chmod(0o755)


def prepare(data, capsys):
    status = run([*LINE, f"--data_dir={data}"])
    return status, capsys.readouterr().err.strip().splitlines()[-1]


def test_says_where_the_images_are_kept(data, tmp_path, capsys):
    status, said = prepare(data, capsys)
    assert status == 0 and said.startswith("miniimagenet is ready, in ")
    kept = [Path(word) for word in said.removesuffix(".").split(" in ")[1].split(", ")]
    assert sorted(kept) == sorted((data / "miniimagenet" / "cache").glob("miniimagenet-*.npy"))
    assert len(kept) == 3 and prepare(data, capsys) == (0, said)


def test_says_so_where_the_user_keeps_them(data, tmp_path, capsys):
    (data / "miniimagenet").chmod(0o555)
    status, said = prepare(data, capsys)
    assert status == 0 and said.count(str(tmp_path / "user" / "maml_tf" / "miniimagenet")) == 3


def test_fails_where_nothing_can_be_kept(data, tmp_path, capsys):
    (data / "miniimagenet").chmod(0o555)
    (tmp_path / "user").mkdir(0o555)
    status, said = prepare(data, capsys)
    assert status == 1 and "is ready" not in said and "every start would decode" in said
    assert f"make {data}/miniimagenet/cache or {tmp_path}/user/maml_tf/miniimagenet writ" in said
    assert not list((tmp_path / "user").iterdir())


def test_a_data_set_that_needs_no_cache(tmp_path, capsys):
    generated_images.write(tmp_path / "miniimagenet", "npy", (3, 2, 2), examples=3)
    status, said = prepare(tmp_path, capsys)
    assert status == 0 and f"in {tmp_path}/miniimagenet/train.npy, " in said


def nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)


def test_without_a_home_only_the_data_folder_keeps(no_home, tmp_path, capsys):
    assert image_cache.folders(Path("x"), "omniglot") == [Path("x/cache")]
    generated_images.write(Path("data/miniimagenet"), "folders", (3, 2, 2), examples=3)
    status, said = prepare("data", capsys)
    assert status == 0 and str(tmp_path / "data" / "miniimagenet" / "cache") in said
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_without_a_home_and_a_writable_data_folder(no_home, tmp_path, capsys):
    generated_images.write(Path("data/miniimagenet"), "folders", (3, 2, 2), examples=3)
    (tmp_path / "data" / "miniimagenet").chmod(0o555)
    status, said = prepare("data", capsys)
    (tmp_path / "data" / "miniimagenet").chmod(0o755)
    assert status == 1 and f"make {tmp_path}/data/miniimagenet/cache writable" in said
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_tilde_without_a_home_is_one_line(no_home, tmp_path, capsys):
    status, said = prepare("~/data", capsys)
    assert status == 1 and said.startswith("maml-tf: ") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("home", ["relative", "~", "~/x"])
def test_a_home_that_is_no_path(home, monkeypatch):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert image_cache.folders(Path("x"), "omniglot") == [Path("x/cache")]


WITHOUT_HOME = """
import os, pwd
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
import maml_tf, keras, matplotlib.pyplot
from maml_tf.cli.main import run
assert run(["--help"]) == 0
"""


@pytest.mark.slow
def test_importing_without_a_home_makes_no_folder_called_tilde(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "KERAS_HOME")}
    environment["PYTHONPATH"] = str(Path(maml_tf.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOME],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
