"""A data set of a user's own: one module and one flagfile, from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from maml_tf.cli.main import run

ROOT = Path(__file__).parents[1]
FLAGFILE = ROOT / "examples" / "custom_dataset" / "shapes.flags"
QUICK = ["--progress=False", "--validation_tasks=8", "--test_tasks=24", "--test_steps=3"]


@pytest.fixture
def line(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return [f"--flagfile={FLAGFILE}", f"--logdir={tmp_path}", *QUICK]


@pytest.mark.slow
def test_it_trains_and_is_evaluated_exported_and_drawn(line, tmp_path, capsys):
    few = [*line, "--iterations=30", "--meta_batch_size=4"]
    assert run(["train", *few]) == 0
    assert run(["evaluate", "--split=test", *few]) == 0
    assert "shapes_5way_1shot, maml, iteration 30, test split" in capsys.readouterr().out
    (directory,) = tmp_path.iterdir()
    assert directory.name.startswith("shapes_5way_1shot.maml.mbs_4.")
    (path,) = (directory / "results").glob("test_*.json")
    result = json.loads(path.read_text())
    assert result["metric"] == "accuracy" and result["mean"][-1] > 0.3  # chance: 0.2
    assert run(["export", str(directory)]) == 0
    assert run(["figures", str(directory)]) == 0
    assert (directory / "figures" / "adaptation_accuracy.png").stat().st_size > 1000


@pytest.mark.slow
def test_every_method_of_classification_serves_it(line, tmp_path):
    few = [*line, "--iterations=1", "--meta_batch_size=2", "--filters=2", "--method=pretrained"]
    assert run(["train", *few]) == 0
    assert run(["evaluate", *few, "--method=nearest_neighbour"]) == 0


@pytest.mark.parametrize(
    "name, said",
    [
        ("nowhere.at_all", "--problem must be one of sinusoid, omniglot"),
        ("json", "--problem=json: the module has no PROBLEM"),
        ("../x", "--problem must be one of sinusoid"),
    ],
)
def test_a_module_that_is_no_problem_is_named(name, said, capsys):
    assert run(["train", f"--problem={name}"]) == 1
    assert said in capsys.readouterr().err


_TOY = (
    "from maml_tf.experiments.problems.sinusoid import PROBLEM as P; import dataclasses; "
    "toy = lambda name: dataclasses.replace(P, name=name); "
)


@pytest.mark.parametrize(
    "code, said",
    [
        ("PROBLEM = 3", "its PROBLEM is no maml_tf.experiments.Problem"),
        ("PROBLEMS = [3]", "its PROBLEM is no maml_tf.experiments.Problem"),
        (_TOY + "PROBLEMS = (toy('a'), toy('b'))", "several problems"),
        (_TOY + "PROBLEM = toy('two.words')", "its name 'two.words' is not one word"),
        ("raise SystemExit(3)", "cannot be imported (SystemExit: 3)"),
        ("import broke", "--problem=broken_module needs broke; install it"),
    ],
)
def test_a_module_with_a_fault_is_refused(code, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)
    (tmp_path / "broken_module.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(["train", "--problem=broken_module"]) == 1
    assert said in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} <= {"broken_module.py", "__pycache__"}


def test_help_knows_it_without_tensorflow(tmp_path):
    code = (
        "import sys; from maml_tf.cli.main import run; "
        f"run(['train', '--flagfile={FLAGFILE}', '--help']); "
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--queries=5\n" in done.stdout and "--filters=16\n" in done.stdout
