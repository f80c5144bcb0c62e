"""Many steps inside one compiled call: no Python and no host round trip between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

CAPACITY = 256
"""Steps of one call at most. XLA wants results of a static size, whatever the number of steps."""


def compile_loop(
    step: Callable[[tf.Tensor], Any], spec: Any, *, jit_compile: bool = False
) -> Callable[[int, int], Any]:
    """Compiles `step` for runs of consecutive indices.

    Args:
      step: `index (int64 scalar) -> results`, a structure of float tensors like `spec`.
      spec: `tf.TensorSpec`s of one step's results.
      jit_compile: compile the loop as a whole with XLA. For small steps that is most of their
        time: nothing is left to be dispatched one operation at a time.

    Returns:
      `(start, count) -> results` with a leading axis `[count]`; no count compiles again.
    """
    flat_spec = tf.nest.flatten(spec)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def call(start, count):
        arrays = [
            tf.TensorArray(s.dtype, CAPACITY, element_shape=s.shape, clear_after_read=False)
            for s in flat_spec
        ]

        def body(i, arrays):
            results = tf.nest.flatten(step(start + tf.cast(i, tf.int64)))
            return i + 1, [
                array.write(i, tf.cast(result, s.dtype))
                for array, result, s in zip(arrays, results, flat_spec, strict=True)
            ]

        _, arrays = tf.while_loop(
            lambda i, _: i < count, body, [tf.constant(0), arrays], parallel_iterations=1
        )
        return [array.stack() for array in arrays]

    def loop(start: int, count: int) -> Any:
        pieces = []
        for begin in range(0, count, CAPACITY):
            length = min(CAPACITY, count - begin)
            results = call(tf.constant(start + begin, tf.int64), tf.constant(length))
            pieces.append([result[:length] for result in results])
        joined = [tf.concat(piece, axis=0) for piece in zip(*pieces, strict=True)]
        return tf.nest.pack_sequence_as(spec, joined)

    return loop
