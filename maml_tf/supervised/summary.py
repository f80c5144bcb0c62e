"""What a learner does with each layer of its model, as a table.

Shape letters: T tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from maml_tf.engine.functional import Functional
from maml_tf.engine.inner_loop import InnerLoop
from maml_tf.engine.inner_optimizers import SGD
from maml_tf.engine.single_task import uses_averages
from maml_tf.objectives.base import Objective

OFF = (
    *(keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D),
    *(keras.layers.SpatialDropout3D, keras.layers.AlphaDropout, keras.layers.GaussianDropout),
    keras.layers.GaussianNoise,
)
"""Layers that act only where noise is on."""


_LOG = logging.getLogger(__name__)


def tell_of_noise(model: keras.Model) -> None:
    """Says, once per learner, that dropout and noise of its model are off."""
    names = [f"'{layer.name}'" for layer in model._flatten_layers() if _is_noisy(layer)]
    if names:
        _LOG.warning(
            "%s %s off while meta-learning, so that an inner step and its derivatives are of one "
            "function; MetaLearner(dropout='per_step') turns dropout and noise on.",
            ", ".join(names[:3]) + (", ..." if len(names) > 3 else ""),
            "is" if len(names) == 1 else "are",
        )


class Row(NamedTuple):
    """One layer."""

    layer: str  # its path
    kind: str  # its type
    weights: int  # numbers in its trainable and frozen weights
    runs: str  # "all tasks at once", or "one task at a time"
    learned: str  # what becomes of its weights
    notes: str


def rows(apply: Functional, adapts: Sequence[bool], *, noise: bool) -> list[Row]:
    """The layers in the order in which they are called.

    Args:
      apply: the model.
      adapts: of each trainable variable, whether the inner loop moves it.
      noise: whether dropout is on while meta-training.
    """
    moving = {id(v) for v, own in zip(apply.model.trainable_variables, adapts, strict=True) if own}
    seen: dict[int, Row] = {}
    for layer, by_rule, training in _calls(apply):
        if isinstance(layer, keras.Layer) and not isinstance(layer, keras.layers.InputLayer):
            seen.setdefault(id(layer), _row(layer, by_rule, training, moving, noise))
    return list(seen.values())


def text(
    apply: Functional,
    inner: InnerLoop,
    inner_steps: int,
    loss: Objective,
    noise: bool,
    running: bool = False,
) -> str:
    """A title and the table of layers.

    Args:
      apply: the model.
      inner: what adapts, and by which step sizes.
      inner_steps: S.
      loss: what the inner loop descends.
      noise: whether dropout is on while meta-training.
      running: whether running statistics are kept.
    """
    rule = type(inner.optimizer).__name__
    by = "" if isinstance(inner.optimizer, SGD) else f" by {rule}"
    size = "learned size" if inner.step_sizes else format(inner.step_size, "g")
    title = (
        f"'{apply.model.name}': {inner_steps} inner step{'s' * (inner_steps != 1)} of {size}{by}, "
        f"{'first' if inner.first_order else 'second'} order, loss {loss.name}"
    )
    if inner.rows:
        title += ", batch normalisations per step"
    if inner.head:
        title += ", heads of prototypes"
    if running:
        title += ", running statistics kept"
    return table(rows(apply, inner.adapts, noise=noise), title)


def table(lines: Sequence[Row], title: str) -> str:
    """The rows as text."""
    header = Row("layer", "type", 0, "runs", "weights are", "notes")
    cells = [(*r[:2], f"{r.weights:,}", *r[3:]) for r in lines]
    cells = [(*header[:2], "weights", *header[3:]), *cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([title, "", text[0], "-" * (sum(widths) + 2 * len(widths) - 2), *text[1:]])


def _calls(apply: Functional) -> Iterator[tuple[Any, bool, Any]]:
    """Layers that are called, whether by a rule, and what the graph says of training."""
    example = apply.example()
    if example is None:  # a subclassed model that does not say what it takes
        yield apply.model, False, None
        return
    weights = [tf.convert_to_tensor(v.value) for v in apply.model.trainable_variables]
    containers = (keras.Function, keras.Sequential)
    for layer, by_rule, training in apply.run(weights, example).calls:
        if not (by_rule and isinstance(layer, containers)):
            yield layer, by_rule, training


def _row(layer, by_rule: bool, training: Any, moving: set[int], noise: bool) -> Row:
    trained = [id(v) in moving for v in layer.trainable_variables]
    fates = ["frozen"] if layer.weights and not trained else []
    fates += ["adapted"] if any(trained) else []
    fates += ["meta-learned only"] if not all(trained) else []
    numbers = sum(int(tf.size(v)) for v in layer.weights)
    return Row(
        layer.path or layer.name,
        type(layer).__name__,
        numbers,
        "all tasks at once" if by_rule else "one task at a time",
        " and ".join(fates),
        _notes(layer, training, noise),
    )


def _notes(layer: keras.Layer, training: Any, noise: bool) -> str:
    inside = list(layer._flatten_layers())
    notes = []
    for sub in inside:
        if isinstance(sub, keras.layers.BatchNormalization):
            averages = uses_averages(sub, training)
            notes.append("moving averages" if averages else "each batch's own statistics")
        if _is_noisy(sub):
            on = noise and training is not False
            notes.append("on while meta-training" if on else "noise is off")
    return ", ".join(dict.fromkeys(notes))


def _is_noisy(layer: keras.Layer) -> bool:
    rates = (getattr(layer, name, 0.0) for name in ("rate", "dropout", "recurrent_dropout"))
    drops = any(isinstance(rate, float) and rate > 0 for rate in rates)
    return isinstance(layer, OFF) or (drops and not isinstance(layer, keras.Model))
