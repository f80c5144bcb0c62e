"""How one setting is declared and checked: its flag, help text, choices and range."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
import unicodedata
from collections.abc import Sequence
from typing import Any

from maml_tf.ranges import Range, Span

_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
_NOT_IN_A_LINE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's control characters, halves of characters, line and paragraph separators."""


def setting(
    default: Any,
    help: str,  # noqa: A002
    *,
    within: Range | None = None,
    choices: Sequence[str] = (),
    switch: str = "",
    flag: str = "",
    section: str = "",
    only: bool = False,
) -> Any:
    """Declares a setting as a field of a dataclass.

    Args:
      default: None if it is derived from other settings, or has no value.
      help: what it means, with its unit, in a sentence that does not lean on the name.
      within: the range; needed for a number.
      choices: of a text.
      switch: the choice that True means, as does the flag without a value; False means None.
      flag: its name on the command line, if that is not the field's.
      section: heading of the help text that begins with it.
      only: whether problems that do not look at it refuse it.
    """
    metadata: dict[str, Any] = {"help": help, "within": within, "choices": choices, "flag": flag}
    metadata |= {"switch": switch, "section": section, "only": only}
    return dataclasses.field(default=default, metadata=metadata)


class Setting(typing.NamedTuple):
    """A declared setting."""

    name: str  # of the field
    flag: str
    kind: type  # bool, int, float or str
    spans: bool  # whether a range LOW..HIGH of whole numbers is a value, too
    optional: bool  # whether None is a value: derived, or none
    default: Any
    help: str
    within: Range | None
    choices: tuple[str, ...]
    switch: str
    section: str
    only: bool


def declared(group: type) -> tuple[Setting, ...]:
    """The settings of a dataclass, in order."""
    return _declared_once(group)  # type: ignore[arg-type]  # of mypy: a class is hashable


@functools.cache
def _declared_once(group: type) -> tuple[Setting, ...]:
    hints = typing.get_type_hints(group)
    made = dataclasses.fields(group)
    return tuple(_declared(field, hints[field.name]) for field in made)


def _declared(field: dataclasses.Field, hint: Any) -> Setting:
    union = isinstance(hint, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    rules = dict(field.metadata)
    return Setting(
        name=field.name,
        flag=rules["flag"] or field.name,
        kind=kinds[0],
        spans=Span in kinds,
        optional=types.NoneType in kinds or field.default is None,
        default=field.default,
        help=rules["help"],
        within=rules["within"],
        choices=tuple(rules["choices"]),
        switch=rules["switch"],
        section=rules["section"],
        only=rules["only"],
    )


def meant(each: Setting | None, value: Any) -> Any:
    """A value of a setting, whose switch may be said as True or False, and a range as text.

    Raises:
      ValueError: it seems to be a range, and is none.
    """
    if each and each.spans and isinstance(value, str) and ".." in value:
        try:
            return Span.read(value)
        except ValueError as error:
            raise ValueError(f"--{each.flag}={value}: {error}.") from error
    if each and each.switch and (isinstance(value, bool) or value in ("True", "False")):
        return each.switch if value in (True, "True") else None
    return value


def check(group: Any) -> None:
    """Checks every value of a group of settings.

    Raises:
      ValueError: one has another type, lies outside its range, or is none of its choices.
    """
    for each in declared(type(group)):
        _check_value(each, getattr(group, each.name))


def _check_value(each: Setting, value: Any) -> None:
    if value is None and each.optional:
        return
    name = f"--{each.flag}"
    if each.spans and isinstance(value, Span):
        if each.within is not None and not all(end in each.within for end in value):
            raise ValueError(f"{name} must be {each.within}; got {value}.")
        return
    allowed: Any = (int, float) if each.kind is float else each.kind
    if not isinstance(value, allowed) or isinstance(value, bool) != (each.kind is bool):
        kind = _KINDS[each.kind] + (", or a range such as 1..5" if each.spans else "")
        raise ValueError(f"{name} must be {kind}, not {value!r}.")
    if each.within is not None and value not in each.within:
        text = str(value) if isinstance(value, float) or abs(value) < 10**20 else "a longer number"
        rest = ", or None for the default" if each.optional else ""
        raise ValueError(f"{name} must be {each.within}{rest}; got {text}.")
    if each.kind is str and not is_one_line(value):
        raise ValueError(f"{name} must be one line of plain text; got {value!r}.")
    if each.choices and value not in each.choices:
        raise ValueError(f"{name} must be one of {', '.join(each.choices)}; got '{value}'.")


def is_one_line(text: str) -> bool:
    """Whether a text is one line of whole characters that control nothing."""
    return not any(unicodedata.category(character) in _NOT_IN_A_LINE for character in text)
