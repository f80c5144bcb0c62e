"""What an exported model computes: the learner for one task, as a `tf.Module` (see export.py).

Shape letters: B examples in a set, N ways, C channels. One task, no task axis.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from maml_tf.adaptation import adapt_for, stack
from maml_tf.meta_learner import MetaLearner
from maml_tf.run import BatchStatistics
from maml_tf.saved_models import given_or_learned
from maml_tf.serving_interface import frozen_variables, interface, named, tables
from maml_tf.types import Batch

WHOLE = "support_y must be whole numbers"
NO_STATISTICS = "transductive=False needs the statistics of a support set: call adapt first"


class Servable(tf.Module):
    """Holds what is saved: variables, and the functions that `compiled` adds."""

    def __init__(self, learner: MetaLearner, inputs: Any = None, target: Any = None):
        """Reads the learner's weights as they are now; see `export` for the arguments."""
        super().__init__(name="maml")
        self._learner = learner
        learner.apply.refuse_changes()
        values = learner.initial_weights()
        self.interface = interface(learner, values, inputs, target)
        names = [spec.name for spec in self.interface.weights]
        self._weight_names, self._statistic_names = names[: len(values)], names[len(values) :]
        self.initial = {n: tf.Variable(v, name=n) for n, v in zip(names, values, strict=False)}
        moving = [n for n, own in zip(self._weight_names, learner.adapts, strict=True) if own]
        self.step_sizes = {
            name: tf.Variable(alpha.value, name=f"{name}_step_size")
            for name, alpha in zip(moving, learner.step_sizes, strict=False)
        }
        self.frozen = frozen_variables(learner.model)
        self.tables = tables(learner.model)

    def weights_before(self) -> dict[str, tf.Tensor]:
        """The meta-learned weights; no support set was seen, hence statistics of NaN."""
        weights = {name: tf.convert_to_tensor(v) for name, v in self.initial.items()}
        unseen = self.interface.weights[len(weights) :]
        return weights | {s.name: tf.fill(s.shape, tf.cast(math.nan, s.dtype)) for s in unseen}

    def weights_after(self, support_x, support_y, steps, step_size) -> dict[str, tf.Tensor]:
        """Weights after `steps` steps on a support set, and its batch statistics under them."""
        learner = self._learner
        _check_inputs(support_y, steps, self.interface.ways)
        support_y = self.interface.targets(support_y)
        support = _with_task_axis(Batch(support_x, support_y))
        weights, _ = adapt_for(
            learner.task_loss,
            stack([tf.convert_to_tensor(v) for v in self.initial.values()], 1, learner.adapts),
            support,
            steps,
            step_size=given_or_learned(step_size, self.initial, self.step_sizes),
            adapts=learner.adapts,
            constrain=learner.constrain,
        )
        seen = learner.apply.statistics(weights, support.x)
        values = [w[0] if own else w for w, own in zip(weights, learner.adapts, strict=True)]
        values += [moment[0] for s in seen for moment in (s.mean, s.variance)]
        return {s.name: value for s, value in zip(self.interface.weights, values, strict=True)}

    def outputs(self, x, weights, transductive) -> Any:
        """Predictions `[B, ...]` for `x [B, ...]`, or a dictionary of such by output."""
        apply = self._learner.apply
        values = [weights[name] for name in self._weight_names]
        moments = [weights[name][None] for name in self._statistic_names]

        def run(**options):
            outputs = self.interface.by_name(apply(values, _with_task_axis(x), **options))
            return tf.nest.map_structure(lambda y: y[0], outputs)

        def by_batch():
            return run()

        def by_support():
            known = [tf.debugging.assert_all_finite(m, NO_STATISTICS) for m in moments]
            pairs = zip(known[::2], known[1::2], strict=True)
            return run(statistics=[BatchStatistics(None, *p) for p in pairs])

        return tf.cond(transductive, by_batch, by_support) if moments else by_batch()


def compiled(servable: Servable, steps: int, step_size: float) -> dict[str, Any]:
    """Gives `servable` its compiled functions, and returns its signatures."""
    x, y = servable.interface.x, servable.interface.y
    weights = {spec.name: spec for spec in servable.interface.weights}
    count, size, switch = (tf.TensorSpec([], t) for t in (tf.int32, tf.float32, tf.bool))
    # Tensors, for only those become defaults of a signature; numbers, which go with any type.
    usual_steps, usual_size = steps, step_size
    steps, step_size = tf.constant(steps, tf.int32), tf.constant(step_size, tf.float32)
    yes = tf.constant(True)

    # Autograph would rewrite the engine function by function, at ten times the tracing time.
    @tf.function(autograph=False, input_signature=[])
    def initial_weights():
        return servable.weights_before()

    support_x, support_y = named(x, "support_x", "support_"), named(y, "support_y", "support_y_")
    query_x = named(x, "query_x", "query_")
    about, query_x_spec = [support_x, support_y], query_x

    @tf.function(autograph=False, input_signature=[*about, count, size])
    def adapt(support_x, support_y, steps=steps, step_size=step_size):
        return servable.weights_after(support_x, support_y, steps, step_size)

    @tf.function(autograph=False, input_signature=[named(x, "x", ""), weights, switch])
    def predict(x, weights, transductive=yes):
        return servable.outputs(x, weights, transductive)

    @tf.function(autograph=False, input_signature=[*about, query_x, count, size, switch])
    def adapt_and_predict(
        support_x, support_y, query_x, steps=steps, step_size=step_size, transductive=yes
    ):
        return predict(query_x, adapt(support_x, support_y, steps, step_size), transductive)

    # What Python calls: any type of tensor, cast for the functions above.
    any_x, any_y, query = (_types(specs) for specs in (support_x, support_y, query_x))
    numbers = [(count, size), (_like(count, tf.int64), _like(size, tf.float64))]

    @_accepting(_each(any_x), _each(any_y), numbers)
    def adapt_any(support_x, support_y, steps=usual_steps, step_size=usual_size):
        given = (support_x, support_y, steps, step_size)
        return adapt(*_cast(given, (*about, count, size)))

    @_accepting(_each(_types(named(x, "x", ""))), [(weights, switch)])
    def predict_any(x, weights, transductive=True):
        return predict(_cast(x, named(servable.interface.x, "x", "")), weights, transductive)

    @_accepting(_each(any_x), _each(any_y), _each(query), numbers, [(switch,)])
    def adapt_and_predict_any(
        support_x, support_y, query_x, steps=usual_steps, step_size=usual_size, transductive=True
    ):
        given = (support_x, support_y, query_x, steps, step_size)
        cast = _cast(given, (*about, query_x_spec, count, size))
        return adapt_and_predict(*cast, transductive)

    servable.initial_weights, servable.adapt = initial_weights, adapt_any
    servable.predict, servable.adapt_and_predict = predict_any, adapt_and_predict_any
    return {
        "initial_weights": initial_weights,
        "adapt": adapt,
        "predict": _named(predict),
        "adapt_and_predict": _named(adapt_and_predict),
    }


_TYPES = {
    tf.float32: (tf.float32, tf.float64),
    tf.int32: (tf.int32, tf.int64, tf.float32, tf.float64),
    tf.int64: (tf.int64, tf.int32),
}
"""Types that are cast to one that a function takes."""


def _types(specs: Any) -> list[Any]:
    """Specifications like these, in every type that may be given instead."""
    flat = tf.nest.flatten(specs)
    alike = max((_TYPES.get(s.dtype, (s.dtype,)) for s in flat), key=len)
    if len({s.dtype for s in flat}) > 1:  # all as they are, or all floats twice as wide
        alike = _TYPES[tf.float32]
    return [
        tf.nest.map_structure(
            # Of any shape, so that another is refused by `_cast`, in a sentence.
            lambda s, t=dtype: tf.TensorSpec(
                None, t if t in _TYPES.get(s.dtype, ()) else s.dtype, s.name
            ),
            specs,
        )
        for dtype in alike
    ]


def _each(specs: list[Any]) -> list[tuple[Any]]:
    return [(spec,) for spec in specs]


def _like(spec: tf.TensorSpec, dtype: tf.DType) -> tf.TensorSpec:
    return tf.TensorSpec(spec.shape, dtype)


def _accepting(*choices: list[tuple]) -> Callable[[Callable], Any]:
    """A function that is traced for every choice of its arguments' types, given in groups.

    TensorFlow's loader takes a call that fits one of the traces; it casts nothing by itself.
    """

    def traced(function: Callable) -> Any:
        compiled = tf.function(function, autograph=False)
        names = list(inspect.signature(function).parameters)
        for specs in itertools.product(*choices):
            flat = itertools.chain(*specs)
            given = [_named_after(s, name) for s, name in zip(flat, names, strict=True)]
            compiled.get_concrete_function(*given)
        return compiled

    return traced


def _named_after(specs: Any, name: str) -> Any:
    if not isinstance(specs, tf.TensorSpec):
        return specs
    return tf.TensorSpec(specs.shape, specs.dtype, name)


def _cast(given: Any, specs: Any) -> Any:
    """Tensors in the types of their specifications; of other shapes, or labels like 1.5, none."""

    def cast(x, spec):
        shape = spec.shape[1:].as_list() if spec.shape.rank else []
        if spec.shape.rank and None not in shape:
            message = f"{spec.name} takes [examples, *shape] with shape {tuple(shape)}, not"
            fits = _fits(x, shape)
            with tf.control_dependencies([tf.debugging.Assert(fits, [message, tf.shape(x)])]):
                # A choice, lest the wrong shape be met by TensorFlow's own words before.
                x = tf.cond(fits, lambda: x, lambda: tf.zeros([0, *shape], x.dtype))
        if x.dtype.is_floating and spec.dtype.is_integer:
            whole = tf.debugging.Assert(tf.reduce_all(x == tf.floor(x)), [WHOLE, x])
            with tf.control_dependencies([whole]):
                x = tf.identity(x)
        return tf.ensure_shape(tf.cast(x, spec.dtype), spec.shape)

    return tf.nest.map_structure(cast, given, specs)


def _fits(x: tf.Tensor, shape: list[int]) -> tf.Tensor:
    """Whether `x` is `[examples, *shape]`."""
    return tf.cond(
        tf.rank(x) == 1 + len(shape),
        lambda: tf.reduce_all(tf.shape(x)[1:] == tf.constant(shape, tf.int32)),
        lambda: tf.constant(False),
    )


def _named(function: Any) -> Any:
    """`function`, whose result, if it is one, a signature calls "predictions"."""

    @functools.wraps(function.python_function)
    def by_name(*args, **kwargs):
        outputs = function(*args, **kwargs)
        return outputs if isinstance(outputs, dict) else {"predictions": outputs}

    return tf.function(by_name, autograph=False, input_signature=function.input_signature)


def _with_task_axis(structure: Any) -> Any:
    return tf.nest.map_structure(lambda a: a[None], structure)


def _check_inputs(support_y: tf.Tensor, steps: tf.Tensor, ways: int | None) -> None:
    """Asserts in the graph; XLA leaves that out, and such a label then belongs to no class."""
    tf.debugging.assert_non_negative(steps, "steps must be 0 or more")
    if ways is not None:
        message = f"support_y must be class indices 0 ... {ways - 1}"
        tf.debugging.assert_non_negative(support_y, message)
        tf.debugging.assert_less(support_y, tf.constant(ways, support_y.dtype), message)
