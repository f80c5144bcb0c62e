"""Split files: which image is of which class, as a spreadsheet or a script wrote it."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from maml_tf.system import texts
from maml_tf.tasks.images import files as image_files


def rows(path: Path) -> list[tuple[str, str]]:
    """(label, filename) of every row of a split file, in order.

    Columns are separated by commas, semicolons or tabs; a file name has / between folders, and of
    an absolute path only the name is kept.

    Raises:
      ValueError: if it is no such file, names nothing, something twice, or a file elsewhere.
    """
    text = texts.decode(image_files.read_file(path), str(path))
    reader = csv.reader(io.StringIO(text, newline=""), _dialect(text), skipinitialspace=True)
    found = []
    try:
        header = [word.strip().lower() for word in next(reader, ())]
        if header and header[0].startswith("sep="):  # Of a spreadsheet.
            header = [word.strip().lower() for word in next(reader, ())]
        if not {"filename", "label"} <= set(header):
            raise ValueError(f"{path} does not begin with the line filename,label; add it.")
        columns = header.index("label"), header.index("filename")
        for row in filter(None, reader):
            cells = [cell.strip() for cell in row] + [""] * len(header)
            label, name = (cells[column] for column in columns)
            found.append((label, _inside(label, name, f"{path}, line {reader.line_num}")))
    except csv.Error as error:
        raise ValueError(f"{path} is not a text file of rows ({error}); correct it.") from error
    if not found:
        raise ValueError(f"{path} names no images; get it again.")
    twice = [name for (_, name), count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(f"{path} names {twice[0]} twice; remove a line.")
    return sorted(found)


def check_disjoint(classes: Mapping[str, Iterable[str]]) -> None:
    """Refuses a class that is in two splits.

    Raises:
      ValueError: names it.
    """
    owner: dict[str, str] = {}
    for split, names in classes.items():
        for name in sorted(set(names)):
            if owner.setdefault(name, split) != split:
                raise ValueError(
                    f"class {name} is in the {owner[name]!r} and the {split!r} split; remove it "
                    "from one: tasks are held out by class."
                )


def _dialect(text: str) -> type[csv.Dialect]:
    """Rows that are separated as the line with the columns' names is."""
    first = next((line for line in text.splitlines()[:2] if "label" in line.lower()), "")

    class Rows(csv.excel):
        delimiter = max(",;\t", key=first.count)

    return Rows


def _inside(label: str, name: str, place: str) -> str:
    """A file name relative to the folder of the images, or of the class."""
    if not name or not label:
        raise ValueError(f"{place} has no filename and label; remove it.")
    path = name.replace("\\", "/").removeprefix("file://")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or label in (".", "..") or set("/\\") & set(label):
        raise ValueError(f"{place} names no file in the folder of the images; correct it.")
    absolute = path.startswith("/") or re.match("[A-Za-z]:", path)
    return parts[-1] if absolute else "/".join(parts)
