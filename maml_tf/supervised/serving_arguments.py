"""Functions that take tensors of several types when a SavedModel is called from Python.

TensorFlow's loader casts no tensor: it takes a call that fits one of the traces that were saved.
So the function that does the work is traced once, and once more, at little cost, for every choice
of types that is taken, cast and handed on.

Shape letters: B examples in a set.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from maml_tf.types import Specs, Structure

OTHER = {
    **{tf.float32: tf.float64, tf.float64: tf.float32},
    **{tf.int32: tf.int64, tf.int64: tf.int32},
}
"""The other width of numbers: NumPy's own types, and those of models."""


def mixes(support_x: Specs, support_y: Specs, query_x: Specs = ()) -> Iterator[tuple[Specs, ...]]:
    """Choices of the types of arguments, the usual one first.

    NumPy's arrays and numbers come as tensors of their own types, so that floats of both widths,
    labels of every type and numbers of both widths meet in every way. Bytes and tokens, where a
    model takes floats, come in the usual company alone, for each choice takes its milliseconds.

    Args:
      support_x: specifications of a support set's x.
      support_y: of its y.
      query_x: of a query set's x, if there is one.

    Yields:
      Specifications of the sets, of the number of steps, and of the step size.
    """
    sets = (support_x,) if query_x == () else (support_x, query_x)
    labels = targets(support_y)
    numbers = [
        (tf.TensorSpec([], whole), tf.TensorSpec([], real))
        for whole, real in ((tf.int32, tf.float32), (tf.int64, tf.float64))
    ]
    for (steps, size), (x, *query), y in itertools.product(
        numbers, itertools.product(*map(examples, sets)), labels
    ):
        yield x, y, *query, steps, size
    for (x, *query), y in itertools.product(
        zip(*map(whole_examples, sets), strict=True), labels[:2]
    ):
        yield x, y, *query, *numbers[0]
    for y in narrow_indices(support_y):
        yield support_x, y, *sets[1:], *numbers[0]


def masked(support_x: Specs, support_y: Specs, query_x: Specs = ()) -> Iterator[tuple[Specs, ...]]:
    """Choices of types beside a mask of the support set: the model's own, and NumPy's.

    Each choice takes its room and its milliseconds, and few sets are padded.

    Args:
      support_x: specifications of a support set's x.
      support_y: of its y.
      query_x: of a query set's x, if there is one.

    Yields:
      Specifications of the sets, of the number of steps, of the step size, and of the mask.
    """
    sets = (support_x,) if query_x == () else (support_x, query_x)
    rest = (
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([], tf.float32),
        tf.TensorSpec([None], tf.bool),
    )
    for (x, *query), y in itertools.product(
        itertools.product(*map(examples, sets)), targets(support_y)[:2]
    ):
        yield x, y, *query, *rest


def narrow_indices(specs: Specs) -> list[Specs]:
    """Class indices of few bits, as image folders and label files have them."""
    if not isinstance(specs, tf.TensorSpec) or not specs.dtype.is_integer:
        return []
    return [_with_types(specs, {specs.dtype: t}) for t in (tf.uint8, tf.int8, tf.int16)]


def examples(specs: Specs) -> list[Specs]:
    """Specifications of x in its own type, then in others that are cast."""
    there = dict.fromkeys(s.dtype for s in tf.nest.flatten(specs) if s.dtype in OTHER)
    choices = itertools.product(*([(t, t), (t, OTHER[t])] for t in there))
    return [_with_types(specs, dict(choice)) for choice in choices]


def whole_examples(specs: Specs) -> list[Specs]:
    """Bytes and tokens, for a model that takes floats."""
    if not isinstance(specs, tf.TensorSpec) or not specs.dtype.is_floating:
        return []
    return [_with_types(specs, {specs.dtype: t}) for t in (tf.uint8, tf.int32, tf.int64)]


def targets(specs: Specs) -> list[Specs]:
    """Specifications of y in its own type, then in others; class indices may be floats."""
    if isinstance(specs, tf.TensorSpec) and specs.dtype.is_integer:
        types = dict.fromkeys([specs.dtype, OTHER[specs.dtype], tf.float32, tf.float64])
        return [_with_types(specs, {specs.dtype: t}) for t in types]
    return examples(specs)


def loosely(specs: Sequence[Specs]) -> list[Specs]:
    """The arguments of a function that calls `fitted`: of any shape; class indices as floats."""

    def loose(spec):
        indices = spec.dtype.is_integer and (spec.name or "").startswith("support_y")
        dtype = tf.float64 if indices else spec.dtype
        return tf.TensorSpec(None if _is_set(spec) else spec.shape, dtype, spec.name)

    return tf.nest.map_structure(loose, list(specs))


def taking(
    function: tf.types.experimental.PolymorphicFunction, choices: Iterable[Sequence[Specs]]
) -> Callable[[Callable], Callable]:
    """Decorates a function, which names the arguments and their defaults, to call another.

    Args:
      function: a `tf.function` of one input signature, which does the work.
      choices: of the specifications of all arguments, the likeliest first. One more than `function`
        takes is a mask: where it is False, the first two arguments, a support set, are cut.

    Returns:
      A decorator; the result is a `tf.function` with one trace a choice.
    """

    def traced(like: Callable) -> Callable:
        @functools.wraps(like)
        def cast(*given):
            specs = tuple(function.input_signature)
            mask = given[len(specs)] if len(given) > len(specs) else None
            given = given[: len(specs)]
            if mask is not None:
                given = (*_existing(given[:2], mask), *given[2:])
            return function(*tf.nest.map_structure(_cast, given, specs))

        compiled = tf.function(cast, autograph=False)
        names = list(inspect.signature(like).parameters)
        for specs in choices:
            given = [_named(*pair) for pair in zip(specs, names, strict=False)]
            compiled.get_concrete_function(*given)
        return compiled

    return traced


def _existing(support: Structure, mask: tf.Tensor) -> Structure:
    """Of a support set, those examples that exist."""

    def cut(x):
        fits = tf.equal(tf.shape(x)[0], tf.shape(mask)[0]) & tf.reduce_any(mask)
        message = (
            "mask takes one boolean for each example of the support set, one of them True; not"
        )
        with tf.control_dependencies([tf.debugging.Assert(fits, [message, tf.shape(mask)])]):
            return tf.gather(x, tf.where(mask)[:, 0])

    return tf.nest.map_structure(cut, support)


def fitted(given: Sequence[Structure], specs: Sequence[Specs]) -> tuple[Structure, ...]:
    """Tensors `[B, *shape]` as their specifications say; asserts in one sentence that they are."""
    return tuple(
        tf.nest.map_structure(_fitted, x, spec) if _is_set(spec) else x
        for x, spec in zip(given, specs, strict=True)
    )


def _is_set(specs: Any) -> bool:
    """Whether an argument is a set of examples, and no weights nor number."""
    return all(s.shape.rank and s.shape[0] is None for s in tf.nest.flatten(specs))


def _fitted(x: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    shape = spec.shape[1:].as_list() if spec.shape.rank else []
    if spec.shape.rank and None not in shape:
        message = f"{spec.name} takes [examples, *shape] with shape {tuple(shape)}, not"
        fits = _fits(x, shape)
        with tf.control_dependencies([tf.debugging.Assert(fits, [message, tf.shape(x)])]):
            # A choice, lest the wrong shape be met by TensorFlow's own words before.
            x = tf.cond(fits, lambda: x, lambda: tf.zeros([0, *shape], x.dtype))
    if x.dtype != spec.dtype:
        whole = tf.reduce_all(x == tf.floor(x))
        message = f"{spec.name} must be whole numbers"
        with tf.control_dependencies([tf.debugging.Assert(whole, [message, x])]):
            x = tf.cast(x, spec.dtype)
    return tf.ensure_shape(x, spec.shape)


def _fits(x: tf.Tensor, shape: list[int]) -> tf.Tensor:
    """Whether `x` is `[B, *shape]`."""
    return tf.cond(
        tf.rank(x) == 1 + len(shape),
        lambda: tf.reduce_all(tf.shape(x)[1:] == tf.constant(shape, tf.int32)),
        lambda: tf.constant(False),
    )


def _with_types(specs: Any, types: dict[tf.DType, tf.DType]) -> Any:
    # Of any shape, so that another is refused by `fitted`, in a sentence.
    return tf.nest.map_structure(
        lambda s: tf.TensorSpec(None, types.get(s.dtype, s.dtype), s.name), specs
    )


def _cast(x: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    return x if x.dtype == spec.dtype else tf.cast(x, spec.dtype)


def _named(specs: Any, name: str) -> Any:
    if not isinstance(specs, tf.TensorSpec):
        return specs
    return tf.TensorSpec(specs.shape, specs.dtype, name)
