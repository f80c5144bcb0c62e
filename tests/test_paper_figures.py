import itertools

import numpy as np
import pytest
from helpers import paper_results, result_content, write_result

from maml_tf import paper, paper_figures

ALPHA = {"maml": 0.01, "fomaml": 0.01, "pretrained": 0.02, "random": 0.01, "oracle": 0.01}
SUFFIX = {"maml": "", "fomaml": "_first_order"}


def legend(figure):
    (box,) = figure.legends
    return [text.get_text() for text in box.get_texts()]


def content(method, name):
    return result_content("sinusoid_10shot" + SUFFIX.get(method, f"_{method}"), name)


# --- learning curves at meta-test time ---


@pytest.mark.parametrize(
    "make, shots, methods",
    [
        (paper_figures.figure_3, (5, 10), ["maml", "pretrained", "oracle"]),
        (paper_figures.figure_6, (5, 10, 20), ["maml", "fomaml", "pretrained", "random", "oracle"]),
    ],
)
def test_learning_curves_at_meta_test_time(make, shots, methods):
    piece = make(paper_results())
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
            edges = band.get_paths()[0].vertices
            for step in range(11):
                heights = edges[edges[:, 0] == step][:, 1]
                half = (heights.max() - heights.min()) / 2
                assert half == pytest.approx(said["ci95"][step])
    expected = [f"{paper.METHODS[method]}, α = {ALPHA[method]}" for method in methods]
    assert sorted(legend(piece.content)) == sorted(expected)
    looks = {(line.get_color(), line.get_marker()) for line in panels[0].lines}
    assert len(looks) == len(methods)


def test_a_task_that_diverges_on_the_way_does_not_hide_the_curves(tmp_path):
    mean = [3.0, 0.7, 0.6, 0.6, 14.1, 5.6, 12.5, 1.1, 0.5, 0.4, 0.4]
    write_result(
        tmp_path / "results" / "a.json", "sinusoid_10shot", "test_5shot_stepsize0.01", mean=mean
    )
    (axes,) = paper_figures.figure_3(paper_results(tmp_path)).content.axes
    assert 3.0 < axes.get_ylim()[1] < 5.0
    assert [text.get_text() for text in axes.texts] == ["above the scale: up to 14.1"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), mean)


def test_a_learning_curve_without_some_files_says_which():
    files = [r for r in paper_results() if (r.method, r.shots) != ("oracle", 5)]
    piece = paper_figures.figure_3([r for r in files if r.method != "pretrained"])
    assert [len(axes.lines) for axes in piece.content.axes] == [1, 2]
    lacks = [(wanted.method, wanted.shots) for wanted in piece.missing]
    assert lacks == [("pretrained", 5), ("oracle", 5), ("pretrained", 10)]
    assert all(make([]).content is None and make([]).missing for make in paper_figures.ALL)


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
    piece = paper_figures.figure_2(paper_results())
    assert not piece.missing
    panels = list(itertools.product(("maml", "pretrained"), (5, 10)))
    for axes, (method, k) in zip(piece.content.axes, panels, strict=True):
        check_panel(axes, content(method, f"samples_{k}shot"), 1)  # the task of amplitude 3.6
        assert axes.get_title() == f"{paper.METHODS[method]}, K = {k}, α = {ALPHA[method]}"
        assert axes.get_xlabel() == "x (rad)"
    assert piece.content.axes[0].get_ylabel() == "y"
    assert legend(piece.content) == [
        "ground truth",
        "pre-update",
        "1 gradient step",
        "10 gradient steps",
        "used for grad",
    ]


@pytest.mark.parametrize(
    "make, half", [(paper_figures.figure_7, ""), (paper_figures.figure_7_half, "_half")]
)
def test_figure_7_shows_two_tasks_a_method_and_k(make, half):
    piece = make(paper_results())
    assert not piece.missing and piece.name == "figure_7" + half
    panels = list(itertools.product((5, 10, 20), ("maml", "pretrained"), (0, 1)))
    for axes, (k, method, task) in zip(piece.content.axes, panels, strict=True):
        check_panel(axes, content(method, f"samples_{k}shot{half}"), task)
        assert f"K = {k}" in axes.get_title()


def test_figure_7_without_some_files_leaves_their_panels_empty():
    files = [r for r in paper_results() if r.method != "pretrained" and r.shots != 20]
    piece = paper_figures.figure_7(files)
    assert [axes.axison for axes in piece.content.axes] == [True, True, False, False] * 2
    assert [(w.method, w.shots) for w in piece.missing] == [
        ("pretrained", 5),
        ("pretrained", 10),
        ("maml", 20),
        ("pretrained", 20),
    ]
