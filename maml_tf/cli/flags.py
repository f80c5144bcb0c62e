"""All flags, made from the fields of `Config`, and the help text that explains them."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from typing import Any

from absl import flags

from maml_tf.config import Config, from_flags

_DEFINE: dict[type, Callable] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}

_SECTIONS = {
    "datasource": "Tasks",
    "update_lr": "Inner loop",
    "metatrain_iterations": "Outer loop",
    "norm": "Network",
    "logdir": "Run and checkpoint",
    "test_steps": "Evaluation and export",
    "data_dir": "Data and machine",
}


def define() -> None:
    """Defines one flag a field, once."""
    for field in dataclasses.fields(Config):
        if field.name not in flags.FLAGS:
            _DEFINE[type(field.default)](field.name, field.default, field.metadata["help"])


def read(saved: str = "") -> Config:
    """Returns the settings: a run's own where given, under what the command line sets.

    Args:
      saved: the text of a run's `flags.txt`, or nothing.

    Raises:
      ValueError: a setting is impossible.
    """
    base = from_flags(saved) if saved else Config()
    given: dict[str, Any] = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(Config)
        if flags.FLAGS[field.name].present
    }
    return dataclasses.replace(base, **given)


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
