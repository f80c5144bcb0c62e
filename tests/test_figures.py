import json

import numpy as np
import pytest

from maml_tf import Estimate, figures

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


def write_result(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "experiment": "omniglot_5way_1shot, maml",
        "metric": "accuracy",
        "split": "test",
        "shots": 1,
        "batch_statistics": "transductive",
        "num_tasks": 600,
        "mean": [0.2, 0.9],
        "ci95": [0.01, 0.01],
        "std": [0.1, 0.1],
        **changes,
    }
    path.write_text(json.dumps({k: v for k, v in result.items() if v is not None}))


def test_all_results_of_a_run_stand_in_one_figure(tmp_path):
    write_result(tmp_path / "results" / "a.json")
    write_result(tmp_path / "results" / "b.json", shots=5)
    written = figures.draw_run(tmp_path)
    assert [p.name for p in written] == ["adaptation_accuracy.png", "adaptation_accuracy.pdf"]
    assert written[0].read_bytes().startswith(b"\x89PNG")
    assert written[1].read_bytes().startswith(b"%PDF")
    labels = {figures.read_result(p)["label"] for p in (tmp_path / "results").glob("*.json")}
    assert labels == {"test, 1-shot, transductive", "test, 5-shot, transductive"}


def test_no_results(tmp_path):
    with pytest.raises(FileNotFoundError, match="maml-tf evaluate"):
        figures.draw_run(tmp_path)


@pytest.mark.parametrize("break_it", [{"mean": None}, {"num_tasks": None}, {"metric": None}])
def test_a_result_of_another_version_is_named(tmp_path, break_it):
    write_result(tmp_path / "results" / "old.json", **break_it)
    with pytest.raises(ValueError, match="old.json is not a result file of this version"):
        figures.draw_run(tmp_path)


def test_a_torn_result_file_is_named(tmp_path):
    write_result(tmp_path / "results" / "torn.json")
    path = tmp_path / "results" / "torn.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="torn.json"):
        figures.draw_run(tmp_path)
