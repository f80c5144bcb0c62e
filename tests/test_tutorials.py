"""The notebooks of docs/tutorials run from beginning to end, and what they assert holds."""

import importlib.util
from pathlib import Path

import pytest

for module in ("nbformat", "nbclient", "ipykernel"):
    pytest.importorskip(module)

TOOL = Path(__file__).parents[1] / "tools" / "run_tutorials.py"


def _tool():
    spec = importlib.util.spec_from_file_location("run_tutorials", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


TUTORIALS = _tool()


@pytest.mark.parametrize("path", TUTORIALS.notebooks(), ids=lambda path: path.stem)
def test_a_tutorial_runs(path, tmp_path):
    lacking = TUTORIALS.missing(path)
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")
    notebook = TUTORIALS.run(path, tmp_path)
    assert any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("path", TUTORIALS.notebooks(), ids=lambda path: path.stem)
def test_a_tutorial_is_kept_with_its_outputs_and_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < TUTORIALS.LARGEST
    notebook = TUTORIALS.nbformat.reads(text, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(
        str(home) in text for home in (Path.home(), TUTORIALS.ROOT) if len(str(home)) > 1
    )


def test_what_is_cleaned(tmp_path):
    nbformat = TUTORIALS.nbformat
    said = f"in {tmp_path}/file\nINFO:tensorflow:Assets written to: {tmp_path}/assets\n\nlast\n"
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=said),
        nbformat.v4.new_output("stream", name="stderr", text="progress"),
    ]
    cell = nbformat.v4.new_code_cell("print()", outputs=outputs, metadata={"tags": ["a"]})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"needs": ["json"], "x": 1})
    cleaned = TUTORIALS.cleaned(notebook, tmp_path)
    assert [output.text for output in cleaned.cells[0].outputs] == ["in ./file\nlast\n"]
    assert cleaned.cells[0].metadata == {}
    assert set(cleaned.metadata) == {"kernelspec", "language_info", "needs"}


def test_what_a_tutorial_lacks(tmp_path):
    nbformat = TUTORIALS.nbformat
    path = tmp_path / "a.ipynb"
    needs = {"needs": ["json", "no_such_module"]}
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(metadata=needs)))
    assert TUTORIALS.missing(path) == ["no_such_module"]
