"""`maml-tf runs`, and results as rows."""

import csv

import pytest

from maml_tf.cli import main
from maml_tf.results import rows

SMALL = ["--iterations=20", "--validate_every=10", "--validation_tasks=8", "--progress=False"]
SMALL += ["--jit_compile=False"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    for alpha in ("0.01", "0.02"):
        flags = [f"--logdir={logs}", f"--step_size={alpha}", *SMALL]
        assert main.run(["train", *flags]) == 0
    few = ["--test_tasks=10", "--test_steps=2", "--split=test"]
    assert main.run(["evaluate", *flags, *few]) == 0
    return logs


def test_runs_are_shown_side_by_side(trained, capsys):
    assert main.run(["runs", str(trained)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["run", "step_size", "iteration", "validation", "result", "size"]
    assert len(lines) == 2 and "  20 of 20  " in lines[0] and lines[0].endswith("MB")
    assert "  0.01  " in lines[0] and "  0.02  " in lines[1]
    assert " loss after 2 steps, 10 tasks, test" in lines[1] and "tasks" not in lines[0]


def test_a_damaged_run_hides_no_other(trained, capsys):
    (trained / "broken").mkdir()
    (trained / "broken" / "flags.txt").write_text("--step_size=0.1\n")
    try:
        assert main.run(["runs", str(trained)]) == 0
    finally:
        (trained / "broken" / "flags.txt").unlink()
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "broken/flags.txt is damaged" in err


def test_an_evaluation_ends_in_a_line_for_a_paper(trained, capsys):
    flags = [f"--logdir={trained}", "--step_size=0.02", *SMALL]
    assert main.run(["evaluate", *flags, "--test_tasks=10", "--test_steps=1"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    mean, ci95 = line.split(" loss after 1 step, 10 tasks")[0].split(" ± ")
    assert 0 < float(ci95) < 10 * float(mean)


def test_results_become_a_file_of_rows(trained, tmp_path, capsys):
    target = tmp_path / "all.csv"
    assert main.run(["runs", str(trained), f"--to={target}"]) == 0
    with target.open() as file:
        read = list(csv.DictReader(file))
    tests = [row for row in read if row["split"] == "test"]
    assert [row["step"] for row in tests] == ["0", "1", "2"]
    own = [row for row in rows(trained) if row["split"] == "test"]
    assert [row["mean"] for row in own] == [float(row["mean"]) for row in tests]
    assert own[0]["problem"] == "sinusoid" and own[0]["step_size"] == 0.02
    assert own[0]["num_tasks"] == 10 and own[0]["metric"] == "loss"


def test_what_it_does_not_take_is_one_line(trained, tmp_path, capsys):
    for words, message in (
        ([str(tmp_path)], "No runs in "),
        ([str(trained), "--shots=2"], "drop --shots"),
        ([str(trained), "--to=x.txt"], "must end in .csv"),
    ):
        assert main.run(["runs", *words]) == 1
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
