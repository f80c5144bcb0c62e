"""Runs an ordinary Keras model on explicit weights, with a task axis.

`functional(model)(weights, x)` is `model(x)` with `weights` in place of the model's own, for T
tasks at once: `x [T, B, ...]` and each weight shared `[*shape]` or stacked `[T, *shape]`. Keras'
own `stateless_call` refuses values whose shape differs from the variable's, so each layer type has
a small rule (`layer_rules.py` and its neighbours) that says how it runs on stacked weights. A layer
without a rule falls back to its own call, one task at a time (`single_task.py`): slower, as right.

Shape letters: T tasks, B examples per task, C channels.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine import penalties
from maml_tf.engine.model_inputs import matched
from maml_tf.engine.pooling import exact_pooling
from maml_tf.engine.run import Run, Statistics, has_rule, stacked
from maml_tf.engine.task_axis import with_mask
from maml_tf.types import Weights

_KERAS_WORDS = "Exception encountered when calling"
"""How Keras begins what it says of an error inside a layer."""


class Result(NamedTuple):
    """What one call of a model gave."""

    outputs: Any  # [T, B, ...], or a structure of such
    statistics: Statistics
    penalty: tf.Tensor | None  # [T]: what the model adds to its loss, or None for nothing
    calls: list[tuple[Any, bool, Any]]  # layers and operations, whether by a rule, and `training`
    entered: Sequence[Any] = ()  # what a watched layer was given, one a call


class Functional:
    """A Keras model as a pure function of its weights; an `ApplyFn`.

    Batch normalisation uses the statistics of each task's current batch (the paper's transductive
    setting) unless `statistics` are given, it is frozen, or the model calls it with
    `training=False`. Dropout and noise are off unless `noise` is given: the meta-gradient
    differentiates through the inner step, and both must see one function.
    """

    def __init__(self, model: keras.Model):
        """Use `functional`, which checks the model."""
        self.model = model
        self._trainable = _trainable(model)

    def __call__(
        self,
        weights: Weights,
        x: Any,
        *,
        statistics: Statistics | None = None,
        mask: Any = (),
    ) -> Any:
        """Returns the outputs `[T, B, ...]` for `x [T, B, ...]`; see `run` for the arguments."""
        return self.run(weights, x, statistics=statistics, mask=mask).outputs

    def statistics(self, weights: Weights, x: Any, *, mask: Any = ()) -> Statistics:
        """Returns the batch statistics that `x [T, B, ...]` gives under `weights`."""
        return self.run(weights, x, mask=mask).statistics

    def refuse_changes(self) -> None:
        """Refuses a model some of whose layers were frozen or unfrozen since.

        Raises:
          ValueError: names them.
        """
        now = _trainable(self.model)
        changed = sorted({name for name, _ in now.symmetric_difference(self._trainable)})
        if changed:
            raise ValueError(
                f"Of '{self.model.name}', the layers {', '.join(changed)} were frozen or unfrozen "
                "since the learner was made, which it cannot follow; make another learner."
            )

    def example(self) -> Any:
        """One task of one example of zeros; None where the model does not say what it takes."""
        graph = getattr(self.model, "_functional", self.model)
        if not isinstance(graph, keras.Function):
            return None
        zeros = tf.nest.map_structure(_one_example, graph._inputs_struct)
        return tf.nest.map_structure(lambda x: x[None], zeros)

    def fall_backs(self, weights: Weights, x: Any) -> list[tuple[Any, tuple, dict, Run]]:
        """What has no rule, with the arguments that it is called with on `x`, eagerly."""
        if all(has_rule(layer) for layer in [self.model, *self.model._flatten_layers()]):
            return []
        run = Run(dict(zip(map(id, self.model.trainable_variables), weights, strict=True)))
        run.num_tasks, run.alone_with = _num_tasks(x), []
        with _in_one_line(self.model, x):
            run.call(self.model, tf.nest.map_structure(_tensor, x))
        return [(*call, run) for call in run.alone_with]

    def run(
        self,
        weights: Weights,
        x: Any,
        *,
        statistics: Statistics | None = None,
        mask: Any = (),
        noise: tf.Tensor | None = None,
        watch: keras.Layer | None = None,
    ) -> Result:
        """Runs the model.

        Args:
          weights: one for each trainable variable of the model, shared or stacked.
          x: `[T, B, ...]`, or what structure of such the model takes.
          statistics: for batch normalisations, instead of those of `x`.
          mask: `[T, B]` bool: False for an example that only pads a set.
          noise: int32 `[2]`, a seed: dropout and noise are on, and a function of it alone.
          watch: a layer whose inputs are wanted; it is not seen inside a layer without a rule.

        Returns:
          `Result`.

        Raises:
          ValueError: weights or inputs do not fit the model, or a layer cannot be meta-learned.
        """
        variables = self.model.trainable_variables
        x = tf.nest.map_structure(_tensor, x)
        if not isinstance(weights, (list, tuple)):
            raise ValueError(
                f"The weights are {arguments.shown(weights)}; give a list of tensors, one a "
                "trainable variable."
            )
        if len(weights) != len(variables):
            raise ValueError(
                f"'{self.model.name}' has {len(variables)} trainable weights; got {len(weights)}. "
                "If layers were frozen or unfrozen since, make the learner again."
            )
        _check_shapes(variables, weights)
        values = dict(zip(map(id, variables), weights, strict=True))
        run = Run(values, statistics, mask=None if _absent(mask) else mask, noise=noise)
        run.num_tasks, run.watched = _num_tasks(x), watch
        with exact_pooling(), _in_one_line(self.model, x):
            outputs = run.call(self.model, x)
        penalty = penalties.total(run, variables)
        return Result(outputs, run.statistics, penalty, run.calls, run.entered)


def functional(model: keras.Model) -> Functional:
    """Turns a Keras model into a function of (weights, x).

    Args:
      model: a built Keras 3 model, Sequential, functional or subclassed; it is not changed. A
        subclassed model has no graph to walk and runs whole through the fall-back.

    Returns:
      A callable `(weights, x [T, B, ...], *, statistics=None) -> outputs [T, B, ...]`.

    Raises:
      ValueError: the model has no trainable weights.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"The model must be a built keras.Model, not {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"'{model.name}' has no weights yet: build it first, e.g. with a keras.Input."
        )
    graph = getattr(model, "_functional", model)
    if isinstance(graph, keras.Function) and not all(sub.built for sub in model._flatten_layers()):
        # A layer inside another, such as `Activation(PReLU())`, may wait for its first call.
        model(tf.nest.map_structure(_one_example, graph._inputs_struct))
    if not model.trainable_variables:
        raise ValueError(
            f"'{model.name}' has no trainable weights: unfreeze a layer (layer.trainable = True), "
            "or add one that is trained, such as a Dense head."
        )
    return Functional(model)


@stacked.register(keras.Sequential)
def _sequential(model, x, run, *, mask=None):
    if model._functional is not None:
        return _graph(model._functional, x, run, mask=mask)
    _attach(x, mask)
    for layer in model.layers:
        x = run.call(layer, x)
    return x


@stacked.register(keras.Function)
def _graph(model, x, run, *, mask=None):
    _attach(x, mask)
    # The hook that `keras.models.clone_model` walks a functional model with.
    outputs = model._run_through_graph(
        matched(model, x), lambda operation: functools.partial(run.call, operation)
    )
    # As Keras' own call: a list of one is that one.
    single = isinstance(outputs, (list, tuple)) and len(outputs) == 1
    return outputs[0] if single else outputs


def _attach(x: Any, mask: Any) -> None:
    if mask is not None:
        for tensor, own in zip(tf.nest.flatten(x), tf.nest.flatten(mask), strict=True):
            with_mask(tensor, own)


def _trainable(model: keras.Model) -> set[tuple[str, bool]]:
    """Each layer with weights, by its path, and whether it is trained."""
    return {
        (f"'{layer.path or layer.name}'", bool(layer.trainable))
        for layer in model._flatten_layers()
        if layer._trainable_variables or isinstance(layer, keras.layers.BatchNormalization)
    }


@contextlib.contextmanager
def _in_one_line(model: keras.Model, x: Any) -> Iterator[None]:
    """Puts what Keras says of a model's call, in several lines, into one."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith(_KERAS_WORDS):
            raise
        said = str(error).partition("\n")[2].partition("Arguments received")[0]
        said = " ".join(re.sub(r"\x1b\[\d+m", "", said).split()).rstrip(".")[:200]
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tf.nest.flatten(x))
        built = (model.get_build_config() or {}).get("input_shape")
        raise ValueError(
            f"'{model.name}' does not take x of shape {shapes}, [tasks, examples, ...] ({said}); "
            f"give examples as it was built with{f': {built}' if built else ''}."
        ) from error


def _check_shapes(variables: list[keras.Variable], weights: Any) -> None:
    """Refuses weights that are neither shared `[*shape]` nor stacked `[T, *shape]`."""
    for variable, weight in zip(variables, weights, strict=True):
        shape = getattr(weight, "shape", None)
        if not isinstance(shape, (tf.TensorShape, tuple)):
            continue
        own = variable.shape
        fits = [tf.TensorShape(some).is_compatible_with(shape) for some in (own, (None, *own))]
        if not any(fits):
            raise ValueError(
                f"A weight of shape {tuple(shape)} is given for '{variable.path}' of shape "
                f"{tuple(own)}; give {tuple(own)}, or a stack of such, one a task."
            )


def _tensor(x: Any) -> tf.Tensor:
    try:
        return x if tf.is_tensor(x) else tf.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"x is {arguments.shown(x)}, which is no array; give x [tasks, examples, ...]."
        ) from error


def _one_example(reference: keras.KerasTensor) -> tf.Tensor:
    return tf.zeros([1 if n is None else n for n in reference.shape], reference.dtype)


def _absent(structure: Any) -> bool:
    return structure is None or not tf.nest.flatten(structure)


def _num_tasks(x: Any) -> int | tf.Tensor:
    first = tf.nest.flatten(x)[0]
    if first.shape.rank is not None and first.shape.rank == 0:
        raise ValueError("The inputs need a task axis: x [T, B, ...].")
    return first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
