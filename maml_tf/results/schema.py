"""What a result file may hold: types, choices and ranges, checked once, on reading."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from pathlib import Path
from typing import Any

import numpy as np

from maml_tf import ranges
from maml_tf.experiments.settings import DATASOURCES, METHODS, is_one_line

LARGEST = 64 * 2**20
"""Bytes of a result file."""

DEEPEST = 20
"""Lists and objects within each other."""

_CHOICES = {
    "datasource": DATASOURCES,
    "method": METHODS,
    "split": ("train", "val", "test"),
    "inputs": ("all", "half"),
    "batch_statistics": ("transductive", "inductive"),
}
_RANGES = {
    "seed": ranges.SEED,
    "shots": ranges.COUNT,
    "train_shots": ranges.COUNT,
    "ways": ranges.COUNT,
    "num_tasks": ranges.COUNT,
    "iteration": ranges.ITERATIONS,
    "steps": ranges.STEPS,
    "step_size": ranges.POSITIVE,
}
_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_NUMERIC_FLAG = re.compile(r"--(?:train_update_lr|update_lr|head_stddev)=(.*)")


def load(path: Path) -> dict[str, Any]:
    """Reads an object of JSON; NaN and infinity, which are none, are None.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such object; says why.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        contents = file.read(LARGEST + 1)
    if len(contents) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
    try:
        text = contents.decode("utf-8-sig")
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=lambda name: None)
        _check_depth(content, DEEPEST)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return an_object("it", content)


def an_object(name: str, value: Any) -> dict[str, Any]:
    """Returns an object of JSON, or raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {shown(value)}, not an object")
    return value


def objects(name: str, value: Any) -> list[dict[str, Any]]:
    """Returns a list, not empty, of objects of JSON, or raises ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {shown(value)}, not a list of objects")
    return [an_object(f"one of {name}", item) for item in value]


def values(kind: type, content: dict[str, Any], *, without: tuple[str, ...]) -> dict[str, Any]:
    """Takes the fields of a dataclass, each of the type that it has there.

    Args:
      kind: the dataclass.
      content: what a file says.
      without: fields that are made otherwise.

    Returns:
      The values by name; lists as tuples.

    Raises:
      KeyError: a field is missing.
      ValueError: a field has another type, none of its choices, or lies outside its range.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.name not in without]
    found = {name: value(name, content[name], hints[name]) for name in names}
    for flag in found.get("flags", ()):
        match = _NUMERIC_FLAG.fullmatch(flag)
        if match and not _is_number(match[1]):
            raise ValueError(f"flags hold {shown(flag)}, which is no number")
    if "$" in found.get("experiment", ""):  # It is a figure's title, where $ begins a formula.
        raise ValueError(f"experiment is {shown(found['experiment'])}, which holds a $")
    if not re.fullmatch(r"\w+", found.get("metric", "loss")):  # It names files.
        raise ValueError(f"metric is {shown(found['metric'])}, not one word")
    return found


def value(name: str, given: Any, hint: Any) -> Any:
    """Returns one value of the type `hint`, or raises ValueError."""
    if isinstance(hint, types.UnionType):
        hint, nothing = typing.get_args(hint)
        return None if given is None and nothing is types.NoneType else value(name, given, hint)
    if typing.get_origin(hint) is tuple:
        if not isinstance(given, list):
            raise ValueError(f"{name} is {shown(given)}, not a list")
        return tuple(value(name, item, typing.get_args(hint)[0]) for item in given)
    allowed = (int, float) if hint is float else hint
    if not isinstance(given, allowed) or isinstance(given, bool) != (hint is bool):
        raise ValueError(f"{name} is {shown(given)}, not {_KINDS[hint]}")
    if isinstance(given, str) and not is_one_line(given):
        raise ValueError(f"{name} is {shown(given)}, not one line of plain text")
    if name in _CHOICES and given not in _CHOICES[name]:
        raise ValueError(f"{name} is {shown(given)}, not one of {', '.join(_CHOICES[name])}")
    if name in _RANGES and given not in _RANGES[name]:
        raise ValueError(f"{name} is {shown(given)}, not {_RANGES[name]}")
    return given


def numbers(name: str, given: Any, axes: int) -> np.ndarray:
    """Makes an array of numbers in lists; None, and what is not finite, is NaN.

    Args:
      name: what they are called.
      given: `axes` lists within each other; 0: one number.
      axes: of the array.

    Returns:
      float64 of so many axes.

    Raises:
      ValueError: it holds something else.
    """

    def each(part: Any, axes: int) -> Any:
        if axes and isinstance(part, list):
            return [each(item, axes - 1) for item in part]
        if axes or isinstance(part, (bool, str, list, dict)):
            raise ValueError(f"{name} holds {shown(part)}, not {'lists' if axes else 'numbers'}")
        return part if part is not None and abs(part) < 1e300 else math.nan

    rows = each(given, axes)
    if axes > 1 and len({len(row) for row in rows}) > 1:
        raise ValueError(f"{name} holds lists of different length")
    return np.array(rows, float)


def writable(content: Any) -> Any:
    """Copies what a result file is to hold; JSON has no NaN and no infinity, so they are None."""
    if isinstance(content, dict):
        return {name: writable(item) for name, item in content.items()}
    if isinstance(content, (list, tuple)):
        return [writable(item) for item in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it says {shown(twice)} twice")
    return found


def _check_depth(content: Any, room: int) -> None:
    if not isinstance(content, (dict, list)):
        return
    if not room:
        raise ValueError("it is nested too deeply")
    for item in content.values() if isinstance(content, dict) else content:
        _check_depth(item, room - 1)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def shown(given: Any) -> str:
    """A value for a message, not longer than a few words."""
    if isinstance(given, (dict, list)):
        return "a list" if isinstance(given, list) else "an object"
    if isinstance(given, int) and abs(given) >= 10**20:
        return "a long number"
    shown = json.dumps(given)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
