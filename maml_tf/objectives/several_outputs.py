"""Losses of a model with several outputs, given as `keras.Model.compile` takes them.

Shape letters: T tasks, B examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from maml_tf import arguments
from maml_tf.objectives.base import Objective, given
from maml_tf.types import Structure


class Piece(NamedTuple):
    """One output, and what belongs to it."""

    name: str
    outputs: Structure
    y: Structure  # () where there is none
    objective: Objective
    factor: float | None  # a number, or None
    sample_weight: Structure


def several(parts: Any, factors: Any, names: Sequence[str], role: str) -> Objective:
    """The sum of the losses of several outputs, or the metric of one of them.

    Args:
      parts: an `Objective` for all outputs, or a list, tuple or dictionary with one or None each.
      factors: of the losses, in such a structure, or None.
      names: of the model's outputs, in its order.
      role: "loss" or "metric".

    Raises:
      ValueError: a metric is given for more than one output.
    """
    _check_factors(factors, parts, names)
    whole = Several(parts, factors, names)
    chosen = [part for part in tf.nest.flatten(parts) if part is not None]
    if not chosen or (role == "metric" and len(chosen) != 1):
        raise ValueError(
            f"{len(chosen)} of the outputs have a {role}; "
            + ("a learner has one metric: name one output." if chosen else "give one at least.")
        )
    name = "_plus_".join(dict.fromkeys(part.name for part in chosen))
    lower = True if role == "loss" else chosen[0].lower_is_better
    return Objective(whole, name, lower_is_better=lower, parts=whole)


def _check_factors(factors: Any, parts: Any, names: Sequence[str]) -> None:
    """Refuses loss weights that are no numbers, or not as many as there are outputs or losses."""
    if factors is None:
        return
    given = list(_values(factors)) if _nested(factors) else [factors]
    for factor in given:
        if factor is not None:
            arguments.number("each of loss_weights", factor)
    losses = _values(parts) if _nested(parts) else []
    known = {len(names), len(losses), sum(part is not None for part in losses)} - {0}
    if known and isinstance(factors, (list, tuple)) and len(given) not in known:
        raise ValueError(
            f"loss_weights has {len(given)} entries, and the model {len(names) or len(losses)} "
            "outputs; give one an output."
        )


class Several:
    """`(outputs, y, sample_weight, mask) -> [T]`, over structures of outputs and targets."""

    def __init__(self, parts: Any, factors: Any, names: Sequence[str]):
        """See `several`."""
        self.parts, self.factors, self.names = parts, factors, list(names)

    def __call__(
        self, outputs: Structure, y: Structure, sample_weight: Structure = (), mask: Structure = ()
    ) -> tf.Tensor:
        """Returns `[T]`."""
        total = []
        for piece in self.pieces(outputs, y, sample_weight):
            value = piece.objective(piece.outputs, piece.y, piece.sample_weight, mask)
            factor = piece.factor
            total.append(value if factor is None else value * tf.cast(factor, value.dtype))
        return (
            total[0] if len(total) == 1 else tf.add_n([tf.cast(v, total[0].dtype) for v in total])
        )

    def pieces(
        self, outputs: Structure, y: Structure, sample_weight: Structure = ()
    ) -> list[Piece]:
        """Each output that has a loss, beside its targets.

        Raises:
          ValueError: the structures differ.
        """
        if not _nested(outputs):
            outputs, y = [outputs], y if _nested(y) else [y]
        if any(map(_nested, _values(outputs))):
            return self._of_deep_structures(outputs, y)
        keys = list(outputs) if isinstance(outputs, dict) else self._names_of(outputs)
        named = isinstance(outputs, dict)
        parts = _of_each(self.parts, keys, named, "loss", spread=True)
        with_loss = [key for key, part in zip(keys, parts, strict=True) if part is not None]
        y = _of_each(y, keys, named, "y", wanted=with_loss)
        factors = _of_each(self.factors, keys, named, "loss_weights", wanted=with_loss)
        weights = [()] * len(keys)
        if given(sample_weight):
            weights = _of_each(sample_weight, keys, named, "sample_weight", spread=True)
        rows = zip(keys, _values(outputs), y, parts, factors, weights, strict=True)
        pieces = [Piece(*row) for row in rows if row[3] is not None]
        for piece in pieces:
            if piece.y is None:
                raise ValueError(
                    f"There are no targets for output '{piece.name}', which has a loss."
                )
        return pieces

    def _names_of(self, outputs: Any) -> list[str]:
        return (
            self.names if len(self.names) == len(outputs) else [str(i) for i in range(len(outputs))]
        )

    def _of_deep_structures(self, outputs: Any, y: Any) -> list[Piece]:
        flat = tf.nest.flatten(outputs)
        try:
            tf.nest.assert_same_structure(outputs, y, check_types=False)
            parts = [self.parts] * len(flat)
            if _nested(self.parts):
                tf.nest.assert_same_structure(outputs, self.parts, check_types=False)
                parts = tf.nest.flatten(self.parts)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "Outputs within outputs need targets and losses of the same structure."
            ) from error
        factors = tf.nest.flatten(self.factors) if self.factors is not None else [None] * len(flat)
        rows = zip(
            map(str, range(len(flat))), flat, tf.nest.flatten(y), parts, factors, strict=True
        )
        return [Piece(*row, ()) for row in rows if row[3] is not None]


def _of_each(
    what: Any, keys: list[str], named: bool, name: str, *, spread: bool = False, wanted: Any = None
) -> list[Any]:
    """What belongs to each output, in their order; None where there is nothing."""
    if what is None:
        return [None] * len(keys)
    if isinstance(what, dict):
        unknown = [key for key in what if key not in keys]
        if unknown:
            raise ValueError(
                f"{name} names {', '.join(map(repr, unknown))}, and the model's outputs are "
                f"{', '.join(map(repr, keys))}."
            )
        return [what.get(key) for key in keys]
    if isinstance(what, (list, tuple)):
        if named and name == "y" and len(keys) > 1:
            raise ValueError(
                f"The model's outputs are named {', '.join(map(repr, keys))}; give y as a "
                "dictionary by these names."
            )
        if len(what) == len(keys):
            return list(what)
        if wanted is not None and len(what) == len(wanted):
            rest = iter(what)
            return [next(rest) if key in wanted else None for key in keys]
        raise ValueError(f"{name} has {len(what)} entries, and the model {len(keys)} outputs.")
    if spread or len(keys) == 1:
        return [what] * len(keys)
    raise ValueError(
        f"The model has {len(keys)} outputs ({', '.join(map(repr, keys))}); give {name} as a list "
        "or dictionary, one for each."
    )


def _nested(structure: Any) -> bool:
    return isinstance(structure, (list, tuple, dict))


def _values(outputs: Any) -> list[Any]:
    return list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
