import dataclasses

import numpy as np
import pytest
from helpers import paper_results, result_content

from maml_tf import Estimate
from maml_tf.paper import figures as paper_figures
from maml_tf.plotting import curves as figures
from maml_tf.plotting import style
from maml_tf.results.records import Curve

CURVE = Estimate(np.array([0.2, 0.9, 0.95]), np.ones(3), np.array([0.01, 0.02, 0.03]), 600)


def test_the_curve_shows_its_means_and_its_interval_in_per_cent():
    figure = figures.adaptation_curve({"test": CURVE}, "accuracy", title="omniglot")
    axes = figure.axes[0]
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(line.get_ydata(), [20, 90, 95])
    band = axes.collections[0].get_paths()[0].vertices
    at_one = band[np.isclose(band[:, 0], 1)][:, 1]
    assert at_one.min() == pytest.approx(88) and at_one.max() == pytest.approx(92)
    assert axes.get_xlabel() == "gradient steps" and "%" in axes.get_ylabel()
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["test"]
    assert axes.get_title() == "omniglot"


def test_an_image_is_what_tensorboard_takes():
    image = figures.to_image(figures.adaptation_curve({"test": CURVE}, "loss"))
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.std() > 0


def test_all_results_of_a_run_stand_in_one_figure():
    own = [r for r in paper_results() if r.path.parts[-3] == "omniglot_5way_1shot"]
    drawn = figures.draw_run(own)
    assert list(drawn) == ["adaptation_accuracy"]
    (axes,) = drawn["adaptation_accuracy"].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["test, 1-shot, α = 0.4", "test, 5-shot, α = 0.4"]
    assert axes.get_title() == "omniglot_5way_1shot, MAML"
    for line, shots in zip(axes.lines, (1, 5), strict=True):
        said = result_content("omniglot_5way_1shot", f"test_{shots}shot_stepsize0.4")
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(said["mean"]))


def test_many_curves_have_their_legend_below():
    figure = figures.adaptation_curve({f"test, {k}-shot": CURVE for k in range(1, 5)}, "accuracy")
    assert figure.axes[0].get_legend() is None and len(figure.axes[0].lines) == 4
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [f"test, {k}-shot" for k in range(1, 5)]


def test_evaluations_of_one_run_are_told_apart():
    curve = next(r for r in paper_results() if r.method == "maml" and isinstance(r, Curve))
    others = [{"inputs": "half"}, {"split": "val"}, {"step_size": 0.3}, {"step_size": None}]
    others += [{"batch_statistics": "inductive"}, {"shots": 7}, {"seed": 1}]
    others += [{"best_weights": True}, {"asked_iteration": 10}]
    curves = [dataclasses.replace(curve, **other) for other in [{}, *others]]
    assert len({curve.label for curve in curves}) == 10
    (drawn,) = figures.draw_run(curves).values()
    assert len(drawn.axes[0].lines) == 10


def test_the_same_figure_makes_the_same_files(tmp_path):
    for name in ("one", "two"):
        written = style.save(
            paper_figures.make("figure_3", paper_results()).content, tmp_path / name
        )
        assert [path.suffix for path in written] == [".png", ".pdf"]
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        one, two = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("one", "two"))
        assert one == two and one.startswith(magic)
