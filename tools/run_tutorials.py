"""Runs the notebooks of docs/tutorials, and writes what their cells print and draw back into them.

    pip install -e .[tutorials,rl,litert]
    python tools/run_tutorials.py                     # all of them
    python tools/run_tutorials.py images on_device    # these
    python tools/run_tutorials.py --check             # run them and write nothing

Each runs in a temporary directory. What is written back holds no dates, paths of this machine or
output of stderr, so that a run changes little but the times that a notebook measures.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
LARGEST = 400_000
"""Bytes of a notebook, its pictures included."""

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main() -> int:
    """Runs the notebooks that are named, and says how long each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of notebooks; by default all")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    for name in options.names or [path.stem for path in notebooks()]:
        path = TUTORIALS / f"{name}.ipynb"
        if not path.is_file():
            parser.error(f"{name} is none of {', '.join(p.stem for p in notebooks())}.")
        lacking = missing(path)
        if lacking:
            print(f"{name}: not run; it needs {', '.join(lacking)}", flush=True)
            continue
        start, used = time.perf_counter(), processor_seconds()
        with tempfile.TemporaryDirectory() as place:
            notebook = run(path, Path(place))
        seconds = time.perf_counter() - start
        text = nbformat.writes(notebook) + "\n"
        if len(text) > LARGEST:
            print(f"{name}: {len(text):,} bytes are more than {LARGEST:,}; draw smaller pictures.")
            return 1
        if not options.check:
            path.write_text(text, encoding="utf-8")
        used = processor_seconds() - used
        print(f"{name}: {seconds:.0f} s, {used:.0f} s of a core, {len(text):,} bytes", flush=True)
    return 0


def processor_seconds() -> float:
    """What the notebooks that ran have used of all cores together."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def notebooks() -> list[Path]:
    """The tutorials, by name."""
    return sorted(TUTORIALS.glob("*.ipynb"))


def missing(path: Path) -> list[str]:
    """The modules that a notebook says it needs, in its metadata, and that are not installed."""
    needs = nbformat.read(path, as_version=4).metadata.get("needs", [])
    return [name for name in needs if importlib.util.find_spec(name) is None]


def run(path: Path, place: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """Runs a notebook from its beginning.

    Args:
      path: the notebook; it stays as it is.
      place: an empty directory, where it runs and where decoded images are kept.
      timeout: seconds of a cell.

    Returns:
      The notebook with its outputs, cleaned.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised, an `assert` among others.
    """
    notebook = nbformat.read(path, as_version=4)
    place = place.resolve()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "XDG_CACHE_HOME": str(place / "cache"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(place)}},
        coalesce_streams=True,
    )
    client.execute(env=environment)
    return cleaned(notebook, place)


def cleaned(notebook: nbformat.NotebookNode, place: Path) -> nbformat.NotebookNode:
    """What is worth keeping of a notebook that ran in `place`."""
    needs = notebook.metadata.get("needs", [])
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}, "needs": needs}
    )
    number = 0
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type != "code":
            continue
        number += 1
        cell.execution_count = number
        kept = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in kept:
            if "execution_count" in output:
                output.execution_count = number
            if output.output_type == "stream":
                text = output.text.replace(str(place), ".")
                output.text = re.sub(r"(?m)^INFO:tensorflow:.*\n\n?", "", text)
        cell.outputs = [output for output in kept if output.get("text") != ""]
    nbformat.validate(notebook)
    return notebook


if __name__ == "__main__":
    sys.exit(main())
