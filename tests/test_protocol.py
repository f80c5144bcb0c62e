"""The paper's protocol: one record per experiment, beside its flagfile."""

from pathlib import Path

import pytest
from helpers import make_settings

from maml_tf.cli.flags import parse
from maml_tf.experiments.records import Kind
from maml_tf.paper.numbers import FIGURES, TABLES, fills
from maml_tf.paper.protocol import EXPERIMENTS, QUICK, Cell, cell, find

FLAGS = Path(__file__).parents[1] / "flags"
CELLS = {
    **FIGURES,
    **{name: table.cells for name, table in TABLES.items()},
}


def settings(experiment):
    given = parse([f"--flagfile={FLAGS / experiment.flagfile}"]).given
    return make_settings(**{**given, "shots": experiment.shots})


def test_every_flagfile_belongs_to_an_experiment_and_the_reverse():
    assert {e.flagfile for e in EXPERIMENTS.values()} == {f.name for f in FLAGS.glob("*.flags")}
    assert all(e.flagfile == f"{n}.flags" or n.endswith("_trained") for n, e in EXPERIMENTS.items())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_what_its_flagfile_says(name):
    experiment = find(name)
    made = settings(experiment)
    assert (made.problem.name, made.method.name) == (experiment.problem, experiment.method)
    given = parse([f"--flagfile={FLAGS / experiment.flagfile}"]).given
    if not experiment.other_flagfile:
        assert make_settings(**given).training.shots == experiment.shots
    assert made.joint == experiment.is_joint
    assert (made.problem.kind is Kind.POLICY) == experiment.is_policy
    assert made.training.loss_reduction == experiment.loss_reduction
    assert made.training.head_stddev == experiment.head_stddev
    assert experiment.ways in (None, made.training.ways)
    assert experiment.conv in (None, made.training.conv)
    assert max(e.steps for e in experiment.evaluations) <= made.evaluation.steps
    assert experiment.hours > 0 and experiment.title


@pytest.mark.parametrize("name", [n for n, e in EXPERIMENTS.items() if e.trained_by])
def test_what_evaluates_another_experiments_model_names_that_one(name):
    trained, other = settings(find(name)).trained(), settings(find(find(name).trained_by)).trained()
    assert trained.experiment == other.experiment and trained.method.name == other.method.name
    assert not find(find(name).trained_by).trained_by


def test_every_cell_is_filled_by_an_evaluation_of_the_protocol():
    for cells in CELLS.values():
        for filled in cells:
            if filled.method != "fomaml" or not filled.is_optional:
                assert filled.evaluation in find(filled.experiment.name).evaluations
    assert fills("sinusoid_10shot") == [
        "figure_2",
        "figure_3",
        "figure_6",
        "figure_7",
        "figure_7_half",
        "table_2",
    ]
    assert fills("navigation_2d_context") == ["table_4", "returns"]
    assert fills("omniglot_20way_1shot_mean") == []


def test_every_evaluation_of_the_paper_s_sinusoid_fills_something():
    shown = {(c.experiment.name, c.evaluation) for cells in CELLS.values() for c in cells}
    for name in ("sinusoid_10shot", "sinusoid_10shot_pretrained", "sinusoid_10shot_oracle"):
        assert all((name, e) in shown for e in find(name).evaluations)


def test_what_the_protocol_does_not_have_is_no_cell():
    assert isinstance(cell("omniglot_5way_1shot", 5), Cell)
    with pytest.raises(KeyError, match="omniglot_5way_1shot is not evaluated with K = 7"):
        cell("omniglot_5way_1shot", 7)
    with pytest.raises(KeyError):
        cell("omniglot_6way_1shot")


def test_what_is_wanted_names_the_experiment_that_makes_it():
    names = {c.experiment.name for n in ("table_1", "table_2") for c in CELLS[n]}
    assert {
        "omniglot_5way_1shot",
        "omniglot_20way_5shot_trained",
        "omniglot_5way_1shot_dense",
        "miniimagenet_5way_5shot_first_order",
        "sinusoid_10shot",
        "sinusoid_10shot_multitask_l2",
    } <= names
    names = {c.experiment.name for c in CELLS["returns"]}
    assert {"navigation_2d", "navigation_2d_context", "ant_goal_oracle"} <= names
    assert len(names) == len(CELLS["returns"]) == 26


def test_quick_is_a_subset_that_trains_its_own_models():
    assert all(not find(name).trained_by for name in QUICK.experiments)
    assert QUICK.iterations == 15_000
