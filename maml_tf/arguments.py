"""Checks of single arguments: each gives the value in its own form, or says what is wrong with it.

Nothing here runs in a training step.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def whole(name: str, value: Any) -> int:
    """A whole number of Python, NumPy or TensorFlow; no bool, and no float even if it is whole.

    Raises:
      ValueError: it is something else.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, not {shown(value)}.") from error


def count(name: str, value: Any, least: int) -> int:
    """A whole number, `least` or more.

    Raises:
      ValueError: it is not.
    """
    made = whole(name, value)
    if made < least:
        raise ValueError(f"{name} must be {least} or more, not {made}.")
    return made


def number(name: str, value: Any) -> float:
    """A finite number, as a float.

    Raises:
      ValueError: it is something else.
    """
    made = _real(name, value)
    if not math.isfinite(made):
        raise ValueError(f"{name} must be a finite number, not {made}.")
    return made


def positive(name: str, value: Any) -> float:
    """A positive finite number, as a float.

    Raises:
      ValueError: it is not.
    """
    made = _real(name, value)
    if not made > 0:
        hint = "; None does not clip" if name in ("clip", "clip_norm") else ""
        raise ValueError(f"{name} must be positive, not {shown(value)}{hint}.")
    return number(name, value)


def _real(name: str, value: Any) -> float:
    try:
        if isinstance(value, (list, tuple, str, bytes, bool, np.bool_)) or np.ndim(value):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be one number, not {shown(value)}.") from error


def boolean(name: str, value: Any) -> bool:
    """True or False.

    Raises:
      ValueError: it is something else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, not {shown(value)}.")
    return bool(value)


def shown(value: Any) -> str:
    """A value in one line of bounded length, an array by its shape."""
    shape = getattr(value, "shape", ())
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if not isinstance(shape, tuple) or shape:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def sizes(name: str, value: Any, least: int = 1) -> tuple[int, ...]:
    """Several whole numbers, each `least` or more.

    Raises:
      ValueError: it is something else.
    """
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"{name} must be a tuple of whole numbers, not {shown(value)}.")
    return tuple(count(f"each of {name}", part, least) for part in value)


def predicate(name: str, value: Any, example: str) -> None:
    """A function of one argument.

    Args:
      name: of the argument.
      value: what is given.
      example: the text of such a function.

    Raises:
      ValueError: it is something else.
    """
    try:
        inspect.signature(value).bind(None)
    except (TypeError, ValueError) as error:
        if callable(value) and isinstance(error, ValueError):  # a builtin, which does not tell
            return
        raise ValueError(
            f"{name} must be a function of one argument, such as {example}, not {shown(value)}."
        ) from error


def options(what: str, maker: Any, given: Mapping[str, Any], leave_out: int) -> None:
    """Named arguments that are handed on to a function or a class.

    Args:
      what: is done with them, for the message.
      maker: what takes them.
      given: by name.
      leave_out: how many arguments of `maker`'s, the first ones, are not the caller's to give.

    Raises:
      ValueError: there is no such argument.
    """
    known = list(inspect.signature(maker).parameters)[leave_out:]
    for name in given:
        if name not in known:
            raise ValueError(f"{what} has no option {name}; it has {', '.join(known)}.")


def learner(
    value: Any,
    abilities: Sequence[str],
    remedy: str = "make one of a model: MetaLearner(model, loss)",
) -> None:
    """Something that can do what a learner can.

    Args:
      value: what is given.
      abilities: names of attributes that it must have.
      remedy: what to give.

    Raises:
      ValueError: it is something else, such as a Keras model or a class.
    """
    if isinstance(value, type) or not all(hasattr(value, name) for name in abilities):
        raise ValueError(f"The learner given is {shown(value)}; {remedy}.")
