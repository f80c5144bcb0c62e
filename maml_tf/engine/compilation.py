"""Many steps inside one compiled call: no Python and no host round trip between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
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
    call = looped(step, spec, jit_compile=jit_compile)

    def loop(start: int, count: int) -> Any:
        pieces = []
        for begin in range(0, count, CAPACITY):
            length = min(CAPACITY, count - begin)
            results = call(tf.constant(start + begin, tf.int64), tf.constant(length))
            pieces.append([result[:length] for result in results])
        return _join(pieces, spec)

    return loop


def looped(step: Callable[[tf.Tensor], Any], spec: Any, *, jit_compile: bool = False) -> Callable:
    """The compiled function of `compile_loop`: `(start int64, count int32) -> flat results`.

    Each result is `[CAPACITY, ...]`, of which the first `count` mean something.
    """

    @tf.function(autograph=False, jit_compile=jit_compile)
    def call(start, count):
        return _repeat(lambda i: step(start + tf.cast(i, tf.int64)), count, spec)

    return call


def compile_fed_loop(
    step: Callable[[tf.Tensor, Any], Any],
    spec: Any,
    draw: Callable[[int, int], Sequence[Any]],
    *,
    capacity: int = CAPACITY,
    jit_compile: bool = False,
) -> Callable[[int, int], Any]:
    """As `compile_loop`, for steps that each need data made outside the graph.

    The data of many steps enter the compiled call as one stack.

    Args:
      step: `(index, data of this step) -> results`.
      spec: `tf.TensorSpec`s of one step's results.
      draw: `(start, count) -> the data of that many steps`, structures of arrays. Data of other
        shapes than those before compile again.
      capacity: steps of one call at most.
      jit_compile: compile the loop as a whole with XLA.

    Returns:
      `(start, count) -> results` with a leading axis `[count]`; no count compiles again.
    """
    calls: dict[str, Callable] = {}

    def compiled(data):
        # XLA wants to know how many; otherwise any number is one graph.
        leading = capacity if jit_compile else None
        leaves = tf.nest.flatten(data)
        specs = [tf.TensorSpec([leading, *a.shape], tf.as_dtype(a.dtype)) for a in leaves]
        signature = [tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32), specs]

        @tf.function(autograph=False, jit_compile=jit_compile, input_signature=signature)
        def call(start, count, stacks):
            def one(i):
                own = tf.nest.pack_sequence_as(data, [stack[i] for stack in stacks])
                return step(start + tf.cast(i, tf.int64), own)

            return _repeat(one, count, spec)

        return call

    def loop(start: int, count: int) -> Any:
        pieces, done = [], 0
        while done < count:
            drawn = draw(start + done, min(capacity, count - done))
            for form, group in itertools.groupby(drawn, _form):
                data = list(group)
                if form not in calls:
                    calls[form] = compiled(data[0])
                stacks = _stack(data, capacity if jit_compile else len(data))
                results = calls[form](
                    tf.constant(start + done, tf.int64), tf.constant(len(data)), stacks
                )
                pieces.append([result[: len(data)] for result in results])
                done += len(data)
        return _join(pieces, spec)

    return loop


def _repeat(step: Callable[[tf.Tensor], Any], count: tf.Tensor, spec: Any) -> list[tf.Tensor]:
    """The results of `step(0)` ... `step(count - 1)`, each `[CAPACITY, ...]`."""
    flat_spec = tf.nest.flatten(spec)
    arrays = [
        tf.TensorArray(s.dtype, CAPACITY, element_shape=s.shape, clear_after_read=False)
        for s in flat_spec
    ]

    def body(i, arrays):
        results = tf.nest.flatten(step(i))
        return i + 1, [
            array.write(i, tf.cast(result, s.dtype))
            for array, result, s in zip(arrays, results, flat_spec, strict=True)
        ]

    _, arrays = tf.while_loop(
        lambda i, _: i < count, body, [tf.constant(0), arrays], parallel_iterations=1
    )
    return [array.stack() for array in arrays]


def _join(pieces: list[list[tf.Tensor]], spec: Any) -> Any:
    joined = [tf.concat(piece, axis=0) for piece in zip(*pieces, strict=True)]
    return tf.nest.pack_sequence_as(spec, joined)


def _form(data: Any) -> str:
    """What two structures of arrays share if one compiled call takes both."""
    return repr(tf.nest.map_structure(lambda a: f"{a.dtype.str} {a.shape}", data))


def _stack(data: Sequence[Any], length: int) -> list[np.ndarray]:
    """One array a leaf, `[length, ...]`; what is beyond the data is never read."""
    stacks = []
    for arrays in zip(*map(tf.nest.flatten, data), strict=True):
        first = arrays[0]
        stack = np.empty([length, *first.shape], first.dtype)
        np.stack(arrays, out=stack[: len(arrays)])
        stacks.append(stack)
    return stacks
