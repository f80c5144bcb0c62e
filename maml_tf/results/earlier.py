"""Result files of earlier versions: what they say in flags alone, as fields."""

from __future__ import annotations

import math
from collections.abc import Iterable

from maml_tf.results.schema import Json, shown, value

_LAST_NEEDED = "asked_step_size"
"""A key that files have since flags are not read any more."""

_DERIVED = "-1"
"""What stood for a value that is derived from others."""


def completed(content: dict[str, Json]) -> dict[str, Json]:
    """Adds the keys that an earlier version did not write; returns others as they are.

    Raises:
      KeyError, ValueError: there are no flags, or one of them is no number.
    """
    if _LAST_NEEDED in content:
        return content
    flags = by_name(value("flags", content["flags"], tuple[str, ...]))
    asked = _number(flags, "update_lr")
    trained = _number(flags, "train_update_lr")
    iteration = flags.get("test_iter", _DERIVED)
    return {
        **content,
        "asked_step_size": content["step_size"] if asked is None else asked,
        "train_step_size": asked if trained is None else trained,
        "loss_reduction": flags.get("loss_reduction", "sum"),
        "head_stddev": _number(flags, "head_stddev"),
        "best_weights": flags.get("use_best") == "True",
        "asked_iteration": int(iteration) if iteration.isdecimal() else None,
    }


def by_name(flags: Iterable[str]) -> dict[str, str]:
    """Flags as values by name."""
    return dict(flag.removeprefix("--").partition("=")[::2] for flag in flags)


def _number(flags: dict[str, str], name: str) -> float | None:
    """A flag's number; None where it is derived from others, or absent."""
    text = flags.get(name, _DERIVED)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"flags hold {shown(f'--{name}={text}')}, which is no number")
    return None if number == float(_DERIVED) else number
