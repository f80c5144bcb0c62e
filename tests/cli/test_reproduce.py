"""`maml-tf reproduce`: what it calls, in which order, and what it keeps."""

import json

import pytest
from helpers import slow

from maml_tf.cli import drawing, evaluate, export, reproduce, train
from maml_tf.cli.main import run
from maml_tf.paper.protocol import EXPERIMENTS
from maml_tf.system import bundled


@pytest.fixture
def called(monkeypatch):
    """Puts stand-ins in place of the other commands; returns what they are called with."""
    calls = []

    def stand_in(name, status=0):
        def command(given, words):
            assert not words
            calls.append((name, given))
            return status

        return command

    monkeypatch.setattr(train, "run", stand_in("train"))
    monkeypatch.setattr(evaluate, "run", stand_in("evaluate"))
    monkeypatch.setattr(reproduce, "_forget", lambda: None)  # nothing was made
    monkeypatch.setattr(reproduce.runs, "locate", lambda given, paths: (None, None))
    monkeypatch.setattr(evaluate, "is_done", lambda settings, directory: False)
    monkeypatch.setattr(export, "run", stand_in("export"))
    monkeypatch.setattr(drawing, "draw", lambda *places: calls.append(("figures", places)))
    return calls


def evaluations(calls):
    names = ("test_shots", "shots", "inputs", "method")
    return [tuple(map(given.get, names)) for name, given in calls if name == "evaluate"]


@pytest.mark.parametrize("spelling", [["--logdir={}"], ["--logdir", "{}"]])
def test_a_space_in_the_log_directory(spelling, called, tmp_path):
    place = f"{tmp_path}/my  runs [1]*"
    given = [word.format(place) for word in spelling]
    assert run(["reproduce", "sinusoid_5shot", *given, f"--data_dir={tmp_path}/the data"]) == 0
    assert [name for name, _ in called] == ["train", "evaluate", "export", "figures"]
    for _, settings in called[:-1]:
        assert settings["logdir"] == place and settings["data_dir"] == f"{tmp_path}/the data"
    assert [[str(p) for p in called[-1][1][0]], str(called[-1][1][1])] == [
        [place],
        f"{place}/figures",
    ]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("sinusoid_10shot_oracle", [(k, 10, "all", "oracle") for k in (5, 10, 20)]),
        (
            "sinusoid_10shot_pretrained",
            [(k, 10, i, "pretrained") for i in ("all", "half") for k in (5, 10, 20)],
        ),
        ("omniglot_5way_1shot_context", [(k, 1, "all", "context") for k in (1, 5)]),
        ("omniglot_20way_5shot_trained", [(5, 5, "all", None)]),
        (
            "miniimagenet_5way_1shot_pretrained",
            [(k, 1, "all", m) for k in (1, 5) for m in ("pretrained", "nearest_neighbour")],
        ),
        ("navigation_2d", [(40, 20, "all", None)]),
        ("ant_velocity_random", [(None, 20, "all", "random")]),
    ],
)
def test_the_evaluations_that_the_paper_needs(name, expected, called):
    assert run(["reproduce", name]) == 0
    assert evaluations(called) == expected
    assert all(given["split"] == "test" for command, given in called if command == "evaluate")


def test_a_model_trained_with_another_k_than_its_flagfile_says(called):
    assert run(["reproduce", "omniglot_5way_5shot_trained"]) == 0
    settings = {name: given for name, given in called if name in ("train", "export")}
    assert settings["train"]["shots"] == 5
    assert settings["export"]["shots"] == 5


def test_an_evaluation_of_another_experiments_model_is_in_its_directory(called):
    assert run(["reproduce", "miniimagenet_5way_5shot_nearest_neighbour"]) == 0
    assert [name for name, _ in called] == ["train", "evaluate", "figures"]  # nothing to export
    assert called[0][1]["logdir"] == "logs/miniimagenet_5way_1shot_pretrained"


def test_quick_trains_the_sinusoid_and_its_baselines_for_a_short_time(called):
    assert run(["reproduce", "quick", "--seed=3", "--num_test_tasks=24"]) == 0
    trained = [given for name, given in called if name == "train"]
    assert [given["logdir"] for given in trained] == [
        f"logs/quick/sinusoid_10shot{suffix}" for suffix in ("", "_pretrained", "_oracle")
    ]
    assert {given["iterations"] for given in trained} == {15000}
    assert {given["test_tasks"] for given in trained} == {24}
    assert {given["seed"] for given in trained} == {3}  # the command line goes before the protocol
    assert len(evaluations(called)) == 15
    name, (places, target) = called[-1]
    assert (name, [*map(str, places)], str(target)) == (
        "figures",
        ["logs/quick"],
        "logs/quick/figures",
    )


def test_one_that_fails_does_not_end_the_others(called, monkeypatch, capsys):
    def fail(given, words):
        if given.get("problem") == "miniimagenet":
            raise FileNotFoundError("No images;\nget them.")
        if given.get("method") == "multitask":
            raise RuntimeError("a fault")
        called.append(("train", given))
        return 0

    monkeypatch.setattr(train, "run", fail)
    assert run(["reproduce", "all"]) == 1
    own = [e for e in EXPERIMENTS.values() if not (e.trained_by or e.other_flagfile)]
    failing = [n for n in (e.name for e in own) if "mini" in n or n.endswith("_multitask")]
    assert len(failing) == 6
    assert sum(name == "train" for name, _ in called) == len(own) - 6
    end = [line for line in capsys.readouterr().err.splitlines() if " failed: " in line]
    assert "sinusoid_10shot_multitask failed: RuntimeError: a fault" in end
    assert "miniimagenet_5way_1shot failed: No images; get them." in end and len(end) == 6


@pytest.mark.parametrize("name", ["quick", "all", "sinusoid_10shot"])
def test_an_interrupt_ends_all(name, called, monkeypatch):
    monkeypatch.setattr(train, "run", lambda given, words: 130)
    assert run(["reproduce", name]) == 130
    assert not called


def test_the_list_has_every_experiment_what_it_fills_and_how_long_it_takes(capsys):
    assert run(["reproduce", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "quick", *EXPERIMENTS]
    said = dict(zip(["NAME", "quick", *EXPERIMENTS], lines, strict=True))
    assert (
        "figure_2, figure_3, figure_6, figure_7, figure_7_half, table_2" in said["sinusoid_10shot"]
    )
    assert "evaluates omniglot_5way_1shot" in said["omniglot_5way_5shot"]
    assert said["omniglot_20way_1shot"].endswith("13 h") and said["quick"].endswith("2 min")


@pytest.mark.parametrize(
    "words, told",
    [
        (["sinusoid_10shots"], "Did you mean sinusoid_10shot?"),
        (["nothing"], "`maml-tf reproduce list`"),
        ([], "reproduce takes one name: quick, all, list, or an experiment"),
        (["quick", "all"], "reproduce takes one name"),
    ],
)
def test_what_is_no_experiment_is_said_in_one_line(words, told, capsys):
    assert run(["reproduce", *words]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_a_training_that_would_keep_nothing_is_refused_before_it_begins(called, capsys):
    assert run(["reproduce", "sinusoid_10shot", "--log=False"]) == 1
    assert "drop --log=False" in capsys.readouterr().err and not called


@pytest.mark.slow
def test_without_flagfiles_it_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path / "maml_tf")
    assert run(["reproduce", "sinusoid_10shot"]) == 1
    assert "There is no flagfile flags/sinusoid_10shot.flags" in capsys.readouterr().err


@pytest.mark.parametrize("anew", [False, slow(True)])
def test_started_again_it_keeps_what_is_there(anew, tmp_path, capsys):
    line = ["reproduce", "sinusoid_10shot_oracle", f"--logdir={tmp_path}", "--test_tasks=24"]
    line += ["--iterations=20", "--validation_tasks=24", "--progress=False"]
    line += ["--test_steps=1", "--tune_step_size=False", "--jit_compile=False"]
    assert run(line) == 0
    (directory,) = (p for p in tmp_path.iterdir() if p.name != "figures")
    files = sorted((directory / "results").iterdir())
    assert [f.name for f in files] == sorted(
        f"{kind}{k}shot{end}.json"
        for k in (5, 10, 20)
        for kind, end in (("test_", "_stepsize0.01"), ("samples_", ""))
    )
    assert (directory / "export" / "saved_model.pb").is_file()
    assert (directory / "figures" / "adaptation_loss.png").is_file()
    before = {file: file.read_bytes() for file in files}
    (directory / "results" / "test_5shot_stepsize0.01.json").unlink()
    capsys.readouterr()
    assert run(line) == 0
    said = capsys.readouterr().err
    assert "Nothing to train" in said
    assert "Kept the evaluation of test, K = 10." in said and "K = 5." not in said
    after = {f: json.loads(f.read_text()) for f in files}
    for file, content in before.items():
        kept = json.loads(content)
        assert all(after[file][key] == kept[key] for key in kept if key != "seconds")
        assert "5shot_" in file.name or file.read_bytes() == content
    if not anew:
        return
    assert run([*line, "--resume=False"]) == 0
    assert "Kept" not in capsys.readouterr().err
    assert len(list(tmp_path.glob("*.old1"))) == 1
