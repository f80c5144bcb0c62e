"""The form of a result file: typed fields of a dataclass, written and read by one definition.

A dataclass that inherits from `Stored` says with its annotations what a file holds. `to_json` and
`from_json` follow them, so that nothing is written that is not read back by the same rule.

JSON has neither NaN nor infinity: a number that is not finite is written as null, and read as NaN.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import numpy as np

from maml_tf.experiments.fields import is_one_line
from maml_tf.ranges import Range, Span

LARGEST = 64 * 2**20
"""Bytes of a result file, at most."""

DEEPEST = 20
"""Lists and objects within each other, at most."""

Json: TypeAlias = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A value of JSON."""


class Axes(NamedTuple):
    """How many axes an array of numbers has, as a part of its annotation."""

    number: int


Vector = Annotated[np.ndarray, Axes(1)]
"""Numbers, float64; NaN where a file has null."""

Matrix = Annotated[np.ndarray, Axes(2)]
"""Rows of numbers, float64; NaN where a file has null."""

_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def stored(
    *,
    key: str = "",
    choices: tuple[str, ...] = (),
    within: Range | None = None,
    default: object = dataclasses.MISSING,
) -> Any:
    """Describes one field of a `Stored` dataclass.

    Args:
      key: its name in files, where that is another than the field's.
      choices: the values that a text may have.
      within: the values that a number may have.
      default: what a file that does not have the key means; without one the key is needed.
    """
    metadata = {"key": key, "choices": choices, "within": within}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def not_stored(default: object) -> Any:
    """Describes a field that files do not hold."""
    return dataclasses.field(default=default, metadata={"stored": False}, compare=False)


_S = TypeVar("_S", bound="Stored")


class Stored:
    """What a file, or a part of one, holds; its subclasses are frozen dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def to_json(self) -> dict[str, Json]:
        """Returns what a file is to hold, by key."""
        return {key: _written(getattr(self, field.name)) for key, field, _ in _fields(type(self))}

    @classmethod
    def from_json(cls: type[_S], content: Mapping[str, Json]) -> _S:
        """Makes one of what a file holds; keys that it does not know are left out.

        Raises:
          KeyError: a key is missing.
          ValueError: a value has another type, is none of its choices, or lies outside its range;
            names the key.
        """
        values = {}
        for key, field, hint in _fields(cls):
            if key not in content and field.default is not dataclasses.MISSING:
                continue
            values[field.name] = value(key, content[key], hint, field.metadata)
        return cls(**values)


def _fields(kind: type) -> list[tuple[str, dataclasses.Field[Any], Any]]:
    """Key, field and type of all that files hold."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [f for f in dataclasses.fields(kind) if f.metadata.get("stored", True)]
    return [(field.metadata.get("key") or field.name, field, hints[field.name]) for field in fields]


# --- writing ---


def _written(given: object) -> Json:
    """One value as JSON."""
    if isinstance(given, Stored):
        return given.to_json()
    if isinstance(given, np.ndarray):
        return _written(np.asarray(given, float).tolist())
    if isinstance(given, Span):
        return str(given)
    if isinstance(given, (list, tuple)):
        return [_written(item) for item in given]
    if isinstance(given, float):
        return float(given) if math.isfinite(given) else None
    assert given is None or isinstance(given, (bool, int, str)), given
    return given


# --- reading ---


def load(path: Path) -> dict[str, Json]:
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


def an_object(name: str, given: Json) -> dict[str, Json]:
    """Returns an object of JSON, or raises ValueError."""
    if not isinstance(given, dict):
        raise ValueError(f"{name} is {shown(given)}, not an object")
    return given


def objects(name: str, given: Json) -> list[dict[str, Json]]:
    """Returns a list, not empty, of objects of JSON, or raises ValueError."""
    if not isinstance(given, list) or not given:
        raise ValueError(f"{name} is {shown(given)}, not a list of objects")
    return [an_object(f"one of {name}", item) for item in given]


def value(name: str, given: Json, hint: Any, rules: Mapping[str, Any] | None = None) -> Any:
    """Reads one value of an annotated type.

    Args:
      name: what it is called.
      given: what the file has.
      hint: the annotation: a simple type, an array with `Axes`, a tuple, a `Stored` dataclass, or
        one of those or None; or a whole number, a `Span` or None.
      rules: `choices` and `within`, as `stored` takes them.

    Returns:
      The value; lists as tuples or arrays.

    Raises:
      ValueError: it is of another type, none of its choices, or outside its range.
    """
    if isinstance(hint, types.UnionType):
        hint, *others = typing.get_args(hint)
        assert others in ([types.NoneType], [Span, types.NoneType])
        if Span in others and isinstance(given, str):
            return _span(name, given, (rules or {})["within"])
        return None if given is None else value(name, given, hint, rules)
    if typing.get_origin(hint) is Annotated:
        return numbers(name, given, typing.get_args(hint)[1].number)
    if typing.get_origin(hint) is tuple:
        return _several(name, given, typing.get_args(hint)[0], rules)
    if issubclass(hint, Stored):
        return _part(name, given, hint)
    return _simple(name, given, hint, rules or {})


def _several(name: str, given: Json, hint: Any, rules: Mapping[str, Any] | None) -> tuple:
    if isinstance(hint, type) and issubclass(hint, Stored):
        return tuple(_part(f"one of {name}", item, hint) for item in objects(name, given))
    if not isinstance(given, list):
        raise ValueError(f"{name} is {shown(given)}, not a list")
    return tuple(value(name, item, hint, rules) for item in given)


def _part(name: str, given: Json, kind: type[_S]) -> _S:
    try:
        return kind.from_json(an_object(name, given))
    except KeyError as error:
        raise ValueError(f"{name} has no {error}") from error


def _span(name: str, given: str, within: Range) -> Span:
    with contextlib.suppress(ValueError):
        made = Span.read(given)
        if isinstance(made, Span) and made.low in within and made.high in within:
            return made
    raise ValueError(f"{name} is {shown(given)}, not a range of whole numbers {within}")


def _simple(name: str, given: Json, kind: type, rules: Mapping[str, Any]) -> Json:
    allowed = (int, float) if kind is float else kind
    if not isinstance(given, allowed) or isinstance(given, bool) != (kind is bool):
        raise ValueError(f"{name} is {shown(given)}, not {_KINDS[kind]}")
    if isinstance(given, str) and not is_one_line(given):
        raise ValueError(f"{name} is {shown(given)}, not one line of plain text")
    if rules.get("choices") and given not in rules["choices"]:
        raise ValueError(f"{name} is {shown(given)}, not one of {', '.join(rules['choices'])}")
    if rules.get("within") and given not in rules["within"]:
        raise ValueError(f"{name} is {shown(given)}, not {rules['within']}")
    return given


def numbers(name: str, given: Json, axes: int) -> np.ndarray:
    """Makes an array of numbers in lists; None, and what is not finite, is NaN.

    Args:
      name: what they are called.
      given: `axes` lists within each other.
      axes: of the array.

    Returns:
      float64 of so many axes.

    Raises:
      ValueError: it holds something else.
    """
    rows = list(_rows(name, [given], axes + 1))
    if axes > 1 and len({len(row) for row in rows[0]}) > 1:
        raise ValueError(f"{name} holds lists of different length")
    return np.array(rows[0], float)


def _rows(name: str, given: list[Json], axes: int) -> Iterator[Any]:
    for item in given:
        if axes > 1 and isinstance(item, list):
            yield list(_rows(name, item, axes - 1))
        elif axes > 1 or isinstance(item, (bool, str, list, dict)):
            wanted = "lists" if axes > 1 else "numbers"
            raise ValueError(f"{name} holds {shown(item)}, not {wanted}")
        else:
            yield item if item is not None and abs(item) < 1e300 else math.nan


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it says {shown(twice)} twice")
    return found


def _check_depth(content: Json, room: int) -> None:
    if not isinstance(content, (dict, list)):
        return
    if not room:
        raise ValueError("it is nested too deeply")
    for item in content.values() if isinstance(content, dict) else content:
        _check_depth(item, room - 1)


def shown(given: object) -> str:
    """A value for a message, not longer than a few words."""
    if isinstance(given, (dict, list)):
        return "a list" if isinstance(given, list) else "an object"
    if isinstance(given, int) and abs(given) >= 10**20:
        return "a long number"
    text = json.dumps(given)
    return text if len(text) <= 40 else f"{text[:37]}..."
