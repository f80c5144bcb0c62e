"""Shows the notebooks of docs/tutorials as pages of the site, with the outputs that they hold.

`tutorials/images.ipynb` becomes the page `tutorials/images.md`, its pictures files beside it, and
the notebook itself stays beside them, to be downloaded.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page and its pictures for each notebook."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        uri = notebook.src_uri.removesuffix(".ipynb")
        text, pictures = page(notebook.content_string, Path(uri).name)
        files.append(File.generated(config, f"{uri}.md", content=text))
        place = uri.rpartition("/")[0]
        for name, content in pictures.items():
            files.append(File.generated(config, f"{place}/{name}", content=content))
    return files


def page(notebook: str, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures in it by their names.

    Args:
      notebook: the text of its file.
      name: of the file, without its ending.
    """
    pictures: dict[str, bytes] = {}
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else fenced(source, "python"))
        for kind, content in _outputs(cell):
            if kind == "image/png":
                picture = f"{name}_{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode(content)
                parts.append(f"![Output]({picture})")
            else:
                parts.append(fenced(content, "text"))
    title, _, rest = "\n\n".join(parts).partition("\n")
    download = f'<a href="../{name}.ipynb" download>This page as a notebook</a>'
    return f"{title}\n\n{download}\n{rest}\n", pictures


def fenced(text: str, language: str) -> str:
    """Text as a block of code, whatever marks are in it."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _outputs(cell: dict) -> Iterator[tuple[str, str]]:
    """What a cell printed and drew, by type: a picture in place of its description."""
    for output in cell.get("outputs", ()):
        data = {"text/plain": output["text"]} if "text" in output else output.get("data", {})
        kind = next((kind for kind in ("image/png", "text/plain") if kind in data), None)
        if kind:
            yield kind, "".join(data[kind])
