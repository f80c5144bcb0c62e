"""A learner's weights and step sizes in an exported model, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.adaptation import StepSizes
from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.engine.running_statistics import RunningStatistics

Named = dict[str, tf.Variable]


def served_variables(
    inner: InnerLoop, names: Sequence[str], *, copied: bool = True
) -> tuple[Named, Named]:
    """Copies what is meta-learned into variables that a `tf.Module` can hold.

    Args:
      inner: whose weights are copied, as they are now.
      names: of its weights; see `unique_names`.
      copied: False gives the variables themselves.

    Returns:
      Theta, and the learned step sizes of those that adapt, both by the names of the weights.
    """

    def variable(own, name):
        return tf.Variable(own.value, name=name) if copied else own.value

    initial = {n: variable(own, n) for n, own in zip(names, inner.variables, strict=True)}
    moving = [name for name, own in zip(names, inner.adapts, strict=True) if own]
    step_sizes = {
        name: variable(alpha, f"{name}_step_size")
        for name, alpha in zip(moving, inner.step_sizes, strict=False)
    }
    return initial, step_sizes


def served_rows(
    inner: InnerLoop, names: Sequence[str], *, copied: bool = True
) -> list[tf.Variable]:
    """Copies weights that each step has its own of, for `InnerLoop.of_steps`.

    Args:
      inner: whose.
      names: of its weights.
      copied: as for `served_variables`.
    """
    rows = inner.rows.items()
    if not copied:
        return [v.value for _, v in rows]
    return [tf.Variable(v.value, name=f"{names[i]}_per_step") for i, v in rows]


def served_running(running: RunningStatistics, *, copied: bool = True) -> list[tf.Variable]:
    """Copies running statistics, for `RunningStatistics.after`.

    Args:
      running: which.
      copied: as for `served_variables`.
    """
    if not copied:
        return [v.value for v in running.variables]
    return [tf.Variable(v.value, name=v.name) for v in running.variables]


def default_step_size(inner: InnerLoop, step_size: float | None) -> float:
    """An export's default alpha: the given one, else the learner's own; NaN: the meta-learned.

    Raises:
      ValueError: it is out of range.
    """
    if step_size is None:
        return math.nan if inner.step_sizes else inner.step_size
    return arguments.positive("step_size", step_size)


def given_or_learned(
    inner: InnerLoop, step_size: tf.Tensor | float, learned: Mapping[str, tf.Variable]
) -> StepSizes:
    """Alpha in a graph: the given one, or where it is NaN the meta-learned ones, if there are any.

    Args:
      inner: whose weights are adapted.
      step_size: `[]`.
      learned: the meta-learned step sizes of those that adapt, as `served_variables` made them.

    Returns:
      What `inner.loop` takes.
    """
    if not learned:
        return step_size
    own = [tf.convert_to_tensor(alpha) for alpha in learned.values()]
    given = [tf.cast(step_size, alpha.dtype) for alpha in own]
    is_own = tf.math.is_nan(step_size)
    return inner.of_learned([tf.where(is_own, *pair) for pair in zip(own, given, strict=True)])


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
