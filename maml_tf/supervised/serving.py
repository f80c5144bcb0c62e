"""What an exported model computes: the learner for one task, as a `tf.Module` (see export.py).

Shape letters: B examples in a set, N ways, C channels. One task, no task axis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from maml_tf.engine.run import BatchStatistics, Statistics
from maml_tf.engine.served_weights import (
    given_or_learned,
    served_rows,
    served_running,
    served_variables,
)
from maml_tf.supervised import serving_arguments as arguments
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.supervised.checks import running_of
from maml_tf.supervised.serving_interface import frozen_variables, interface, named, tables
from maml_tf.types import Batch, Specs, Structure

NO_STATISTICS = "transductive=False needs the statistics of a support set: call adapt first"


class ServedLearner(tf.Module):
    """Holds what is saved: variables, and the functions that `compiled` adds."""

    def __init__(
        self,
        learner: AdaptiveModel,
        inputs: Specs | None = None,
        target: Specs | None = None,
        *,
        running: bool = False,
        copied: bool = True,
    ):
        """Copies the learner's weights as they are now, or not; see `export.servable`."""
        super().__init__(name="maml")
        self._learner = learner
        learner.apply.refuse_changes()
        values = learner.initial_weights()
        self.interface = interface(learner, values, inputs, target)
        names = [spec.name for spec in self.interface.weights]
        self._weight_names, self._statistic_names = names[: len(values)], names[len(values) :]
        self.initial, self.step_sizes = served_variables(
            learner.inner, self._weight_names, copied=copied
        )
        self.rows = served_rows(learner.inner, self._weight_names, copied=copied)
        self.running = served_running(running_of(learner), copied=copied) if running else None
        self.frozen = frozen_variables(learner.model)
        self.tables = tables(learner.model)

    def weights_before(self) -> dict[str, tf.Tensor]:
        """The meta-learned weights; no support set was seen, hence its statistics are NaN."""
        weights = {name: tf.convert_to_tensor(v) for name, v in self.initial.items()}
        if self.running:
            return weights | dict(zip(self._statistic_names, self._running_after(0), strict=True))
        unseen = self.interface.weights[len(weights) :]
        return weights | {s.name: tf.fill(s.shape, tf.cast(math.nan, s.dtype)) for s in unseen}

    def weights_after(self, support_x, support_y, steps, step_size) -> dict[str, tf.Tensor]:
        """Weights after `steps` steps on a support set, and batch statistics to predict with."""
        learner = self._learner
        _check_inputs(support_y, steps, self.interface.ways)
        support = _with_task_axis(
            Batch(self.interface.examples(support_x), self.interface.targets(support_y))
        )
        values = [tf.convert_to_tensor(v) for v in self.initial.values()]
        weights, _ = learner.inner.loop(
            learner.task_loss,
            learner.inner.stacked(1, values, support),
            support,
            steps,
            step_size=given_or_learned(learner.inner, step_size, self.step_sizes),
            own=learner.inner.of_steps([tf.convert_to_tensor(v) for v in self.rows]),
        )
        values = [w[0] if own else w for w, own in zip(weights, learner.adapts, strict=True)]
        if self.running:
            values += self._running_after(steps)
        else:
            values += _flat(learner.apply.statistics(weights, support.x))
        return {s.name: value for s, value in zip(self.interface.weights, values, strict=True)}

    def _running_after(self, steps) -> list[tf.Tensor]:
        """The running statistics for a pass after so many steps, in the order of their names."""
        rows = [tf.convert_to_tensor(v) for v in self.running or ()]
        layers = self.interface.normalizations
        return _flat(running_of(self._learner).after(steps, layers, rows))

    def outputs(self, x, weights, transductive) -> Structure:
        """Predictions `[B, ...]` for `x [B, ...]`, or a dictionary of such by output.

        Whether they are transductive may be known beforehand, or in the graph alone.
        """
        apply = self._learner.apply
        values = [weights[name] for name in self._weight_names]
        moments = [weights[name][None] for name in self._statistic_names]

        def run(**options):
            given = _with_task_axis(self.interface.examples(x))
            outputs = self.interface.by_name(apply(values, given, **options))
            return tf.nest.map_structure(lambda y: y[0], outputs)

        def by_batch():
            return run()

        def by_support():
            known = [tf.debugging.assert_all_finite(m, NO_STATISTICS) for m in moments]
            pairs = zip(known[::2], known[1::2], strict=True)
            return run(statistics=[BatchStatistics(None, *p) for p in pairs])

        if not moments:
            return by_batch()
        if isinstance(transductive, bool):
            return by_batch() if transductive else by_support()
        return tf.cond(transductive, by_batch, by_support)


def compiled(served: ServedLearner, steps: int, step_size: float) -> dict[str, Callable]:
    """Gives `served` its compiled functions, and returns its signatures."""
    x, y = served.interface.x, served.interface.y
    weights = {spec.name: spec for spec in served.interface.weights}
    count, size, switch = (tf.TensorSpec([], t) for t in (tf.int32, tf.float32, tf.bool))
    support_x, support_y = named(x, "support_x", "support_"), named(y, "support_y", "support_y_")
    query_x, x = named(x, "query_x", "query_"), named(x, "x", "")
    # Tensors, for only those become defaults of a signature.
    transductive = served.running is None
    defaults = tuple(
        tf.constant(*one)
        for one in ((steps, tf.int32), (step_size, tf.float32), (transductive, tf.bool))
    )

    # Autograph would rewrite the engine function by function, at ten times the tracing time.
    @tf.function(autograph=False, input_signature=[])
    def initial_weights():
        return served.weights_before()

    @tf.function(autograph=False, input_signature=[support_x, support_y, count, size])
    def adapt(support_x, support_y, steps=defaults[0], step_size=defaults[1]):
        return served.weights_after(support_x, support_y, steps, step_size)

    @tf.function(autograph=False, input_signature=[x, weights, switch])
    def predict(x, weights, transductive=defaults[2]):
        return served.outputs(x, weights, transductive)

    @tf.function(
        autograph=False, input_signature=[support_x, support_y, query_x, count, size, switch]
    )
    def adapt_and_predict(
        support_x,
        support_y,
        query_x,
        steps=defaults[0],
        step_size=defaults[1],
        transductive=defaults[2],
    ):
        return predict(query_x, adapt(support_x, support_y, steps, step_size), transductive)

    served.initial_weights = initial_weights
    _call_from_python(served, (adapt, predict, adapt_and_predict), steps, step_size)
    return {
        "initial_weights": initial_weights,
        "adapt": adapt,
        "predict": _named(predict),
        "adapt_and_predict": _named(adapt_and_predict),
    }


def _call_from_python(
    served: ServedLearner, functions: tuple, usual_steps: int, usual: float
) -> None:
    """Gives `served` the functions for Python's callers, who bring tensors of any type."""
    adapt, predict, both = (_checked(function) for function in functions)
    support_x, support_y, query_x, *_ = functions[2].input_signature
    x, weights, switch = functions[1].input_signature
    by_batch = served.running is None

    sets = support_x, support_y, query_x

    @arguments.taking(adapt, [*arguments.mixes(*sets[:2]), *arguments.masked(*sets[:2])])
    def adapt_any(support_x, support_y, steps=usual_steps, step_size=usual, mask=None):
        """Adapts."""

    queries = arguments.examples(x) + arguments.whole_examples(x)

    @arguments.taking(predict, [(query, weights, switch) for query in queries])
    def predict_any(x, weights, transductive=by_batch):
        """Predicts."""

    mixes = [(*given, switch) for given in arguments.mixes(*sets)]
    mixes += [(*given[:-1], switch, given[-1]) for given in arguments.masked(*sets)]

    @arguments.taking(both, mixes)
    def both_any(
        support_x,
        support_y,
        query_x,
        steps=usual_steps,
        step_size=usual,
        transductive=by_batch,
        mask=None,
    ):
        """Adapts and predicts."""

    served.adapt, served.predict, served.adapt_and_predict = adapt_any, predict_any, both_any


def _checked(function: Any) -> Any:
    """`function` for sets of examples of any shape, which are refused in one sentence."""
    specs = function.input_signature

    @tf.function(autograph=False, input_signature=arguments.loosely(specs))
    def checked(*given):
        return function(*arguments.fitted(given, specs))

    return checked


def _named(function: Any) -> Any:
    """`function`, whose result, if it is one, a signature calls "predictions"."""

    @functools.wraps(function.python_function)
    def by_name(*args, **kwargs):
        outputs = function(*args, **kwargs)
        return outputs if isinstance(outputs, dict) else {"predictions": outputs}

    return tf.function(by_name, autograph=False, input_signature=function.input_signature)


def _flat(statistics: Statistics) -> list[tf.Tensor]:
    """Means and variances of one task."""
    return [moment[0] for s in statistics for moment in (s.mean, s.variance)]


def _with_task_axis(structure: Any) -> Any:
    return tf.nest.map_structure(lambda a: a[None], structure)


def _check_inputs(support_y: tf.Tensor, steps: tf.Tensor, ways: int | None) -> None:
    """Asserts in the graph; XLA leaves that out, and such a label then belongs to no class."""
    tf.debugging.assert_non_negative(steps, "steps must be 0 or more")
    if ways is not None:
        message = f"support_y must be class indices 0 ... {ways - 1}"
        tf.debugging.assert_non_negative(support_y, message)
        tf.debugging.assert_less(support_y, tf.constant(ways, support_y.dtype), message)
