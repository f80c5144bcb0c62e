"""What the step of a Keras optimizer on theta is clipped to, and what it shows of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.networks import part_of

PARTS = ("all", "body", "head", "step_sizes")
"""What a norm is taken over: all that is meta-learned, or one part of it."""


@dataclass(frozen=True)
class Norms:
    """Euclidean norms over all of a list of tensors, and over each part of it."""

    parts: Sequence[str]
    """Of each tensor, which of `PARTS` it belongs to; "all" if to none other."""

    @classmethod
    def of(cls, model: keras.Model, inner: InnerLoop) -> Norms:
        """Norms of values of `inner.parameters`.

        The head is the layer of this name, as for `networks.part_of`. Without one, or with nothing
        else that is trained, theta has no parts.

        Args:
          model: whose weights theta holds.
          inner: theta, and learned step sizes if there are any.
        """
        try:
            in_head = part_of(model, "head")
        except ValueError:
            in_head = None
        theta = ["head" if in_head and in_head(v) else "body" for v in inner.variables]
        if len(set(theta)) == 1:
            theta = ["all"] * len(theta)
        of_steps = [theta[index] for index in inner.rows]
        return cls([*theta, *["step_sizes"] * len(inner.step_sizes), *of_steps])

    def __call__(self, tensors: Sequence[tf.Tensor], scale: tf.Tensor | None = None) -> tf.Tensor:
        """The norms, `[len(PARTS)]` float32; NaN for a part that no tensor belongs to.

        Args:
          tensors: one for each of `parts`.
          scale: what all of them were multiplied with; the norms are without it.
        """
        squares = _squares(tensors, scale)
        sums = [tf.add_n(squares)]
        for part in PARTS[1:]:
            own = [s for s, of in zip(squares, self.parts, strict=True) if of == part]
            sums.append(tf.add_n(own) if own else tf.constant(float("nan"), squares[0].dtype))
        return tf.cast(tf.sqrt(tf.stack(sums)), tf.float32)


def clipped_by_norm(
    tensors: Sequence[tf.Tensor], bound: float, scale: tf.Tensor | None = None
) -> list[tf.Tensor]:
    """Shortens a gradient to a norm of `bound`, over all of its tensors, if it is longer.

    A gradient that is not finite stays so: an optimizer that scales the loss looks for it.

    Args:
      tensors: the gradient.
      bound: its norm at most, without the scale.
      scale: what the gradient was multiplied with, and still is afterwards.

    Returns:
      The tensors, all multiplied with one number.
    """
    norm = tf.sqrt(tf.add_n(_squares(tensors, scale)))
    factor = bound / tf.maximum(norm, tf.cast(bound, norm.dtype))
    return [t * tf.cast(factor, t.dtype) for t in tensors]


def scheduled_step_size(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """The step size of the optimizer's next update, `[]` float32; NaN where it has no schedule."""
    rate: Any = optimizer.learning_rate
    fixed = hasattr(rate, "assign")  # a variable
    return tf.constant(float("nan")) if fixed else tf.cast(rate, tf.float32)


def _squares(tensors: Sequence[tf.Tensor], scale: tf.Tensor | None) -> list[tf.Tensor]:
    """The sum of the squares of each, in single precision or better; one operation for most."""
    wide = any(t.dtype == tf.float64 for t in tensors)
    dtype = tf.float64 if wide else tf.float32
    cast = [tf.cast(t, dtype) for t in tensors]
    if scale is not None:
        cast = [t / tf.cast(scale, dtype) for t in cast]
    return [2 * tf.nn.l2_loss(t) for t in cast]
