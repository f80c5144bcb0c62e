"""Flagfiles, as editors of every system leave them: one flag per line."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from absl import flags

from maml_tf.experiments.identity import QUOTED
from maml_tf.system import texts

LARGEST = 1_000_000
"""Bytes of a flagfile."""

_FLAG = re.compile(r"(?:--?)?([A-Za-z_]\w*)(?:\s*=(.*)|(\s.*))?")
_ANOTHER = re.compile(r"(?<=\s)(?:--?([A-Za-z_]\w*)(?!\S)|(?:--?)?([A-Za-z_]\w*)\s*=)")
_COMMENT = re.compile(r"(?<=\s)(?:#|//)")
_INCLUDE = "flagfile"


def read(path: Path, known: flags.FlagValues, inside: tuple[Path, ...] = ()) -> list[str]:
    """Reads a flagfile and those that it names, whose paths are relative to its own folder.

    A line is `--name=value`, `--name value`, `name = value` or `name value`, `--name` or `--noname`
    for a flag that is True or False, a comment behind # or //, or empty. A value may hold spaces,
    and one pair of quotes around the whole of it is no part of it.

    Args:
      path: the file; UTF-8, or UTF-16 or UTF-32 with a byte order mark.
      known: the flags that there are.
      inside: the files that name this one.

    Returns:
      Its flags as `--name=value`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no flagfile; names the line and what to write.
    """
    own = Path(os.path.realpath(path))  # Not `resolve`, which fails at a loop of links.
    if own in inside:
        raise ValueError(f"{path} includes itself; remove its line --flagfile={path.name}.")
    found = []
    for number, line in enumerate(re.split("\r\n|\r|\n", _text(path)), start=1):
        place = f"{path}, line {number}"
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        name, value = _name_and_value(line, place, known)
        if name != _INCLUDE:
            found.append(_flag(name, value, place, known))
            continue
        if not value:
            raise ValueError(f"{place} includes no file; write --flagfile=FILE, or remove it.")
        included = path.parent / os.path.expanduser(value)
        try:
            found += read(included, known, (*inside, own))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{place}: {error}") from error
    return found


def _text(path: Path) -> str:
    """The file's contents, whatever its encoding."""
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} is not a regular file; name a flagfile.")
        raise FileNotFoundError(
            f"There is no flagfile {path}; `maml-tf list` names those that come along."
        )
    with open(path, "rb") as file:
        contents = file.read(LARGEST + 1)
    if len(contents) > LARGEST:
        raise ValueError(f"{path} is longer than any flagfile; name another.")
    return texts.decode(contents, str(path))


def _name_and_value(line: str, place: str, known: flags.FlagValues) -> tuple[str, str | None]:
    """Takes a line apart; the value is None where there is none."""
    match = _FLAG.fullmatch(line)
    if not match:
        raise ValueError(f"{place} is no flag ({_short(line)}); write --name=value.")
    name = match[1]
    value = match[2] if match[2] is not None else match[3]
    if name == _INCLUDE or name in known:
        return name, value if value is None else _unquoted(name, value, place, known)
    positive = name.removeprefix("no")
    if name.startswith("no") and positive in known and known[positive].boolean:
        if value is not None:
            raise ValueError(f"{place} gives --{name} a value; write --{positive}=False.")
        return positive, "False"
    near = difflib.get_close_matches(name, list(known), n=1)
    remedy = f"write --{near[0]}=value" if near else "maml-tf --help lists the flags"
    raise ValueError(f"{place}: there is no flag --{_short(name)}; {remedy}.")


def _unquoted(name: str, value: str, place: str, known: flags.FlagValues) -> str:
    """The value without a pair of quotes around it; it must be all that its line holds."""
    plain = value.strip()
    if match := QUOTED.fullmatch(plain):
        return match[2]
    outside = _without_quoted(value)
    if _COMMENT.search(outside):
        raise ValueError(
            f"{place}: --{name} has a comment behind its value ({_short(plain)}); give the comment "
            "a line of its own, or put the whole value in quotes."
        )
    for match in _ANOTHER.finditer(outside):
        other = match[1] or match[2]
        positive = other.removeprefix("no")
        if {other, positive} & {_INCLUDE, *known}:
            raise ValueError(
                f"{place}: --{name} has another flag behind its value ({_short(plain)}); give "
                f"--{_short(other)} a line of its own, or put the whole value in quotes."
            )
    if plain[:1] in ("'", '"'):
        raise ValueError(
            f"{place}: --{name} has quotes around a part of its value ({_short(plain)}); put one "
            "pair around the whole value, or none."
        )
    return plain


def _without_quoted(value: str) -> str:
    """What stands outside of the quotes of a value; an apostrophe in a word is none."""
    return re.sub(rf"(?<!\S){QUOTED.pattern}(?!\S)", "''", value)


def _flag(name: str, value: str | None, place: str, known: flags.FlagValues) -> str:
    """The flag as absl wants it, with a value that it can read."""
    if value is None and known[name].boolean:
        return f"--{name}"
    if value is None:
        raise ValueError(f"{place}: --{name} has no value; write --{name}=value.")
    try:
        known[name].parser.parse(value)
    except ValueError as error:
        raise ValueError(f"{place}: --{name}={_short(value)}: {error}.") from error
    return f"--{name}={value}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
