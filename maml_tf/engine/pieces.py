"""Work on many tasks, one piece of them at a time: large batches, whose tensors leave the caches.

A piece holds a few tasks' steps, so that its tensors stay near the core that works on it, while
other cores work on other pieces. Each piece runs the same compiled function. Sums over pieces are
taken in the pieces' order, so that results do not depend on the number of cores.

Shape letters: T tasks, L steps of a task, n numbers of a vector.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import tensorflow as tf

from maml_tf.types import Weights

Argument = TypeVar("Argument")
Piece = TypeVar("Piece")
"""A structure of tensors."""
Result = TypeVar("Result")
"""A structure of tensors."""

Product: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""`vector [n] -> matrix times vector [n]`."""

STEPS_PER_PIECE = 8000
"""A piece has at least so many steps, if its tasks have them: an operation that is over sooner
spends its time on being called."""


def default_number(tasks: int, steps: int) -> int:
    """The most pieces into which T tasks of L steps divide, each of `STEPS_PER_PIECE` or more."""
    numbers = [n for n in range(1, tasks + 1) if tasks % n == 0]
    return max(n for n in numbers if n == 1 or tasks // n * steps >= STEPS_PER_PIECE)


def cut(structure: Piece, number: int) -> list[Piece]:
    """Cuts tensors `[T, ...]` into a `number` of structures of `[T / number, ...]`.

    Raises:
      ValueError: the tensors' first axes differ in length, or do not divide.
    """
    lengths = {tensor.shape[0] for tensor in tf.nest.flatten(structure)}
    if len(lengths) > 1 or lengths.pop() % number:
        raise ValueError(f"Every tensor's first axis must be of T tasks, a multiple of {number}.")
    parts = [tf.split(tensor, number) for tensor in tf.nest.flatten(structure)]
    return [tf.nest.pack_sequence_as(structure, part) for part in zip(*parts, strict=True)]


def stacked(structure: Piece, number: int) -> Piece:
    """Tensors `[T, ...]` as `[number, T / number, ...]`; T is a multiple."""

    def cut_up(tensor: tf.Tensor) -> tf.Tensor:
        tensor = tf.convert_to_tensor(tensor)
        rest = tensor.shape[1:]
        if not rest.is_fully_defined():
            rest = tf.unstack(tf.shape(tensor)[1:])
        return tf.reshape(tensor, [number, tensor.shape[0] // number, *rest])

    return tf.nest.map_structure(cut_up, structure)


def each(function: Callable[[Piece], Result], pieces: Piece, number: int) -> list[Result]:
    """What a function says of each piece, as many at a time as there are threads for operations.

    A loop of the graph. If it held a call for each piece, TensorFlow would copy the body of what is
    called for every one of them while it looks what to inline, and optimise it once for each
    thread.

    Args:
      function: of a piece; calls a compiled function, whose outputs have static shapes.
      pieces: of tensors `[number, ...]`.
      number: of pieces.
    """

    def of(index: int | tf.Tensor) -> Result:
        return function(tf.nest.map_structure(lambda tensor: tensor[index], pieces))

    if number == 1:
        return [of(0)]
    like = tf.function(of, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
    results = tf.map_fn(
        of,
        tf.range(number),
        fn_output_signature=tf.nest.map_structure(
            lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), like.structured_outputs
        ),
        parallel_iterations=_threads(),
    )
    flat = [tf.unstack(tensor, number) for tensor in tf.nest.flatten(results)]
    return [tf.nest.pack_sequence_as(results, one) for one in zip(*flat, strict=True)]


def mean(
    function: Callable[[Argument, Piece], Result],
) -> Callable[[Argument, Sequence[Piece]], Result]:
    """The mean of `function(argument, piece)`, a function of the argument and the pieces."""
    compiled = _one_for_all(function)

    def over_pieces(argument: Argument, pieces: Sequence[Piece]) -> Result:
        return _average(_a_few_at_a_time(lambda piece: compiled(argument, piece), pieces))

    return over_pieces


class MeanProduct:
    """The mean over pieces of products with a matrix of each.

    What products with any vector share is computed once, by `prepare`.
    """

    def __init__(self, product: Callable[[Weights, Piece], Product], weights: Weights):
        """Computes nothing yet.

        Args:
          product: `(weights, piece) -> (vector [n] -> [n])`. What it computes at once, and not in
            the function that it returns, is what products share.
          weights: of n numbers in all.
        """
        self._weights = weights
        size = sum(w.shape.num_elements() for w in weights)
        self._stages = _TwoStages(product, tf.TensorSpec([size], weights[0].dtype))

    def prepare(self, pieces: Sequence[Piece]) -> list[list[tf.Tensor]]:
        """What is kept for all vectors of each of some pieces, alike in structure and shapes."""
        return _a_few_at_a_time(lambda piece: self._stages.prepare(self._weights, piece), pieces)

    def __call__(self, vector: tf.Tensor, kept: Sequence[list[tf.Tensor]]) -> tf.Tensor:
        """`[n]`, of a vector `[n]`; any number of calls, in graph loops too."""
        return _average(_a_few_at_a_time(lambda own: self._stages.apply(vector, own), kept))


class _TwoStages:
    """A function that returns a function of a vector, as two compiled functions for any piece.

    The inner function is traced inside the outer one, where the tensors that it closes over are
    known: they are what `prepare` returns. `apply` puts another piece's in their place.
    """

    def __init__(self, outer: Callable[..., Callable], vector: tf.TensorSpec):
        self._outer, self._vector = outer, vector
        self.prepare = _one_for_all(self._prepare)
        self.apply = _one_for_all(self._apply)

    def _prepare(self, *arguments) -> list[tf.Tensor]:
        inner = tf.function(self._outer(*arguments), autograph=False)
        self._inner = inner.get_concrete_function(self._vector)
        return list(self._inner.captured_inputs)

    def _apply(self, vector: tf.Tensor, kept: list[tf.Tensor]) -> tf.Tensor:
        names = [tensor.name for tensor in self._inner.inputs]
        [result] = tf.graph_util.import_graph_def(
            _anywhere(self._inner.graph.as_graph_def()),
            input_map=dict(zip(names, [vector, *kept], strict=True)),
            return_elements=[self._inner.outputs[0].name],
            name="",
        )
        return tf.ensure_shape(result, self._inner.outputs[0].shape)


def _anywhere(graph: Any) -> Any:
    """A graph's definition without the devices that it was traced for: one replica's."""
    functions = [function.node_def for function in graph.library.function]
    for nodes in [graph.node, *functions]:
        for node in nodes:
            node.device = ""
    return graph


def _one_for_all(function: Callable) -> Callable:
    """`function`, compiled once; inlined, the graph would hold one copy per piece."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def _a_few_at_a_time(function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """Calls `function` on each piece, as many at a time as there are threads for operations.

    All at once, they would take turns at every operation, and the caches and memory would have to
    hold them all.
    """
    threads = _threads()
    results: list[Result] = []
    for index, piece in enumerate(pieces):
        before = tf.nest.flatten(results[index - threads]) if index >= threads else []
        with tf.control_dependencies(before):
            results.append(function(piece))
    return results


def _threads() -> int:
    """Operations that TensorFlow may run at a time."""
    return tf.config.threading.get_inter_op_parallelism_threads() or os.cpu_count() or 1


def _average(results: Sequence[Result]) -> Result:
    return tf.nest.map_structure(lambda *parts: tf.add_n(parts) / len(parts), *results)
