"""What comes with the package: flagfiles, releases and their cards."""

import subprocess
import sys
from pathlib import Path

import pytest

import maml_tf
from maml_tf.cli import main, model_card, runs
from maml_tf.results import files
from maml_tf.system import bundled

ROOT = Path(__file__).parents[1]
RELEASES = sorted(place.name for place in (ROOT / "models").iterdir())


@pytest.mark.parametrize("name", RELEASES)
def test_a_card_says_what_its_release_holds(name):
    """After a change of the card's words: `python -m tests.test_bundled` writes them all anew."""
    assert (ROOT / "models" / name / model_card.FILE).read_text("utf-8") == card(name)


def card(name):
    place = ROOT / "models" / name
    first = (place / runs.FLAGS_FILE).read_text("utf-8").splitlines()[0]
    began = first.split("weights of ")[1].split(" (")[0] if "weights of" in first else ""
    results = files.read(place / runs.RESULT_FILE)
    return model_card.card(name, runs.read_flags(place), results, began)


def test_list_names_every_flagfile_and_release(capsys):
    assert main.run(["list"]) == 0
    out = capsys.readouterr().out
    for file in (ROOT / "flags").glob("*.flags"):
        assert f"  flags/{file.name}  " in out
    for name in RELEASES:
        assert f"  models/{name}  " in out
    assert main.run(["list", "--shots=2"]) == 1


def test_flagfiles_and_releases_are_found_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    learner = maml_tf.load("models/sinusoid_10shot")
    assert learner.model.count_params() == 1761
    flagfile = "--flagfile=flags/sinusoid_10shot.flags"
    assert main.run(["train", flagfile, "--iterations=1", "--progress=False"]) == 0
    assert (tmp_path / "logs").is_dir()
    # One's own goes before it.
    (tmp_path / "flags").mkdir()
    (tmp_path / "flags" / "sinusoid_10shot.flags").write_text("--shots=nothing\n")
    assert main.run(["train", flagfile]) == 1
    assert "--shots=nothing: write a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", ["flags/../pyproject.toml", "/flags/x", "docs/index.md", "flags/no"]
)
def test_nothing_else_is_found(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bundled.find(Path(path)) == Path(path)


@pytest.mark.slow
def test_the_wheel_holds_them(tmp_path):
    pip = [sys.executable, "-m", "pip"]
    built = tmp_path / "built"
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", built, ROOT], check=True)
    (wheel,) = built.iterdir()
    assert wheel.stat().st_size < 10e6
    place = tmp_path / "published"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", place, wheel], check=True)
    ran = subprocess.run(
        [sys.executable, "-m", "maml_tf", "list"],
        cwd=place,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert "flags/sinusoid_10shot.flags" in ran.stdout and "models/sinusoid_10shot" in ran.stdout


if __name__ == "__main__":
    for each in RELEASES:
        (ROOT / "models" / each / model_card.FILE).write_text(card(each), "utf-8")
