"""Result files that something else wrote, cut, copied or changed."""

import dataclasses
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import make_settings, result_content, write_result

from maml_tf.cli.original import from_flags
from maml_tf.estimates import Tuning
from maml_tf.experiments.records import Kind
from maml_tf.paper import tables
from maml_tf.paper.numbers import TABLES
from maml_tf.plotting import curves as figures
from maml_tf.results import build as results
from maml_tf.results import choice as result_choice
from maml_tf.results import files as result_files
from maml_tf.results import names as result_names
from maml_tf.results import schema as result_schema
from maml_tf.results.choice import Wanted
from maml_tf.results.records import Curve, Paths, PathTask, Samples, SampleTask
from maml_tf.types import Estimate

ROOT = Path(__file__).parents[1]
NAMES = {
    Curve: ("omniglot_5way_1shot", "test_1shot_stepsize0.4"),
    Samples: ("sinusoid_10shot", "samples_5shot"),
    Paths: ("navigation_2d", "paths_40trajectories"),
}


def error_of(path):
    with pytest.raises(ValueError, match="is not a result file of this version") as error:
        result_files.read(path)
    text = str(error.value)
    assert text.isprintable() and len(text) < 400 + len(str(path))
    return text


def changed(tmp_path, what=Curve, **changes):
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({**result_content(*NAMES[what]), **changes}))
    return path


def test_every_release_is_read():
    for path in sorted((ROOT / "models").glob("*/result.json")):
        assert result_files.read(path), path


WRONG = [True, 1.5, -1, 10**400, "x", ["x"], [1.5], [True], {}, [{}], [[]], None, "../x", "a\nb"]
RIGHT = {
    "datasource": ["x"],  # of a user's own
    "experiment": ["x", "../x"],
    "metric": ["x"],
    "flags": [["x"]],
    "conv": [True],
    "step_size": [1.5, None],
    "train_shots": [None],
    "ways": [None],
    "seconds": [1.5, None],
    "queries": [None],
    "tuning": [None],
}


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
def test_a_field_of_another_type_is_named(kind, tmp_path):
    for name in result_content(*NAMES[kind]):
        for value in WRONG:
            path = changed(tmp_path, kind, **{name: value})
            if any(value is right or value == right for right in RIGHT.get(name, [])):
                assert result_files.read(path)
            else:
                told = error_of(path)
                assert name in told or (value == [{}] and "no '" in told), (name, value)


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"method": ["maml"]}, "method is a list, not a text"),
        ({"method": "mamal"}, 'method is "mamal", not one of maml, fomaml'),
        ({"flags": [None]}, "flags is null, not a text"),
        ({"flags": "--seed=3"}, 'flags is "--seed=3", not a list'),
        ({"flags": ["--update_lr=abc"]}, "which is no number"),
        ({"seed": True}, "seed is true, not a whole number"),
        ({"seed": 0.0}, "seed is 0.0, not a whole number"),
        ({"seed": -1}, "seed is -1, not from 0 to"),
        ({"shots": 0}, "shots is 0, not from 1"),
        ({"train_shots": "1..x"}, 'train_shots is "1..x", not a range of whole numbers from 1'),
        ({"train_shots": "0..5"}, 'train_shots is "0..5", not a range of whole numbers from 1'),
        ({"shots": "1..5"}, 'shots is "1..5", not a whole number'),
        ({"iteration": 10**30}, "iteration is a long number, not from 0"),
        ({"step_size": "0.1"}, 'step_size is "0.1", not a number'),
        ({"step_size": False}, "step_size is false, not a number"),
        ({"conv": 1}, "conv is 1, not true or false"),
        ({"split": "dev"}, 'split is "dev", not one of train, val, test'),
        ({"metric": "../x"}, 'metric is "../x", not one word'),
        ({"experiment": "a\ud800"}, 'experiment is "a\\ud800", not one line of plain text'),
        ({"experiment": "$\\frac$"}, 'experiment is "$\\\\frac$", which holds a $'),
        ({"experiment": "a\nb"}, 'experiment is "a\\nb", not one line of plain text'),
        ({"experiment": "\x1b[2J"}, 'experiment is "\\u001b[2J", not one line'),
        ({"experiment": "a\x85"}, 'experiment is "a\\u0085", not one line'),
        ({"experiment": "a\u2028b"}, 'experiment is "a\\u2028b", not one line'),
        ({"flags": ["--logdir=\udcff"]}, 'flags is "--logdir=\\udcff", not one line'),
        ({"kind": "curve\n"}, 'kind is "curve\\n", not one line'),
        ({"steps": [0, 0]}, "steps do not ascend"),
        ({"steps": []}, "steps do not ascend"),
        ({"mean": [[1]]}, "mean holds a list, not numbers"),
        ({"mean": ["1"]}, 'mean holds "1", not numbers'),
        ({"version": True}, "version is true, not a whole number"),
        ({"kind": ["curve"]}, "kind is a list, not a text"),
        ({"kind": "release", "results": []}, "results is a list, not a list of objects"),
        ({"kind": "release", "results": [3]}, "one of results is 3, not an object"),
    ],
)
def test_the_fault_is_said(changes, fault, tmp_path):
    assert fault in error_of(changed(tmp_path, **changes))


@pytest.mark.parametrize(
    "contents, fault",
    [
        (b"\xff\xfe{}", "it is not UTF-8 text"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"version": ' + b"[" * 100 + b"]" * 100 + b"}", "it is nested too deeply"),
        (b'{"version": 1, "version": 1}', 'it says "version" twice'),
        (b"[]", "it is a list, not an object"),
        (b"3", "it is 3, not an object"),
        (b'{"version": 1' + b"1" * 5000 + b"}", "integer string conversion"),
        (b"\0" * 100, "Expecting value"),
    ],
)
def test_what_is_no_result_file(contents, fault, tmp_path):
    (tmp_path / "x.json").write_bytes(contents)
    assert fault in error_of(tmp_path / "x.json")


def test_what_is_no_file(tmp_path, monkeypatch):
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "fifo.json")
    assert "it is not a regular file" in error_of(tmp_path / "folder.json")
    assert "it is not a regular file" in error_of(tmp_path / "fifo.json")
    with pytest.raises(FileNotFoundError):
        result_files.read(tmp_path / "nowhere.json")
    monkeypatch.setattr(result_schema, "LARGEST", 100)
    write_result(tmp_path / "large.json")
    assert "it is larger than" in error_of(tmp_path / "large.json")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = changed(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert result_files.read(path)


# --- numbers that JSON does not have ---

NAN, INF = float("nan"), float("inf")


def test_a_diverged_evaluation_is_written_as_json_and_read_back(tmp_path):
    config = make_settings(logdir="my runs", data_dir="a  b", test_steps=2)
    estimate = Estimate(np.array([1.0, NAN, INF]), np.array([1.0, NAN, -INF]), np.ones(3), 600)
    tuning = Tuning(0.1, (0.1, 0.2), (1.0, NAN))
    content = results.curve(
        config, estimate, metric="loss", iteration=3, seconds=1.0, tuning=tuning
    ).to_json()
    path = tmp_path / "results" / "a.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content, allow_nan=False))
    (curve,) = result_files.read(path)
    np.testing.assert_array_equal(curve.estimate.mean, [1.0, NAN, NAN])
    np.testing.assert_array_equal(curve.estimate.std, [1.0, NAN, NAN])
    assert content["tuning"]["scores"] == [1.0, None]
    assert figures.draw_run([curve]).keys() == {"adaptation_loss"}
    assert all(tables.make(name, [curve]) for name in TABLES)
    released = result_files.release([path], 3)
    assert json.dumps(released, allow_nan=False)


def test_a_file_of_an_earlier_version_that_holds_nan_is_read_and_released_without(tmp_path):
    mean = [NAN, INF, *[0.5] * 9]
    write_result(tmp_path / "a.json", mean=mean, flags=["--logdir=my", "runs", "--seed=0"])
    assert "NaN" in (tmp_path / "a.json").read_text()
    (curve,) = result_files.read(tmp_path / "a.json")
    np.testing.assert_array_equal(curve.estimate.mean, [NAN, NAN, *[0.5] * 9])
    released = result_files.release([tmp_path / "a.json"], curve.iteration)
    (inner,) = json.loads(json.dumps(released, allow_nan=False))["results"]
    assert inner["mean"][:2] == [None, None] and inner["flags"] == ["--seed=0"]


def test_spaces_in_directories_stay_in_their_flags(tmp_path):
    config = make_settings(logdir="my runs/--seed=7 x", data_dir="the data", to=" t ", init="a b")
    estimate = Estimate(*np.ones((3, 11)), 600)
    content = results.curve(config, estimate, metric="loss", iteration=3, seconds=1.0).to_json()
    assert from_flags("\n".join(content["flags"])) == config
    (tmp_path / "a.json").write_text(json.dumps(content))
    (curve,) = result_files.read(tmp_path / "a.json")
    assert curve.flags == tuple(content["flags"])
    assert (
        result_choice.choose([curve], Wanted(Curve, "maml", "sinusoid", 5)) == []
    )  # not of the test
    (inner,) = result_files.release([tmp_path / "a.json"], 3)["results"]
    assert not any("runs" in f or "the data" in f or "a b" in f for f in inner["flags"])


# --- leftovers ---

LEFTOVERS = [
    "._{}.json",
    ".{}.json.icloud",
    "{}.json.icloud",
    "{} (1).json",
    "{} copy.json",
    "{} copy 2.json",
    "{} - Copy.json",
    "Copy of {}.json",
    "{} (conflicted copy 2026-01-02).json",
    "{} (Anna's conflicted copy 2026-01-02).json",
    "{}.sync-conflict-20260102-112233-ABCDEFG.json",
    "{}.json~",
    "{}~.json",
    "{}.json.tmp",
    "{}.JSON.bak",
    "#{}.json#",
    ".#{}.json",
    "~${}.json",
]
OWN = "test_1shot_stepsize1e-05_inductive_seed3"


@pytest.mark.parametrize("name", LEFTOVERS)
@pytest.mark.parametrize("place, stem", [("run/results", OWN), ("release", "result")])
def test_leftovers_are_ignored_and_named_once(place, stem, name, tmp_path, caplog):
    write_result(tmp_path / place / f"{stem}.json")
    for other in ("", "2"):
        path = tmp_path / place / name.format(stem + other)
        path.write_text('{"another": "result"}')
    with caplog.at_level(logging.WARNING):
        assert [p.name for p in result_files.find([tmp_path])] == [f"{stem}.json"]
    (record,) = caplog.records
    assert f"Ignored {tmp_path}" in record.message and " and 1 more such files" in record.message


def test_leftovers_do_not_get_into_a_release(tmp_path):
    write_result(tmp_path / f"{OWN}.json")
    for name in LEFTOVERS:
        write_result(tmp_path / name.format(OWN))
    iteration = result_content(*NAMES[Curve])["iteration"]
    assert len(result_files.release(tmp_path.glob("*"), iteration)["results"]) == 1


SETTINGS = {
    "val_5shot_stepsize0.01": {},
    "test_40trajectories_stepsize0.01": {
        "datasource": "navigation_2d",
        "test_set": True,
        "update_batch_size": 40,
    },
    "val_5shot_stepsizetuned_half_seed4294967295": {
        "method": "pretrained",
        "inputs": "half",
        "seed": 2**32 - 1,
    },
    "val_5shot_stepsize1e-07_inductive_best": {
        "batch_statistics": "inductive",
        "use_best": True,
        "update_lr": 1e-7,
    },
    "val_5shot_nearest_neighbour_iteration1000000000000": {
        "datasource": "omniglot",
        "method": "nearest_neighbour",
        "test_iter": 10**12,
    },
}


def made(kind, settings, **measured):
    """A result of an evaluation by some settings."""
    config = make_settings(**settings)
    if kind is Samples:
        task = SampleTask(1.0, 0.0, np.ones(3), np.ones(3), np.ones(5), np.ones(5), np.ones((3, 5)))
        return results.samples(config, [task], iteration=3)
    if kind is Paths:
        steps = config.evaluation.steps + 1
        task = PathTask(np.ones(2), ((np.zeros((4, 2)),),) * steps)
        return results.paths(config, [task], iteration=3)
    tuning = Tuning(0.1, (0.1, 0.2), (1.0, NAN)) if config.evaluation.tune_step_size else None
    estimate = Estimate(*np.random.default_rng(0).normal(size=(3, 11)), 600)
    metric = "return" if config.problem.kind is Kind.POLICY else "loss"
    measured = {"metric": metric, "seconds": 1.0, **measured}
    return results.curve(config, estimate, iteration=3, tuning=tuning, **measured)


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("settings", SETTINGS.values())
def test_what_is_written_is_read_back_by_the_same_definition(kind, settings, tmp_path):
    result = made(kind, settings)
    (again,) = result_files.read(result_files.write(result, tmp_path))
    assert again.path.parent == tmp_path / "results" and type(again) is kind
    assert again.to_json() == result.to_json()
    assert list(result.to_json())[:2] == ["version", "kind"]


def test_what_a_file_of_an_earlier_version_says_in_flags_alone(tmp_path):
    flags = ["--update_lr=0.1", "--train_update_lr=0.4", "--loss_reduction=mean", "--use_best=True"]
    flags += ["--head_stddev=0.1", "--test_iter=500"]
    write_result(tmp_path / "a.json", flags=flags)
    (result,) = result_files.read(tmp_path / "a.json")
    assert (result.asked_step_size, result.train_step_size) == (0.1, 0.4)
    assert (result.loss_reduction, result.head_stddev) == ("mean", 0.1)
    assert (result.best_weights, result.asked_iteration) == (True, 500)
    assert not result.as_trained and result_names.file_name(result).endswith("_iteration500.json")


# --- results of the same settings ---

RIVALS = ["{}-DESKTOP-4F2A.json", "{}-2.json", "{}_1.json", "{}_Laptop.json", "old.json", "A.json"]
KINDS = {Curve: "test_1shot_stepsize0.4", Samples: "samples_5shot", Paths: NAMES[Paths][1]}


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("rival", RIVALS)
def test_of_two_results_of_the_same_settings_the_one_with_their_name_counts(
    rival, kind, tmp_path, caplog
):
    place, stem = tmp_path / "run" / "results", KINDS[kind]
    changes = {"iteration": 7, "flags": ["--update_lr=0.4", "--logdir=elsewhere", "--data_dir=x"]}
    for other in ("", "half"):
        change = {"inputs": "half"} if other and kind is Samples else {"seed": 3} if other else {}
        name = {"": stem, "half": f"{stem}_half" if kind is Samples else f"{stem}_seed3"}[other]
        write_result(place / f"{name}.json", *NAMES[kind], **change)
    write_result(place / rival.format(stem), *NAMES[kind], **changes)
    with caplog.at_level(logging.WARNING):
        found = result_files.find([tmp_path])
    assert len(found) == 2 and rival.format(stem) not in [path.name for path in found]
    (record,) = caplog.records
    told = f"Ignored {place / rival.format(stem)}: {stem}.json has the same settings."
    assert record.message == told


@pytest.mark.parametrize("rival", RIVALS)
def test_a_release_holds_one_result_of_the_same_settings(rival, tmp_path, caplog):
    write_result(tmp_path / "test_1shot_stepsize0.4.json")
    write_result(tmp_path / rival.format("test_1shot_stepsize0.4"), mean=[0.5] * 11)
    own = result_content(*NAMES[Curve])
    (result,) = result_files.release(tmp_path.glob("*"), own["iteration"])["results"]
    assert result["mean"] == own["mean"] and len(caplog.records) == 1


@pytest.mark.parametrize("flags", [["--update_lr=0.4"], ["--update_lr=0.4", "--norm=of_tomorrow"]])
def test_without_that_name_two_results_of_the_same_settings_are_refused(flags, tmp_path, caplog):
    place = tmp_path / "results"
    write_result(place / "x-PC1.json", flags=[*flags, "--logdir=one"])
    write_result(place / "x-PC2.json", flags=[*flags, "--logdir=two"], mean=[0.5] * 11)
    with pytest.raises(ValueError, match="x-PC1.json and .*x-PC2.json have the same set") as error:
        result_files.find([tmp_path])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="x-PC1.json and .*x-PC2.json have the same settings"):
        result_files.release(place.glob("*"), 60000)
    write_result(place / "x-PC2.json", flags=[*flags, "--logdir=one"])
    assert [path.name for path in result_files.find([tmp_path])] == ["x-PC1.json"]
    assert "x-PC2.json: x-PC1.json has the same settings" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "val"},
        {"shots": 5},
        {"seed": 3},
        {"inputs": "half", "datasource": "sinusoid"},
        {"batch_statistics": "inductive"},
        {"method": "nearest_neighbour"},
        {"flags": ["--update_lr=0.1"]},
        {"flags": ["--update_lr=0.4", "--use_best=True"]},
        {"flags": ["--update_lr=0.4", "--test_iter=5"]},
        {"tuning": {"step_sizes": [0.4], "scores": [0.9]}},
    ],
)
def test_results_of_other_settings_stay_whatever_their_names(changes, tmp_path, caplog):
    place = tmp_path / "results"
    write_result(place / "a.json", flags=["--update_lr=0.4"])
    write_result(place / "b.json", **{"flags": ["--update_lr=0.4"], **changes})
    write_result(tmp_path / "run2" / "results" / "a.json")
    (place / "torn.json").write_text("{")
    assert len(result_files.find([tmp_path])) == 4 and not caplog.records


def test_another_machine_s_release_is_named(tmp_path, caplog):
    write_result(tmp_path / "result.json")
    write_result(tmp_path / "result-DESKTOP-4F2A.json")
    assert [path.name for path in result_files.find([tmp_path])] == ["result.json"]
    assert f"Ignored {tmp_path / 'result-DESKTOP-4F2A.json'}: no result file" in caplog.text


def test_an_evaluation_s_own_names_are_implied_by_what_it_writes(tmp_path):
    for name, settings in SETTINGS.items():
        result = made(Curve, settings)
        path = result_files.write(result, tmp_path)
        assert path == tmp_path / "results" / f"{name}.json"
        (again,) = result_files.read(path)
        assert result_names.file_name(again) == path.name


def test_files_of_earlier_versions_have_the_names_of_their_settings(tmp_path):
    since = {"asked_step_size", "train_step_size", "best_weights", "asked_iteration"}
    for name, settings in SETTINGS.items():
        content = made(Curve, settings).to_json()
        kept = {key: value for key, value in content.items() if key not in since}
        kept["flags"] = [f"--{flag}={value}" for flag, value in settings.items()]
        (tmp_path / "a.json").write_text(json.dumps(kept))
        (result,) = result_files.read(tmp_path / "a.json")
        assert result_names.file_name(result) == f"{name}.json"


@pytest.mark.parametrize("folder", [".stversions", "@eaDir", ".dropbox.cache", "#recycle"])
def test_what_synchronisation_keeps_aside_does_not_count(folder, tmp_path):
    write_result(tmp_path / "run" / "results" / "a.json")
    write_result(tmp_path / folder / "run" / "results" / "a.json")
    assert len(result_files.find([tmp_path])) == 1


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("settings", SETTINGS.values())
def test_our_own_names_are_no_leftovers(kind, settings):
    assert result_files.is_own(Path(result_names.file_name(made(kind, settings))))


@pytest.mark.parametrize("kind", [Samples, Paths])
def test_a_copy_of_a_file_is_drawn_once(kind, tmp_path):
    for name in ("a.json", "b.json"):
        write_result(tmp_path / name, *NAMES[kind])
    one, two = (result_files.read(tmp_path / name)[0] for name in ("a.json", "b.json"))
    wanted = Wanted(kind, one.method, one.problem)
    assert result_choice.choose([one, two], wanted) == [one]
    other = dataclasses.replace(two, tasks=two.tasks[:1])
    with pytest.raises(ValueError, match="a.json and .*b.json would fill the same place"):
        result_choice.choose([one, other], wanted)
