"""The weight matrix of each of many tasks, kept as a shared one and what each task added to it.

The gradient of `y = x W` is `x' dy`, an outer product an example (Goodfellow 2015, "Efficient
Per-Example Gradient Computations", arXiv 1510.01799), so a few examples per task add little rank:

    W_t = W + a_t' b_t        x W_t = x W + (x a_t') b_t

One product with the shared matrix serves every task at once, and the rest is small; `W_t`, T times
the size of `W`, is never made. Where that does not pay, the matrices are made after all.

Shape letters: T tasks, B examples per task, I inputs, F outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

WORTHWHILE = 0.5
"""Factors are kept while they hold at most this share of the matrices' numbers."""


class Use(NamedTuple):
    """One place where a loss used the weight."""

    output: tf.Tensor  # y [T, B, F] = x W, or the matrices themselves [T, I, F]
    input: tf.Tensor | None  # x [T, B, I], or None

    def gradient(self, of_output: tf.Tensor) -> tf.Tensor:
        """The loss's gradient by the matrices, `[T, I, F]`, from that by the output."""
        return (
            of_output if self.input is None else tf.matmul(self.input, of_output, transpose_a=True)
        )


class FastWeight:
    """A weight matrix `[I, F]` of each of T tasks; stands for a stacked weight `[T, I, F]`."""

    def __init__(
        self,
        shared: tf.Tensor,
        num_tasks: int | tf.Tensor,
        left: tf.Tensor | None = None,
        right: tf.Tensor | None = None,
    ):
        """Holds `shared [..., F]`, and the factors `left [T, R, I]`, `right [T, R, F]`, if any."""
        self.shared = shared
        self.matrix = tf.reshape(shared, [-1, shared.shape[-1]])  # [I, F]
        self.num_tasks = num_tasks
        self.left = left
        self.right = right
        self.uses: list[Use] | None = None
        self._place: Any = None  # the graph in which it is recorded

    @property
    def dtype(self) -> tf.DType:
        """Of the matrices."""
        return self.shared.dtype

    @property
    def outputs(self) -> list[tf.Tensor]:
        """What the loss's gradient is wanted by, one tensor per use."""
        return [use.output for use in self.uses or []]

    def recording(self) -> FastWeight:
        """A copy that notes where it is used, for `outputs` and `stepped`."""
        copy = FastWeight(self.shared, self.num_tasks, self.left, self.right)
        copy.uses = []
        copy._place = _place()
        return copy

    def multiply(self, x: tf.Tensor) -> tf.Tensor:
        """`x [T, B, I]` times each task's matrix: `[T, B, F]`."""
        y = multiply(x, self.matrix)
        if self.left is not None:
            left, right = (tf.cast(factor, x.dtype) for factor in (self.left, self.right))
            y += tf.matmul(x, left, transpose_b=True) @ right
        return self._note(y, x)

    def stacked(self) -> tf.Tensor:
        """The matrices, `[T, I, F]`."""
        return self._note(self._matrices(), None)

    def stepped(
        self, alpha: tf.Tensor, gradients: list[tf.Tensor | None], hold: Callable
    ) -> FastWeight | tf.Tensor:
        """The weight after one step of gradient descent.

        Args:
          alpha: a number, or a tensor that broadcasts to `[I, F]`.
          gradients: of the loss by each use's output; None where it does not matter.
          hold: applied to the gradient; `tf.stop_gradient` for first-order MAML.

        Returns:
          A weight of higher rank, or the matrices themselves where that is less.
        """
        used = [(u, g) for u, g in zip(self.uses or [], gradients, strict=True) if g is not None]
        if not used:
            return self
        if alpha.shape.rank == 0 and self._pays([use.input for use, _ in used]):
            left = [hold(tf.cast(use.input, self.dtype)) for use, _ in used]
            right = [-alpha * hold(tf.cast(gradient, self.dtype)) for _, gradient in used]
            if self.left is not None:
                left, right = [self.left, *left], [self.right, *right]
            return FastWeight(self.shared, self.num_tasks, tf.concat(left, 1), tf.concat(right, 1))
        shape = [self.num_tasks, *self.shared.shape]
        gradient = tf.add_n(
            [tf.reshape(tf.cast(use.gradient(g), self.dtype), shape) for use, g in used]
        )
        return self._matrices() + -alpha * hold(gradient)

    def _pays(self, inputs: list[tf.Tensor | None]) -> bool:
        """Whether factors with these inputs hold few enough numbers; unknown sizes do not."""
        held = [] if self.left is None else [self.left]
        ranks = [x.shape[1] for x in [*held, *inputs] if x is not None]
        if any(x is None for x in inputs) or None in ranks:
            return False
        wide, high = self.matrix.shape
        return sum(ranks) * (wide + high) <= WORTHWHILE * wide * high

    def _matrices(self) -> tf.Tensor:
        w = tf.broadcast_to(self.matrix, [self.num_tasks, *self.matrix.shape])
        if self.left is not None:
            w += tf.matmul(self.left, self.right, transpose_a=True)
        return tf.reshape(w, [self.num_tasks, *self.shared.shape])

    def _note(self, output: tf.Tensor, x: tf.Tensor | None) -> tf.Tensor:
        if self.uses is not None:
            if self._place is not _place():
                raise RuntimeError(
                    "A stacked weight was read inside a loop or a mapped function, where its "
                    "gradient would be lost; read it before, with run.value(variable)."
                )
            self.uses.append(Use(output, x))
        return output


def _place() -> Any:
    """The graph that is being built, or None when running eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def multiply(x: tf.Tensor, w: tf.Tensor | FastWeight) -> tf.Tensor:
    """`x [T, ..., I]` times `w`, shared `[I, F]` or each task's own `[T, ..., F]`: `[T, ..., F]`.

    A kernel `[T, height, width, C, F]` is taken as the matrix `[T, I, F]` that patches multiply.
    """
    t, *middle, inputs = (tf.shape(x)[i] if n is None else n for i, n in enumerate(x.shape))
    if isinstance(w, FastWeight):
        y = w.multiply(tf.reshape(x, [t, -1, inputs]))
    elif w.shape.rank == 2:
        y = tf.reshape(x, [-1, inputs]) @ tf.cast(w, x.dtype)
    else:
        own = tf.reshape(tf.cast(w, x.dtype), [-1, inputs, w.shape[-1]])
        y = tf.reshape(x, [t, -1, inputs]) @ own
    return tf.reshape(y, [t, *middle, y.shape[-1]])
