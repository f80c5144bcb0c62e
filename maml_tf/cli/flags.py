"""All flags, made from the fields of `Config`, and the help text that explains them."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from maml_tf.config import Config

_DEFINE: dict[type, Callable] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
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
    """Flags, where a flagfile's own flagfiles lie beside it."""

    def _get_flag_file_lines(self, filename, parsed_file_stack=None):
        if parsed_file_stack:
            filename = str(Path(parsed_file_stack[-1]).parent / filename)
        return super()._get_flag_file_lines(filename, parsed_file_stack)


def parse(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Parses a command line, flagfiles included.

    Args:
      arguments: what stands after the program's name and its command.

    Returns:
      The settings that it sets, and the words that are no flags.

    Raises:
      absl.flags.Error: an unknown flag, or a value that is none.
    """
    values = _Values()
    for field in dataclasses.fields(Config):
        define = _DEFINE[type(field.default)]
        define(field.name, field.default, field.metadata["help"], flag_values=values)
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
        lines.append(f"  --{field.name}={field.default}")
        lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
