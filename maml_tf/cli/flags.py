"""All flags, made from the fields of `Config`, and the help text that explains them."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from maml_tf.cli import flagfiles
from maml_tf.experiments.settings import Config


class _Whole(flags.ArgumentParser):
    """Reads a whole number, in ASCII digits."""

    syntactic_help = "a whole number"

    def parse(self, argument: int | str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,100}", str(argument)):
            raise ValueError("write a whole number of at most 100 digits, such as 3")
        return int(argument)

    def flag_type(self) -> str:
        return "int"


class _Real(flags.ArgumentParser):
    """Reads a number, in ASCII digits."""

    syntactic_help = "a number"

    def parse(self, argument: float | str) -> float:
        if not re.fullmatch(
            r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?", str(argument), re.I
        ):
            raise ValueError("write a number, such as 0.01 or 1e-2")
        return float(argument)

    def flag_type(self) -> str:
        return "float"


class _Boolean(flags.BooleanParser):
    """Reads what absl reads, and says what it is."""

    def parse(self, argument: int | str) -> bool:
        try:
            return super().parse(argument)
        except ValueError as error:
            raise ValueError("write True or False") from error


_PARSERS: dict[type, Callable[[], flags.ArgumentParser]] = {
    int: _Whole,
    float: _Real,
    str: flags.ArgumentParser,
}

_SECTIONS = {
    "datasource": "Tasks",
    "update_lr": "Inner loop",
    "method": "Outer loop",
    "norm": "Network",
    "environment": "Reinforcement learning",
    "logdir": "Run and checkpoint",
    "test_steps": "Evaluation and export",
    "data_dir": "Data and machine",
}


class _Values(flags.FlagValues):
    """Flags, and their flagfiles."""

    def _get_flag_file_lines(self, filename, parsed_file_stack=None):
        del parsed_file_stack  # The reader keeps its own.
        if not filename:
            raise ValueError("--flagfile= names no file; write --flagfile=FILE, or drop it.")
        return flagfiles.read(Path(filename), self)


def parse(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Parses a command line, flagfiles included.

    Args:
      arguments: what stands after the program's name and its command.

    Returns:
      The settings that it sets, and the words that are no flags.

    Raises:
      absl.flags.Error: an unknown flag, or a value that is none.
      OSError, ValueError: a flagfile cannot be read.
    """
    values = _Values()
    for field in dataclasses.fields(Config):
        name, default, explanation = field.name, field.default, field.metadata["help"]
        if isinstance(default, bool):
            flag = flags.BooleanFlag(name, default, explanation)
            flag.parser = _Boolean()
            flags.DEFINE_flag(flag, values)
        else:
            parser = _PARSERS[type(default)]()
            flags.DEFINE(parser, name, default, explanation, flag_values=values)
    words = values(["maml-tf", *arguments])[1:]
    names = [field.name for field in dataclasses.fields(Config)]
    return {name: values[name].value for name in names if values[name].present}, words


def explain() -> str:
    """Describes every flag: default, meaning, unit, choices."""
    lines = []
    for field in dataclasses.fields(Config):
        if field.name in _SECTIONS:
            lines += ["", f"{_SECTIONS[field.name]}:"]
        text = field.metadata["help"]
        if field.metadata["choices"]:
            text += f" One of {', '.join(field.metadata['choices'])}."
        if field.metadata["within"]:
            text += f" {str(field.metadata['within']).capitalize()}."
        lines.append(f"  --{field.name}={field.default}")
        lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
