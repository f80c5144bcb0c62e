import itertools
import json

import numpy as np
import pytest
from helpers import RESULTS, paper_results, result_content, write_result

from maml_tf.experiments.methods import METHODS
from maml_tf.paper.figures import make
from maml_tf.paper.numbers import FIGURES
from maml_tf.paper.protocol import ENVIRONMENTS

ALPHA = {"maml": 0.01, "fomaml": 0.01, "pretrained": 0.02, "random": 0.01, "oracle": 0.01}
SUFFIX = {"maml": "", "fomaml": "_first_order"}


def legend(figure):
    (box,) = figure.legends
    return [text.get_text() for text in box.get_texts()]


def content(method, name):
    return result_content("sinusoid_10shot" + SUFFIX.get(method, f"_{method}"), name)


# --- learning curves at meta-test time ---


@pytest.mark.parametrize(
    "name, shots, methods",
    [
        ("figure_3", (5, 10), ["maml", "pretrained", "oracle"]),
        ("figure_6", (5, 10, 20), ["maml", "fomaml", "pretrained", "random", "oracle"]),
    ],
)
def test_learning_curves_at_meta_test_time(name, shots, methods):
    piece = make(name, paper_results())
    assert not piece.missing
    panels = piece.content.axes
    assert [axes.get_title() for axes in panels] == [f"K = {k}" for k in shots]
    assert panels[0].get_ylabel() == "mean squared error"
    for axes, k in zip(panels, shots, strict=True):
        assert axes.get_xlabel() == "gradient steps" and axes.get_yscale() == "linear"
        assert axes.get_ylim()[0] == 0
        for method, line, band in zip(methods, axes.lines, axes.collections, strict=True):
            said = content(method, f"test_{k}shot_stepsize{ALPHA[method]}")
            np.testing.assert_array_equal(line.get_xdata(), range(11))
            np.testing.assert_array_equal(line.get_ydata(), said["mean"])
            for step in range(11):
                assert interval(band, step)[1] == pytest.approx(said["ci95"][step])
    expected = [f"{METHODS[method].title}, α = {ALPHA[method]}" for method in methods]
    assert sorted(legend(piece.content)) == sorted(expected)
    looks = {(line.get_color(), line.get_marker()) for line in panels[0].lines}
    assert len(looks) == len(methods)


def interval(band, step):
    """Middle and half-width of a shaded band at one step."""
    edges = band.get_paths()[0].vertices
    heights = edges[edges[:, 0] == step][:, 1]
    return (heights.max() + heights.min()) / 2, (heights.max() - heights.min()) / 2


def return_files(environment, method):
    suffix = "" if method == "maml" else f"_{method}"
    (path,) = (RESULTS / f"{environment}{suffix}" / "results").glob("test_*.json")
    return json.loads(path.read_text())


RETURNS = {
    "navigation_2d": ["maml", "pretrained", "random", "oracle"],
    "cheetah_velocity": ["maml", "pretrained", "random", "oracle"],
    "cheetah_direction": ["maml", "pretrained", "oracle"],
    "ant_velocity": ["maml", "random"],
    "ant_direction": ["maml"],
}


@pytest.mark.parametrize(
    "name, environments",
    [
        ("figure_4", ["navigation_2d"]),
        ("figure_5", list(RETURNS)[1:]),
    ],
)
def test_returns_at_meta_test_time(name, environments):
    piece = make(name, paper_results())
    panels = piece.content.axes
    titles = [ENVIRONMENTS[name] for name in environments]
    assert [axes.get_title() for axes in panels] == titles
    assert panels[0].get_ylabel() == "return" and panels[-1].get_xlabel() == "gradient steps"
    for axes, name in zip(panels, environments, strict=True):
        bands = [*axes.collections, *axes.patches]  # curves, then the oracle's level
        for method, line, band in zip(RETURNS[name], axes.lines, bands, strict=True):
            said = return_files(name, method)
            assert line.get_label().startswith(METHODS[method].title)
            if method == "oracle":
                assert list(line.get_ydata()) == [said["mean"][0]] * 2
                low, high = band.get_y(), band.get_y() + band.get_height()
                assert ((high + low) / 2, (high - low) / 2) == pytest.approx(
                    (said["mean"][0], said["ci95"][0])
                )
                continue
            np.testing.assert_array_equal(line.get_xydata().T, [range(4), said["mean"]])
            for step in range(4):
                expected = said["mean"][step], said["ci95"][step]
                assert interval(band, step) == pytest.approx(expected)


def test_the_legend_of_returns_names_each_panels_step_size():
    labels = legend(make("figure_5", paper_results()).content)
    assert sorted(labels) == [
        "MAML, α = 0.1",
        "oracle",
        "pretrained, α = 0.02, 0.2",
        "random initialisation, α = 0.1, 1",
    ]


def test_returns_without_some_files_say_which():
    piece = make("figure_5", paper_results())
    assert [cell.experiment.name for cell in piece.missing] == [
        "cheetah_direction_random",
        "ant_velocity_pretrained",
        "ant_velocity_oracle",
        "ant_direction_pretrained",
        "ant_direction_random",
        "ant_direction_oracle",
    ]
    assert not make("figure_4", paper_results()).missing


def test_the_ants_goal_has_a_panel_where_there_are_results(tmp_path):
    for number, data in enumerate(("ant_velocity", "ant_goal")):
        path = tmp_path / str(number) / "results" / "a.json"
        write_result(path, "ant_velocity", "test_20trajectories_stepsize0.1", datasource=data)
    panels = make("figure_5", paper_results(tmp_path)).content.axes
    assert [axes.get_title() for axes in panels] == ["ant, goal velocity", "ant, goal place"]


def test_a_task_that_diverges_on_the_way_does_not_hide_the_curves(tmp_path):
    mean = [3.0, 0.7, 0.6, 0.6, 14.1, 5.6, 12.5, 1.1, 0.5, 0.4, 0.4]
    write_result(
        tmp_path / "results" / "a.json", "sinusoid_10shot", "test_5shot_stepsize0.01", mean=mean
    )
    (axes,) = make("figure_3", paper_results(tmp_path)).content.axes
    assert 3.0 < axes.get_ylim()[1] < 5.0
    assert [text.get_text() for text in axes.texts] == ["above the scale: up to 14.1"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), mean)


def test_a_learning_curve_without_some_files_says_which():
    files = [r for r in paper_results() if (r.method, r.shots) != ("oracle", 5)]
    piece = make("figure_3", [r for r in files if r.method != "pretrained"])
    assert [len(axes.lines) for axes in piece.content.axes] == [1, 2]
    lacks = [(cell.method, cell.shots) for cell in piece.missing]
    assert lacks == [("pretrained", 5), ("oracle", 5), ("pretrained", 10)]
    assert all(make(n, []).content is None and make(n, []).missing for n in FIGURES)


# --- tasks before and after adaptation ---


def check_panel(axes, said, task):
    task, labels = said["tasks"][task], ["pre-update", "1 gradient step", "10 gradient steps"]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["ground truth", *labels, "used for grad"]
    np.testing.assert_array_equal(lines["ground truth"].get_xydata().T, [task["x"], task["y"]])
    for label, predicted in zip(labels, task["predictions"], strict=True):
        np.testing.assert_array_equal(lines[label].get_xydata().T, [task["x"], predicted])
    used = lines["used for grad"]
    np.testing.assert_array_equal(used.get_xydata().T, [task["support_x"], task["support_y"]])
    assert used.get_linestyle() == "None" and used.get_marker() == "^"


def test_figure_2_shows_one_task_before_and_after():
    piece = make("figure_2", paper_results())
    assert not piece.missing
    panels = list(itertools.product(("maml", "pretrained"), (5, 10)))
    for axes, (method, k) in zip(piece.content.axes, panels, strict=True):
        check_panel(axes, content(method, f"samples_{k}shot"), 1)  # the task of amplitude 3.6
        assert axes.get_title() == f"{METHODS[method].title}, K = {k}, α = {ALPHA[method]}"
        assert axes.get_xlabel() == "x (rad)"
    assert piece.content.axes[0].get_ylabel() == "y"
    assert legend(piece.content) == [
        "ground truth",
        "pre-update",
        "1 gradient step",
        "10 gradient steps",
        "used for grad",
    ]


@pytest.mark.parametrize("name, half", [("figure_7", ""), ("figure_7_half", "_half")])
def test_figure_7_shows_two_tasks_a_method_and_k(name, half):
    piece = make(name, paper_results())
    assert not piece.missing and piece.name == "figure_7" + half
    panels = list(itertools.product((5, 10, 20), ("maml", "pretrained"), (0, 1)))
    for axes, (k, method, task) in zip(piece.content.axes, panels, strict=True):
        check_panel(axes, content(method, f"samples_{k}shot{half}"), task)
        assert f"K = {k}" in axes.get_title()


def test_figure_4_shows_the_ways_to_each_goal():
    piece = make("figure_4_paths", paper_results())
    assert not piece.missing and len(piece.content.axes) == 3 * 4
    panels = itertools.product(range(3), ("maml", "pretrained"), (0, 3))
    for axes, (task, method, step) in zip(piece.content.axes, panels, strict=True):
        suffix = "" if method == "maml" else "_pretrained"
        said = result_content(f"navigation_2d{suffix}", "paths_40trajectories")["tasks"][task]
        *ways, start, goal = axes.lines
        for way, path in zip(ways, said["paths"][step], strict=True):
            np.testing.assert_array_equal(way.get_xydata(), path)
        assert start.get_xydata().tolist() == [[0, 0]]
        assert goal.get_xydata().tolist() == [said["goal"]] and goal.get_marker() == "*"
        assert axes.get_aspect() == 1.0
        assert axes.get_xlim() == axes.get_ylim() and axes.get_xlim()[1] > 0.5
    assert [axes.get_title() for axes in piece.content.axes[:4]] == [
        "MAML, pre-update",
        "MAML, 3 steps",
        "pretrained, pre-update",
        "pretrained, 3 steps",
    ]
    assert legend(piece.content) == ["start", "goal", "pre-update", "after adaptation"]


def test_ways_without_the_pretrained_leave_its_panels_empty():
    piece = make("figure_4_paths", [r for r in paper_results() if r.method == "maml"])
    assert [axes.axison for axes in piece.content.axes] == [True, True, False, False] * 3
    assert [cell.experiment.name for cell in piece.missing] == ["navigation_2d_pretrained"]


def test_figure_7_without_some_files_leaves_their_panels_empty():
    files = [r for r in paper_results() if r.method != "pretrained" and r.shots != 20]
    piece = make("figure_7", files)
    assert [axes.axison for axes in piece.content.axes] == [True, True, False, False] * 2
    assert [(w.method, w.shots) for w in piece.missing] == [
        ("pretrained", 5),
        ("pretrained", 10),
        ("maml", 20),
        ("pretrained", 20),
    ]
