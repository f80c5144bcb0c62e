"""Checks of what users give, where it comes in: support sets, settings, activations.

Nothing here runs in a training step.

Shape letters: T tasks, B examples, N ways.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine import model_inputs
from maml_tf.engine.inner_optimizers import PLAIN
from maml_tf.engine.running_statistics import RunningStatistics
from maml_tf.objectives import labels
from maml_tf.objectives.base import BINARY, Objective
from maml_tf.supervised import prototypes
from maml_tf.types import Batch, Structure, Task

# --- sets of examples ---


def check_batch(support: object) -> None:
    """Refuses what are no stacked sets.

    Raises:
      ValueError: it is no `Batch`.
    """
    if not isinstance(support, Batch):
        raise ValueError(
            f"The support set is {arguments.shown(support)}; give Batch(x, y) of stacked tasks, "
            "x [T, B, ...]."
        )


def num_tasks(batch: Batch) -> int | tf.Tensor:
    """T of stacked sets, also where only the running graph knows it.

    Raises:
      ValueError: it is no `Batch`.
    """
    check_batch(batch)
    x = tf.nest.flatten(batch.x)[0]  # a model may have several inputs
    return x.shape[0] if x.shape[0] is not None else tf.shape(x)[0]


def running_of(learner: Any) -> RunningStatistics:
    """The running statistics of a learner.

    Raises:
      ValueError: it has none.
    """
    if getattr(learner, "running", None) is None:
        raise ValueError(
            "This learner has no running statistics: train one that was made with "
            "running_statistics=True, or choose other batch_statistics."
        )
    return learner.running


def check_dropout(dropout: str) -> None:
    """Refuses what says neither that dropout is off nor when its masks change.

    Raises:
      ValueError: says what there is.
    """
    if dropout not in ("off", "per_step"):
        raise ValueError(f"dropout must be 'off' or 'per_step', not {dropout!r}.")


def check_batch_statistics(learner: Any, chosen: Any, choices: Sequence[str]) -> None:
    """Refuses what is none of the choices, and running statistics where there are none.

    Raises:
      ValueError: names the choices, or says how to get some.
    """
    if chosen not in choices:
        words = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise ValueError(f"batch_statistics must be {words}, not {chosen!r}.")
    if chosen == "running":
        running_of(learner)


def support_set(
    model: keras.Model,
    loss: Objective,
    x: Structure,
    y: Structure,
    sample_weight: Any = None,
    mask: Any = None,
) -> Batch:
    """Checks one task's support set, and gives it a task axis.

    Args:
      model: that adapts.
      loss: that it descends.
      x: `[B, ...]` examples, or a structure of such.
      y: `[B]` class indices, or `[B, ...]` targets, or a structure of such.
      sample_weight: `[B]`, or None.
      mask: `[B]` booleans, or None; the examples of True are the set.

    Returns:
      `Batch` of tensors `[1, B, ...]`, without a mask; labels in the form that the loss takes.

    Raises:
      ValueError: it cannot be adapted to; says why.
    """
    inputs = getattr(model, "inputs", None) or [None]
    for name, value in ("x", x), ("y", y):
        _refuse_no_data(name, value)
    x = _arrays("x", x, structured=model_inputs.takes_several(model, x))
    several = loss.parts is not None or model_inputs.gives_several(model)
    y = _arrays("y", y, structured=several)
    _refuse_one_example(x, inputs)
    lengths = {"x": _lengths(x), "y": _lengths(y)}
    if lengths["x"] != lengths["y"] or len(lengths["x"]) > 1:
        said = " and ".join(f"{n} {'/'.join(map(str, sorted(v)))}" for n, v in lengths.items())
        raise ValueError(f"The support set's lengths differ ({said}); give one target an example.")
    (examples,) = lengths["x"]
    weights = () if sample_weight is None else _factor("sample_weight", sample_weight, examples)
    if mask is not None:
        there = _factor("mask", mask, examples)
        x, y, weights = tf.nest.map_structure(lambda a: a[there], (x, y, weights))
        examples = there.sum()
    if not examples:
        raise ValueError("The support set is empty; give at least one example.")
    for leaf in tf.nest.flatten(x):
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise ValueError("x holds numbers that are not finite (NaN or infinite).")
    x, y, weights = tf.nest.map_structure(lambda a: a[np.newaxis], (x, y, weights))
    y = labels.targets(loss, y, labels.output_shapes(model, x), "y")
    return Batch(*tf.nest.map_structure(tf.convert_to_tensor, (x, y, weights)))


def _factor(name: str, value: Any, examples: int) -> np.ndarray:
    """A sample weight, or a mask, of each example."""
    array = np.asarray(value)
    if array.shape != (examples,):
        raise ValueError(
            f"{name} has shape {array.shape} for {examples} examples; give one number an example."
        )
    if name == "mask" and array.dtype != bool:
        raise ValueError(f"mask is {array.dtype}; give booleans: mask != 0.")
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"{name} holds what is no finite number; give one number an example.")
    return array


def _refuse_no_data(name: str, value: Any) -> None:
    """Refuses what holds no array, or is a whole source of examples or tasks."""
    source = isinstance(value, (tf.data.Dataset, keras.utils.PyDataset, Iterator))
    batch = isinstance(value, (Batch, Task))
    sparse = isinstance(value, (tf.RaggedTensor, tf.SparseTensor))
    text = isinstance(value, (str, bytes))
    if source or batch or text or callable(value) or value is None:
        hint = ", such as one batch of it" if source else ""
    elif sparse:
        hint = ", as its method to_tensor or tf.sparse.to_dense makes"
    else:
        return
    raise ValueError(
        f"{name} is {arguments.shown(value)}; give an array of one task's examples, [examples, "
        f"...]{hint}."
    )


def _arrays(name: str, what: Any, *, structured: bool) -> Any:
    """Numbers of Python, NumPy or TensorFlow as arrays; a list is one array or several."""
    if isinstance(what, dict) or (structured and isinstance(what, (list, tuple))):
        names = what if isinstance(what, dict) else range(len(what))
        made = [_arrays(name, what[key], structured=False) for key in names]
        return dict(zip(names, made, strict=True)) if isinstance(what, dict) else tuple(made)
    try:
        # TensorFlow's types for numbers of Python: float32, int32.
        array = np.asarray(what if hasattr(what, "dtype") else tf.convert_to_tensor(what))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is {arguments.shown(what)}, which is no array; give one of "
            "numbers, and pad examples of different shapes."
        ) from error
    text = array.dtype.kind in "SU" or all(isinstance(v, (str, bytes)) for v in array.flat)
    if array.dtype.kind not in "biufV" and not text:
        raise ValueError(
            f"{name} holds {array.dtype}; convert it to numbers, such as x.astype('float32')."
        )
    if not array.ndim:
        raise ValueError(f"{name} is {array}, not several; give an array [examples, ...].")
    return array


def _lengths(structure: Any) -> set[int]:
    return {leaf.shape[0] if leaf.ndim else 0 for leaf in tf.nest.flatten(structure)}


def _refuse_one_example(x: Any, inputs: list[Any]) -> None:
    for leaf, wanted in zip(tf.nest.flatten(x), inputs, strict=False):
        shape: Any = getattr(wanted, "shape", None)
        alone = shape is not None and leaf.ndim == len(shape) - 1 and leaf.ndim > 0
        stacked = shape is not None and leaf.ndim == len(shape) + 1 and leaf.shape[-1] != 1
        if stacked and all(a in (None, b) for a, b in zip(shape[1:], leaf.shape[2:], strict=True)):
            raise ValueError(
                f"x of shape {leaf.shape} is a stack of tasks; give the set of one, [examples, "
                "...]: x[0] and y[0]."
            )
        if alone and all(a in (None, b) for a, b in zip(shape[1:], leaf.shape, strict=True)):
            raise ValueError(
                f"x of shape {leaf.shape} is one example; give a set, with a first axis for "
                "examples: x[None]."
            )


# --- settings ---

_USUAL = {"query_weight": 1.0, "dropout": "off", "inner_optimizer": PLAIN}
_USUAL |= {"head_initialization": "learned"}
"""Of settings that are neither None nor 0 nor False by default."""


def check_settings(learner: Any) -> None:
    """Compares a `MetaLearner`'s settings with each other, and with what kind of learner it is.

    Raises:
      ValueError: two contradict each other, or one does not go with the learner.
    """
    for name, why in learner.refused.items():
        if getattr(learner, name) not in (None, False, _USUAL.get(name)):
            raise ValueError(f"{type(learner).__name__} {why}; drop {name}.")
    replicas = learner.strategy.num_replicas_in_sync
    if learner.meta_batch_size % (replicas * learner.pieces):
        raise ValueError(
            f"A meta-batch of {learner.meta_batch_size} tasks does not divide into {replicas} "
            f"replicas x {learner.pieces} pieces; choose {_nearest(learner, replicas)}, or fewer "
            "pieces."
        )
    if replicas > 1:
        _refuse_branches(learner.optimizer)
    if learner.head_initialization == "prototypes":
        prototypes.check_loss(learner)
    if learner.running and learner.running.steps != learner.inner_steps:
        raise ValueError(
            f"The running statistics are of {learner.running.steps} inner steps, and inner_steps "
            f"is {learner.inner_steps}; make another learner."
        )
    if learner.multi_step_loss and not learner.inner_steps:
        raise ValueError("multi_step_loss weighs inner steps, and inner_steps is 0; drop it.")
    if learner.second_order_after and (learner.first_order or not learner.inner_steps):
        why = "first_order is True" if learner.first_order else "inner_steps is 0"
        raise ValueError(f"Nothing becomes of second order, for {why}; drop second_order_after.")


def _refuse_branches(optimizer: Any) -> None:
    """Refuses what Keras decides at each update, which replicas cannot do together.

    Raises:
      ValueError: names the optimizer's argument.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for name in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        if getattr(optimizer, name, None):
            raise ValueError(
                f"{type(optimizer).__name__}({name}=...) decides at each update what it does, "
                "which several replicas cannot do together; leave it out, or the strategy."
            )


def _nearest(learner: Any, replicas: int) -> str:
    """The nearest numbers of tasks that divide."""
    each = replicas * learner.pieces
    below = learner.meta_batch_size // each * each
    return " or ".join(str(number) for number in (below, below + each) if number)


# --- activations ---


def warn_of_activations(model: keras.Model, loss: Objective, metric: Objective) -> None:
    """Compares a model's last activations, where they are known, with what the loss takes.

    Raises:
      ValueError: the loss takes logits, and the outputs are probabilities.
    """
    made = getattr(getattr(model, "_functional", None) or model, "_outputs_struct", None)
    if made is None:
        return
    known = tf.nest.map_structure(_activation, made)
    pairs = [(loss, known)]
    if loss.parts is not None:
        try:
            pairs = [(p.objective, p.outputs) for p in loss.parts.pieces(known, known)]
        except ValueError:  # said where the targets are known
            pairs = []
    for one, activation in pairs:
        if one.from_logits and activation in ("softmax", "sigmoid"):
            raise ValueError(
                f"The model ends in a {activation}, and '{one.name}' takes logits; leave the "
                "activation out, or take a Keras loss with from_logits=False."
            )
        if one.from_logits is False and activation == "linear":
            warnings.warn(
                f"'{one.name}' takes probabilities, and the model's outputs have no activation; "
                "give the last layer a softmax or sigmoid, or the loss from_logits=True.",
                stacklevel=5,
            )
    if loss.from_logits and loss.labels == BINARY and metric.threshold == 0.5:
        warnings.warn(
            f"The metric '{metric.name}' counts an output above 0.5 as 1, and the loss takes "
            "logits; give keras.metrics.BinaryAccuracy(threshold=0).",
            stacklevel=5,
        )


def _activation(output: Any) -> str:
    """'softmax', 'sigmoid' or 'linear' where the output comes straight from it, else ''."""
    operation, _, index = output._keras_history
    inner: Any = getattr(operation, "outputs", None)
    if isinstance(operation, keras.Model) and inner:
        return _activation(inner[index])
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    function = getattr(operation, "activation", None)
    if function is None:
        return ""
    known = {getattr(keras.activations, n): n for n in ("softmax", "sigmoid", "linear")}
    return known.get(function, "") if callable(function) else ""
