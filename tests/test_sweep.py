"""Sweeps of seeds and settings, examples/sweep."""

import csv
import importlib
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("optuna", reason="pip install maml-tf[sweep]")

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "examples" / "sweep"
sys.path.insert(0, str(PLACE))
over_seeds, study, sweep, words = (
    importlib.import_module(name) for name in ("over_seeds", "study", "sweep", "words")
)

TINY = ["--norm=none", "--iterations=20", "--meta_batch_size=2", "--validation_tasks=2"]
TINY += ["--split=test", "--test_tasks=4", "--test_steps=5"]


def _command(logdir, *more):
    seeds = ["--jobs=2", "--seed=0,1", "--test_shots=5,10"]
    return [sys.executable, str(PLACE / "sweep.py"), f"--logdir={logdir}", *seeds, *TINY, *more]


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _run(*command):
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=300)


def _logs(logdir):
    return {path.name: path.read_text() for path in (logdir / "sweep").glob("trial_*.txt")}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The directory of a sweep that was killed in a training, and what it said when it went on."""
    logdir = tmp_path_factory.mktemp("swept")
    command = [*_command(logdir), "--jobs=1"]
    killed = subprocess.Popen(command, env=_environment(), start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not any("\nRun: " in text for text in _logs(logdir).values()):
            assert killed.poll() is None and time.monotonic() < until
            time.sleep(0.1)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    return logdir, _run(*_command(logdir))


# --- a grid, in earnest ---


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_leaves_results(swept):
    logdir, done = swept
    assert (done.returncode, done.stderr) == (0, "")
    places = [path for path in logdir.iterdir() if path.name != "sweep"]
    assert len(places) == 2
    for place in places:
        names = {path.name for path in (place / "results").glob("test_*.json")}
        assert len(names) == 2 and {name[:7] for name in names} == {"test_5s", "test_10"}
    lines = done.stdout.splitlines()
    assert {line[:7] for line in lines[:2]} == {"1 of 2:", "2 of 2:"}
    assert all("loss" in line and "after 1, 5 steps, K = 5" in line for line in lines[:2])


@pytest.mark.slow
def test_its_numbers_are_those_of_the_result_files(swept):
    logdir, _ = swept
    with open(logdir / "sweep" / "results.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 6  # K = 5 and 10; 0 to 5 steps
    arguments = _command(logdir)[2:]
    both = [words.Words(arguments).curves({"seed": seed})[1] for seed in ("0", "1")]
    (row,) = (r for r in rows if r["test_shots"] == "10" and r["step"] == "5")
    one, other = (float(curve.mean[5]) for curve in both)
    assert both[0].shots == 10 and both[1].seed == 1
    assert float(row["mean"]) == pytest.approx((one + other) / 2)
    # Of two values the deviation is |a - b| / sqrt(2), and t with one degree of freedom 12.706.
    assert float(row["ci95"]) == pytest.approx(12.706 * abs(one - other) / 2, rel=1e-4)


@pytest.mark.slow
def test_what_is_done_is_not_done_again(swept):
    logdir, done = swept
    before = _logs(logdir)
    again = _run(*_command(logdir))
    assert again.returncode == 0 and _logs(logdir) == before
    assert again.stdout.strip() == done.stdout[done.stdout.index("\n\n") :].strip()


def _stand_in(tmp_path, monkeypatch, script):
    """Runs a shell's script in place of maml-tf."""
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sweep.sys, "executable", str(stub))


@pytest.mark.parametrize(
    "death, said",
    [
        ("echo 'maml-tf: The loss is not finite.' >&2; exit 1", "maml-tf: The loss is not finite."),
        ("kill -9 $$", "ended by signal 9"),
    ],
)
@pytest.mark.slow
def test_a_trial_that_fails_is_recorded(swept, tmp_path, monkeypatch, capsys, death, said):
    logdir = tmp_path / "logs"
    shutil.copytree(swept[0], logdir, ignore=shutil.ignore_patterns("sweep"))
    _stand_in(tmp_path, monkeypatch, f'case "$*" in *--seed=1*) {death};; esac')
    arguments = [word for word in _command(logdir)[2:] if not word.startswith("--jobs")]
    assert sweep.main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"2 of 2: seed=1: failed: {said} (")
    assert lines[-1] == f"seed=1: failed: {said}"
    assert sweep.main(arguments) == 1  # It is not tried again.
    assert capsys.readouterr().out.splitlines() == lines[2:]


def test_an_interrupted_sweep_stops_its_trials_and_keeps_them(tmp_path, monkeypatch, capsys):
    _stand_in(tmp_path, monkeypatch, "exec sleep 60")
    began = time.monotonic()
    timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    asked = [f"--logdir={tmp_path}", "--seed=0,1,2", "--jobs=2"]
    assert sweep.main(asked) == 130 and time.monotonic() - began < 50
    assert capsys.readouterr() == ("", "sweep: interrupted; the same command goes on\n")
    trials = study.Trials(words.Words(asked))
    assert not trials.ended() and not trials.errors()
    taken = [trials.take() for _ in range(3)]
    assert sorted(trial.params["seed"] for trial, _ in taken) == ["0", "1", "2"]
    assert trials.take() is None


# --- a grid, without training ---


@pytest.fixture
def trained(monkeypatch):
    """Commands that are not run: each trial's loss after 0 and 1 steps is its step size."""

    def curves(self, values):
        loss = math.nan if values.get("seed") == "9" else float(values.get("step_size", 1))
        curve = SimpleNamespace(steps=(0, 1), mean=np.full(2, loss), metric="loss", shots=5)
        return [curve] * len(self.evaluations(values))

    called = []
    monkeypatch.setattr(sweep.Sweep, "_call", lambda self, words, log: called.append(words))
    monkeypatch.setattr(words.Words, "curves", curves)
    return called


def test_flags_take_the_places_of_lists(tmp_path, trained, capsys):
    asked = [f"--logdir={tmp_path}", "--recipe=,maml++", "--step_size=0.1,0.2", "--inner_steps=2"]
    assert sweep.main([*asked, "--inputs=all,half", "--seed=3"]) == 0
    assert len(trained) == 4 * 3
    assert trained[0][:2] == ["train", "--intra_op_threads=1"]
    own = ["--step_size=0.1", "--inner_steps=2", "--seed=3"]
    assert trained[0][-4:] == [f"--logdir={tmp_path}", *own]
    assert trained[2][-5:] == [f"--logdir={tmp_path}", *own[:2], "--inputs=half", own[2]]
    assert trained[6][-5:] == [f"--logdir={tmp_path}", "--recipe=maml++", *own]
    assert "no recipe step_size=0.1: loss 0.1" in capsys.readouterr().out


def test_what_is_not_finite_has_no_mean(tmp_path, trained, capsys):
    assert sweep.main([f"--logdir={tmp_path}", "--seed=8,9", "--step_size=0.1,0.2"]) == 0
    table = capsys.readouterr().out.splitlines()[-4:-1]
    assert [line.split() for line in table] == [
        ["step_size", "seeds", "loss", "after", "1"],
        *([size, "2", *"not finite: 1 of 2".split()] for size in ("0.1", "0.2")),
    ]


def test_a_search_goes_on_to_its_number_of_trials(tmp_path, trained, capsys):
    asked = [f"--logdir={tmp_path}", "--step_size=0.001..0.1:log", "--inner_steps=1..3:linear"]
    assert sweep.main([*asked, "--trials=3"]) == 0
    assert sweep.main([*asked, "--trials=5", "--jobs=2"]) == 0
    drawn = [dict(w[2:].split("=") for w in words[1:]) for words in trained if words[0] == "train"]
    assert len(drawn) == 5 and len({each["step_size"] for each in drawn}) == 5
    assert all(0.001 <= float(each["step_size"]) <= 0.1 for each in drawn)
    assert {each["inner_steps"] for each in drawn} <= {"1", "2", "3"}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("best: ")
    assert f"step_size={min(drawn, key=lambda each: float(each['step_size']))['step_size']}" in last


def test_a_trial_is_its_processes_until_all_have_ended(tmp_path):
    asked = words.Words([f"--logdir={tmp_path}", "--seed=0,1"])
    first, log = study.Trials(asked).take()
    orphan = subprocess.Popen(["sleep", "60"], stdout=log)
    log.close()  # As if this process had been killed, and what it had started lived on.
    elsewhere = study.Trials(asked)
    second, _other = elsewhere.take()
    assert (first.params, second.params) == ({"seed": "0"}, {"seed": "1"})
    assert elsewhere.take() is None and not elsewhere.all_ended()
    orphan.kill()
    orphan.wait()
    third, _log = elsewhere.take()
    assert third.params == first.params and elsewhere.take() is None
    elsewhere.tell(third, 1.0)
    elsewhere.tell(second, math.nan)
    assert elsewhere.all_ended() and len(elsewhere.ended()) == 2 and not elsewhere.errors()


@pytest.mark.parametrize("failed", [False, True])
def test_no_trial_ends_while_another_looks_for_those_left_behind(tmp_path, failed):
    asked = words.Words([f"--logdir={tmp_path}", "--seed=0"])
    here, elsewhere = study.Trials(asked), study.Trials(asked)
    trial, _log = here.take()
    tell = (here.tell_error, "why") if failed else (here.tell, 1.0)
    with elsewhere._alone():
        telling = threading.Thread(target=tell[0], args=(trial, tell[1]))
        telling.start()
        telling.join(0.3)
        assert telling.is_alive() and not elsewhere.all_ended() and not elsewhere.ended()
    telling.join()
    assert elsewhere.all_ended() and len(elsewhere.ended()) == 1


# --- words ---


@pytest.mark.parametrize(
    "asked, said",
    [
        (["--seed=0,1"], "Say --logdir=DIRECTORY, one for this sweep alone."),
        (["--logdir=a,b"], "Say --logdir=DIRECTORY, one for this sweep alone."),
        (["--logdir=a", "seed=0,1"], "'seed=0,1' is no flag; write --flag=value"),
        (["--logdir=a", "--jobs=0"], "--jobs=0: write a whole number from 1 on."),
        (["--logdir=a", "--seeds=0,1"], "Unknown command line flag 'seeds'"),
        (["--logdir=a", "--seed=0,x"], "flag --seed=x: write a whole number"),
        (["--logdir=a", "--step_size=0.1,-1"], "step_size"),
        (["--logdir=a", "--recipe=maml,maml++"], "There is no recipe 'maml'; there are: maml++."),
        (["--logdir=a", "--norm=a..b:log"], "--norm takes no numbers, and so no range of them."),
        (["--logdir=a", "--step_size=1..x:log"], "could not convert"),
        (["--logdir=a", "--step_size=1..0.1:log"], "low"),
        (["--logdir=a", "--step_size=0.1..1:log", "--seed=0,1"], "would choose the luckiest seed"),
        (["--logdir=a", "--step_size=0.1..1:log", "--split=test"], "chooses by validation tasks"),
        (["--logdir=a", "--iterations=1,2"], "iterations=1 and iterations=2 are one run, sinusoid"),
        (["--logdir=a", "--flagfile=none.flags", "--seed=0,1"], "none.flags"),
    ],
)
def test_wrong_words_are_one_line(asked, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sweep.main(asked) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("sweep: ") and err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())


def test_another_sweep_takes_another_directory(tmp_path, trained, capsys):
    assert sweep.main([f"--logdir={tmp_path}", "--seed=0,1", "--jobs=2"]) == 0
    assert sweep.main([f"--logdir={tmp_path}", "--seed=0,1", "--iterations=3"]) == 1
    assert f"{tmp_path}/sweep is of another sweep, --seed=0,1; " in capsys.readouterr().err
    assert sweep.main([f"--logdir={tmp_path}/.", "--seed=0,1"]) == 0
    assert len(trained) == 4


# --- intervals ---


def test_the_interval_over_seeds():
    # Mean 3; s^2 = (4 + 1 + 0 + 1 + 4) / 4 = 2.5; t with 4 degrees of freedom is 2.7764.
    assert over_seeds.over_seeds([1, 2, 3, 4, 5]) == pytest.approx(
        (5, 0, 3.0, 2.7764 * math.sqrt(2.5 / 5)), rel=1e-4
    )
    assert over_seeds.over_seeds([7.0])[:3] == (1, 0, 7.0)
    assert math.isnan(over_seeds.over_seeds([7.0]).ci95)
    assert over_seeds.over_seeds([1.0, math.nan, 3.0])[:2] == (3, 1)


@pytest.mark.parametrize(
    "freedom, t", [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_students_t_is_that_of_tables(freedom, t):
    assert over_seeds.student(freedom) == pytest.approx(t, abs=6e-5)
