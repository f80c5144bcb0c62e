import dataclasses
import json

import numpy as np
import pytest
from helpers import paper_results, result_content, write_result

from maml_tf.paper import numbers as paper
from maml_tf.paper.protocol import find
from maml_tf.results import choice as result_choice
from maml_tf.results import files as result_files
from maml_tf.results.choice import Wanted
from maml_tf.results.records import Curve, Paths, Samples

PATHS = ["navigation_2d", "paths_40trajectories"]
OMNIGLOT = Wanted(Curve, "maml", "omniglot", 1, 1, step=3, ways=5, conv=True)


def read_one(path, *arguments, **changes):
    write_result(path, *arguments, **changes)
    (result,) = result_files.read(path)
    return result


def test_a_curve_is_what_the_file_says(tmp_path):
    curve = read_one(tmp_path / "a.json")
    content = result_content("omniglot_5way_1shot", "test_1shot_stepsize0.4")
    assert isinstance(curve, Curve) and (curve.ways, curve.shots, curve.conv) == (5, 1, True)
    for name in ("mean", "std", "ci95"):
        np.testing.assert_array_equal(getattr(curve.estimate, name), content[name])
    assert curve.estimate.num_tasks == 600 and curve.steps == tuple(range(11))


def test_samples_are_what_the_file_says(tmp_path):
    samples = read_one(tmp_path / "a.json", "sinusoid_10shot", "samples_5shot")
    content = result_content("sinusoid_10shot", "samples_5shot")
    assert isinstance(samples, Samples) and samples.steps == (0, 1, 10)
    for task, said in zip(samples.tasks, content["tasks"], strict=True):
        assert (task.amplitude, task.phase) == (said["amplitude"], said["phase"])
        np.testing.assert_array_equal(task.predictions, said["predictions"])
        np.testing.assert_array_equal(task.support_y, said["support_y"])


def test_paths_are_what_the_file_says(tmp_path):
    name = "navigation_2d", "paths_40trajectories"
    paths = read_one(tmp_path / "a.json", *name)
    content = result_content(*name)
    assert isinstance(paths, Paths) and paths.steps == (0, 1, 2, 3) and paths.as_trained
    for task, said in zip(paths.tasks, content["tasks"], strict=True):
        assert task.goal.tolist() == said["goal"]
        walked = [[path.tolist() for path in episodes] for episodes in task.paths]
        assert walked == said["paths"]


@pytest.mark.parametrize(
    "arguments, changes, fault",
    [
        ([], {"mean": None}, "no 'mean'"),
        ([], {"num_tasks": None}, "no 'num_tasks'"),
        ([], {"version": None}, "no 'version'"),
        ([], {"version": 2}, "version 2, not 1"),
        ([], {"kind": "other"}, "kind 'other'"),
        ([], {"mean": [0.2, 0.9]}, "differ in length"),
        (["sinusoid_10shot", "samples_5shot"], {"steps": [0, 1]}, "do not fit"),
        (["sinusoid_10shot", "samples_5shot"], {"tasks": [{}]}, "no 'amplitude'"),
        (PATHS, {"steps": [0, 1]}, "not points of a plane"),
        (PATHS, {"tasks": [{}]}, "no 'goal'"),
        (PATHS, {"tasks": [{"goal": [0, 1], "paths": [[[[0, 0]], [[1]]]]}]}, "not points"),
    ],
)
def test_a_file_of_another_version_is_named_with_the_mend(tmp_path, arguments, changes, fault):
    with pytest.raises(ValueError, match="old.json is not a result file of this version") as error:
        read_one(tmp_path / "old.json", *arguments, **changes)
    assert fault in str(error.value) and "maml-tf evaluate" in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_torn_file_is_named(tmp_path, text):
    (tmp_path / "torn.json").write_text(text)
    with pytest.raises(ValueError, match="torn.json is not a result file"):
        result_files.read(tmp_path / "torn.json")


def test_files_are_found_at_any_depth_but_not_in_runs_set_aside(tmp_path):
    write_result(tmp_path / "logs" / "run" / "results" / "a.json")
    write_result(tmp_path / "logs" / "deep" / "run" / "results" / "b.json")
    write_result(tmp_path / "logs" / "run.old1" / "results" / "c.json")
    (tmp_path / "logs" / "run" / "other.json").write_text("{}")
    found = result_files.find([tmp_path / "logs", tmp_path / "logs" / "run"])
    assert sorted(path.name for path in found) == ["a.json", "b.json"]
    with pytest.raises(FileNotFoundError, match="maml-tf evaluate"):
        result_files.find([tmp_path / "logs", tmp_path / "nowhere"])


def test_a_release_holds_several_results_in_one_file(tmp_path):
    one = result_content("omniglot_5way_1shot", "test_1shot_stepsize0.4")
    five = result_content("omniglot_5way_1shot", "test_5shot_stepsize0.4")
    content = {"version": 1, "kind": "release", "iteration": 60000, "results": [one, five]}
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert [result.shots for result in paper_results(tmp_path)] == [1, 5]


# --- choosing ---


@pytest.mark.parametrize(
    "change",
    [
        {"split": "val"},
        {"batch_statistics": "inductive"},
        {"method": "fomaml"},
        {"datasource": "miniimagenet"},
        {"ways": 20},
        {"outputs": 20},
        {"shots": 5},
        {"train_shots": 5},
        {"conv": False},
        {"inputs": "half"},
        {"steps": [0, 1], "mean": [0, 1], "std": [0, 1], "ci95": [0, 1]},
    ],
)
def test_what_another_protocol_measured_does_not_fit(tmp_path, change):
    assert result_choice.choose([read_one(tmp_path / "a.json")], OMNIGLOT)
    assert not result_choice.choose([read_one(tmp_path / "b.json", **change)], OMNIGLOT)


def test_pretraining_on_tasks_is_not_the_classifier_of_all_classes(tmp_path):
    of_tasks = read_one(tmp_path / "a.json", method="pretrained", train_shots=1)
    joint = dataclasses.replace(of_tasks, train_shots=None)
    wanted = Wanted(Curve, "pretrained", "omniglot", 1, None, step=3, ways=5)
    assert wanted.fits(joint) and not wanted.fits(of_tasks)


def test_the_longest_trained_counts_one_a_seed(tmp_path):
    short = read_one(tmp_path / "short.json", iteration=5000)
    first = read_one(tmp_path / "first.json", seed=0)
    second = read_one(tmp_path / "second.json", seed=1)
    chosen = result_choice.choose([second, short, first], OMNIGLOT)
    assert [curve.path.name for curve in chosen] == ["first.json", "second.json"]


@pytest.mark.parametrize("flag", ["--loss_reduction=mean", "--head_stddev=0.1"])
def test_the_published_loss_and_head_go_before_others_trained_longer(tmp_path, flag):
    flags = ["--loss_reduction=sum", "--head_stddev=-1.0"]
    published = read_one(tmp_path / "published.json", flags=flags, iteration=5000)
    other = read_one(tmp_path / "other.json", flags=[flag])
    assert other.iteration > published.iteration
    filled = paper.cell("omniglot_5way_1shot", 1)
    assert filled.wanted(Curve) == OMNIGLOT
    assert filled.choose([other, published], Curve) == [published]
    assert filled.choose([other], Curve) == [other]
    assert result_choice.choose([other, published], OMNIGLOT) == [other]


def test_an_experiment_of_another_loss_or_head_is_its_own_record(tmp_path):
    mean = read_one(tmp_path / "mean.json", flags=["--loss_reduction=mean"])
    head = read_one(tmp_path / "head.json", flags=["--head_stddev=0.1"])
    own = {name: find(f"omniglot_20way_1shot{name}") for name in ("", "_mean", "_small_head")}
    as_published = {name: [e.as_published(r) for r in (mean, head)] for name, e in own.items()}
    assert as_published == {
        "": [False, False],
        "_mean": [True, False],
        "_small_head": [False, True],
    }


def test_alpha_as_trained_goes_before_another(tmp_path):
    own = read_one(tmp_path / "own.json")
    flags = ["--update_lr=0.1", "--train_update_lr=0.4"]
    other = read_one(tmp_path / "other.json", step_size=0.1, flags=flags, mean=[0.5] * 11)
    assert result_choice.choose([other, own], OMNIGLOT) == [own]
    assert result_choice.choose([other], OMNIGLOT) == [other]


def test_returns_of_the_most_episodes_count_and_no_other_metric_does(tmp_path):
    name = "navigation_2d", "test_40trajectories_stepsize0.5"
    many = read_one(tmp_path / "many.json", *name)
    few = read_one(tmp_path / "few.json", *name, shots=20)
    ways = read_one(tmp_path / "paths.json", *PATHS)
    filled = paper.returns("maml", "navigation_2d")
    assert filled.choose([few, many, ways], Curve) == [many]
    assert filled.choose([few, ways], Curve) == [few]
    assert filled.choose([few, many, ways], Paths) == [ways]
    assert many.as_trained and many.label == "test, 40 trajectories, α = 0.5"


def test_two_files_for_one_place_are_an_error_that_names_them(tmp_path):
    one = read_one(tmp_path / "one.json")
    copy = read_one(tmp_path / "copy.json")  # such as a release's: it says the same
    assert result_choice.choose([one, copy], OMNIGLOT) == [one]
    two = read_one(tmp_path / "two.json", mean=[0.5] * 11)
    with pytest.raises(ValueError, match="one.json and .*two.json would fill the same place"):
        result_choice.choose([one, two], OMNIGLOT)


def test_seeds_are_pooled_as_one_evaluation_over_all_their_tasks(tmp_path):
    values = (
        np.random.default_rng(0).normal(size=(50, 2)),
        np.random.default_rng(1).normal(1.0, size=(150, 2)),
    )
    curves = []
    for seed, v in enumerate(values):
        numbers = {"mean": v.mean(0), "std": v.std(0), "ci95": v.std(0)}
        numbers = {name: number.tolist() for name, number in numbers.items()}
        path = tmp_path / f"{seed}.json"
        curves.append(read_one(path, num_tasks=len(v), steps=[0, 1], seed=seed, **numbers))
    pooled, together = result_choice.pool(curves), np.concatenate(values)
    np.testing.assert_allclose(pooled.mean, together.mean(0))
    np.testing.assert_allclose(pooled.std, together.std(0))
    np.testing.assert_allclose(pooled.ci95, 1.96 * together.std(0) / 200**0.5)
    assert pooled.num_tasks == 200
