"""A learner's weights and step sizes in an exported model, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.inner_loop import InnerLoop

Named = dict[str, tf.Variable]


def served_variables(inner: InnerLoop, names: Sequence[str]) -> tuple[Named, Named]:
    """Copies what is meta-learned into variables that a `tf.Module` can hold.

    Args:
      inner: whose weights are copied, as they are now.
      names: of its weights; see `unique_names`.

    Returns:
      Theta, and the learned step sizes of those that adapt, both by the names of the weights.
    """
    values = zip(names, inner.initial_weights(), strict=True)
    initial = {name: tf.Variable(value, name=name) for name, value in values}
    moving = [name for name, own in zip(names, inner.adapts, strict=True) if own]
    step_sizes = {
        name: tf.Variable(alpha.value, name=f"{name}_step_size")
        for name, alpha in zip(moving, inner.step_sizes, strict=False)
    }
    return initial, step_sizes


def default_step_size(inner: InnerLoop, step_size: float | None) -> float:
    """An export's default alpha: the given one, else the learner's own; NaN: the meta-learned.

    Raises:
      ValueError: it is out of range.
    """
    if step_size is None:
        return math.nan if inner.step_sizes else inner.step_size
    return arguments.positive("step_size", step_size)


def given_or_learned(
    step_size: tf.Tensor,
    weights: Mapping[str, tf.Tensor | tf.Variable],
    learned: Mapping[str, tf.Variable],
) -> tf.Tensor | list[tf.Tensor]:
    """Alpha in a graph: the given one, or where it is NaN the meta-learned ones, if there are any.

    Args:
      step_size: `[]`.
      weights: all weights by name.
      learned: the meta-learned step sizes of those that adapt, by the same names.

    Returns:
      One number, or one tensor per weight.
    """
    if not learned:
        return step_size
    alphas = []
    for name, weight in weights.items():
        given, own = tf.cast(step_size, weight.dtype), learned.get(name)
        alphas.append(given if own is None else tf.where(tf.math.is_nan(step_size), own, given))
    return alphas


def unique_names(paths: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Names of weights that can stand beside the inputs `taken` of a signature: unique ones."""
    names = list(taken)
    for path in paths:
        base = name = re.sub(r"\W+", "_", path).strip("_")
        count = 1
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names[len(taken) :]
