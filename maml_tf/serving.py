"""What an exported model computes: the learner for one task, as a `tf.Module` (see export.py).

Shape letters: B examples in a set, N ways, C channels. One task, no task axis.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from maml_tf.adaptation import adapt_for, stack
from maml_tf.functional import BatchStatistics
from maml_tf.meta_learner import MetaLearner
from maml_tf.objectives import INDICES
from maml_tf.saved_models import given_or_learned, unique_names
from maml_tf.types import Batch

NO_STATISTICS = "transductive=False needs the statistics of a support set: call adapt first"


class Interface(NamedTuple):
    """What goes in and comes out."""

    x: tf.TensorSpec  # [None, ...]
    y: tf.TensorSpec  # [None] class indices, or [None, ...] targets
    outputs: tuple[int, ...]  # the shape of one example's
    ways: int | None  # N, where y is known to be class indices
    weights: tuple[tf.TensorSpec, ...]  # trainable weights, then batch statistics; named


class Servable(tf.Module):
    """Holds what is saved: variables, and the functions that `compiled` adds."""

    def __init__(self, learner: MetaLearner, target: tf.TensorSpec | None = None):
        """Reads the learner's weights as they are now; see `export` for the arguments."""
        super().__init__(name="maml")
        self._learner = learner
        values = learner.initial_weights()
        self.interface = _interface(learner, values, target)
        names = [spec.name for spec in self.interface.weights]
        self._weight_names, self._statistic_names = names[: len(values)], names[len(values) :]
        self.initial = {n: tf.Variable(v, name=n) for n, v in zip(names, values, strict=False)}
        moving = [n for n, own in zip(self._weight_names, learner.adapts, strict=True) if own]
        self.step_sizes = {
            name: tf.Variable(alpha.value, name=f"{name}_step_size")
            for name, alpha in zip(moving, learner.step_sizes, strict=False)
        }
        self.frozen = _frozen_variables(learner.model)

    def weights_before(self) -> dict[str, tf.Tensor]:
        """The meta-learned weights; no support set was seen, hence statistics of NaN."""
        weights = {name: tf.convert_to_tensor(v) for name, v in self.initial.items()}
        unseen = self.interface.weights[len(weights) :]
        return weights | {s.name: tf.fill(s.shape, tf.cast(math.nan, s.dtype)) for s in unseen}

    def weights_after(self, support_x, support_y, steps, step_size) -> dict[str, tf.Tensor]:
        """Weights after `steps` steps on a support set, and its batch statistics under them."""
        learner = self._learner
        _check_inputs(support_y, steps, self.interface.ways)
        support = Batch(support_x[None], support_y[None])
        weights, _ = adapt_for(
            learner.task_loss,
            stack([tf.convert_to_tensor(v) for v in self.initial.values()], 1, learner.adapts),
            support,
            steps,
            step_size=given_or_learned(step_size, self.initial, self.step_sizes),
            adapts=learner.adapts,
        )
        seen = learner.apply.statistics(weights, support.x)
        values = [w[0] if own else w for w, own in zip(weights, learner.adapts, strict=True)]
        values += [moment[0] for s in seen for moment in (s.mean, s.variance)]
        return {s.name: value for s, value in zip(self.interface.weights, values, strict=True)}

    def outputs(self, x, weights, transductive) -> tf.Tensor:
        """Predictions `[B, ...]` for `x [B, ...]`."""
        apply = self._learner.apply
        values = [weights[name] for name in self._weight_names]
        moments = [weights[name][None] for name in self._statistic_names]

        def by_batch():
            return apply(values, x[None])[0]

        def by_support():
            known = [tf.debugging.assert_all_finite(m, NO_STATISTICS) for m in moments]
            pairs = zip(known[::2], known[1::2], strict=True)
            return apply(values, x[None], statistics=[BatchStatistics(None, *p) for p in pairs])[0]

        return tf.cond(transductive, by_batch, by_support) if moments else by_batch()


def compiled(servable: Servable, steps: int, step_size: float) -> dict[str, Any]:
    """Gives `servable` its compiled functions, and returns its signatures."""
    x, y = servable.interface.x, servable.interface.y
    weights = {spec.name: spec for spec in servable.interface.weights}
    count, size, switch = (tf.TensorSpec([], t) for t in (tf.int32, tf.float32, tf.bool))
    # Tensors, for only those become defaults of a signature.
    steps, step_size = tf.constant(steps, tf.int32), tf.constant(step_size, tf.float32)
    yes = tf.constant(True)

    # Autograph would rewrite the engine function by function, at ten times the tracing time.
    @tf.function(autograph=False, input_signature=[])
    def initial_weights():
        return servable.weights_before()

    @tf.function(autograph=False, input_signature=[x, y, count, size])
    def adapt(support_x, support_y, steps=steps, step_size=step_size):
        return servable.weights_after(support_x, support_y, steps, step_size)

    @tf.function(autograph=False, input_signature=[x, weights, switch])
    def predict(x, weights, transductive=yes):
        return servable.outputs(x, weights, transductive)

    @tf.function(autograph=False, input_signature=[x, y, x, count, size, switch])
    def adapt_and_predict(
        support_x, support_y, query_x, steps=steps, step_size=step_size, transductive=yes
    ):
        return predict(query_x, adapt(support_x, support_y, steps, step_size), transductive)

    servable.initial_weights, servable.adapt = initial_weights, adapt
    servable.predict, servable.adapt_and_predict = predict, adapt_and_predict
    return {
        "initial_weights": initial_weights,
        "adapt": adapt,
        "predict": _named(predict),
        "adapt_and_predict": _named(adapt_and_predict),
    }


def _named(function: Any) -> Any:
    """`function`, whose one result a signature calls "predictions"."""

    @functools.wraps(function.python_function)
    def named(*args, **kwargs):
        return {"predictions": function(*args, **kwargs)}

    return tf.function(named, autograph=False, input_signature=function.input_signature)


def _check_inputs(support_y: tf.Tensor, steps: tf.Tensor, ways: int | None) -> None:
    """Asserts in the graph; XLA leaves that out, and such a label then belongs to no class."""
    tf.debugging.assert_non_negative(steps, "steps must be 0 or more")
    if ways is not None:
        message = f"support_y must be class indices 0 ... {ways - 1}"
        tf.debugging.assert_non_negative(support_y, message)
        tf.debugging.assert_less(support_y, tf.constant(ways, support_y.dtype), message)


def _interface(learner: MetaLearner, weights, target: tf.TensorSpec | None) -> Interface:
    """Runs one example of zeros, to see what comes out and which statistics there are."""
    model, x = learner.model, _input_spec(learner.model)
    zeros = tf.zeros([1, 1, *x.shape[1:]], x.dtype)
    outputs, seen = learner.apply(weights, zeros), learner.apply.statistics(weights, zeros)
    if not tf.is_tensor(outputs):
        raise ValueError(f"'{model.name}' must give one tensor to be exported.")
    shape, classifies = tuple(outputs.shape[2:]), learner.loss.labels == INDICES
    if target is None and classifies:
        target = tf.TensorSpec([None, *shape[:-1]], tf.int32)
    elif target is None:
        target = tf.TensorSpec([None, *shape], outputs.dtype)
    paths = [v.path.removeprefix(f"{model.name}/") for v in model.trainable_variables]
    paths += [f"{s.layer.name}/{moment}" for s in seen for moment in ("mean", "variance")]
    values = [*weights, *(moment[0] for s in seen for moment in (s.mean, s.variance))]
    named = zip(unique_names(paths, ("x", "transductive")), values, strict=True)
    specs = tuple(tf.TensorSpec(value.shape, value.dtype, name) for name, value in named)
    checks_labels = classifies and learner.loss.ignored is None
    return Interface(x, target, shape, shape[-1] if checks_labels else None, specs)


def _input_spec(model: keras.Model) -> tf.TensorSpec:
    """The model's input `[None, ...]`."""
    inputs = getattr(model, "inputs", None)
    if inputs:
        shape, dtype = inputs[0].shape if len(inputs) == 1 else None, inputs[0].dtype
    else:
        # A subclassed model has no symbolic inputs, but remembers what it was built with.
        shape, dtype = (model.get_build_config() or {}).get("input_shape"), model.input_dtype
    if not isinstance(shape, (list, tuple)) or any(isinstance(n, (list, tuple)) for n in shape):
        raise ValueError(f"'{model.name}' must take one tensor, of known shape, to be exported.")
    if None in shape[1:]:
        raise ValueError(
            f"'{model.name}' takes examples of shape {tuple(shape[1:])}, in part known only at run "
            "time; to export it, build it with a keras.Input of one size."
        )
    return tf.TensorSpec([None, *shape[1:]], dtype)


def _frozen_variables(model: keras.Model) -> list[tf.Variable]:
    """What the graph may read beside trainable weights: all but moving averages, never used."""
    layers = model._flatten_layers()
    normalizations = [v for v in layers if isinstance(v, keras.layers.BatchNormalization)]
    unused = {id(v) for layer in normalizations for v in layer.non_trainable_variables}
    return [v.value for v in model.non_trainable_variables if id(v) not in unused]
