"""`maml-tf figures` over the small result files of tests/data."""

import io
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
from helpers import RESULTS, write_result
from PIL import Image
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from maml_tf.cli.main import run

FIGURES = {"figure_2", "figure_3", "figure_6", "figure_7", "figure_7_half"}
TABLES = {"table_1", "table_2", "table_3"}
EXPERIMENTS = ("sinusoid_10shot", "sinusoid_10shot_pretrained", "omniglot_5way_1shot")


@pytest.fixture
def logs(tmp_path):
    for name in EXPERIMENTS:
        shutil.copytree(RESULTS / name, tmp_path / "logs" / name)
    return tmp_path / "logs"


def files(directory):
    return {path.name for path in directory.iterdir() if "tfevents" not in path.name}


def tags(directory):
    (path,) = directory.glob("events*.figures")
    events = (tf.compat.v1.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path)))
    return {value.tag for event in events for value in event.summary.value}


@pytest.mark.slow
def test_a_log_directory_gives_all_that_its_files_allow(logs, capsys):
    assert run(["figures", str(logs)]) == 0
    pictures = {name + ending for name in FIGURES for ending in (".png", ".pdf")}
    assert files(logs / "figures") == pictures | {f"{name}.md" for name in TABLES}
    shown = {f"figures/{name}" for name in FIGURES} | {f"tables/{name}" for name in TABLES}
    assert tags(logs / "figures") == shown
    own = logs / "omniglot_5way_1shot" / "figures"
    assert files(own) == {"adaptation_accuracy.png", "adaptation_accuracy.pdf"}
    assert tags(own) == {"figures/adaptation_accuracy"}  # which reads the only event file
    said = capsys.readouterr().err
    assert f"Wrote {logs / 'figures'}: figure_2, figure_3" in said
    assert (
        "figure_3 made without results that `maml-tf reproduce NAME` makes, "
        "NAME: sinusoid_10shot_oracle (5-shot, 10-shot)." in said
    )


def test_runs_and_another_directory(logs, tmp_path, capsys):
    own, target = logs / "omniglot_5way_1shot", tmp_path / "paper"
    for _ in range(2):  # a second time replaces the first
        assert run(["figures", str(own), f"--to={target}"]) == 0
    assert files(own / "figures") == {"adaptation_accuracy.png", "adaptation_accuracy.pdf"}
    assert files(target) == {"table_1.md", "table_3.md"}
    assert tags(target) == {"tables/table_1", "tables/table_3"}
    assert tags(own / "figures") == {"figures/adaptation_accuracy"}
    said = capsys.readouterr().err
    assert "table_3 made without" in said and "omniglot_5way_1shot_context (1-shot, 5-shot)" in said
    assert "figure_3" not in said  # what has no file of its data is not talked about


def test_a_bad_file_stops_before_anything_is_drawn(logs, capsys):
    write_result(logs / "sinusoid_10shot_pretrained" / "results" / "old.json", version=0)
    assert run(["figures", str(logs)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "old.json is not a result file of this version" in line and "maml-tf evaluate" in line
    assert not list(logs.rglob("figures"))


def test_figures_are_drawn_without_tensorflow(logs):
    command = "import sys; from maml_tf.cli.main import run; "
    command += f"sys.exit(run(['figures', {str(logs)!r}]) or 'tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)
    names = EventMultiplexer({"run": str(logs / "figures")}).Reload().GetAccumulator("run")
    table = names.Tensors("tables/table_1")[0].tensor_proto.string_val
    assert table == [(logs / "figures" / "table_1.md").read_bytes()]
    *size, png = names.Tensors("figures/figure_6")[0].tensor_proto.string_val
    assert png == (logs / "figures" / "figure_6.png").read_bytes()
    assert [int(length) for length in size] == list(Image.open(io.BytesIO(png)).size)
    plugins = [
        names.SummaryMetadata(tag).plugin_data.plugin_name for tag in names.Tags()["tensors"]
    ]
    assert set(plugins) == {"images", "text"}
