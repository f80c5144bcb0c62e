"""What is exported of a meta-learner for runtimes of fixed sizes and few operations: LiteRT.

The signatures are those of a SavedModel (see export.py), with the same names of inputs and outputs,
but for what is decided when they are made: how many examples a set has, how many gradient steps of
which size are taken, and whose statistics normalise a query set.

Shape letters: B examples in a support set, Q in a query set.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.portable import portable_gradients, traced
from maml_tf.engine.served_weights import default_step_size
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.supervised.export import check_specs, description
from maml_tf.supervised.serving import ServedLearner
from maml_tf.supervised.serving_interface import named
from maml_tf.types import Servable, Specs


def portable(
    learner: AdaptiveModel,
    *,
    support_examples: int | None = None,
    query_examples: int | None = None,
    transductive: bool = True,
    steps: int | None = None,
    step_size: float | None = None,
    inputs: Specs | None = None,
    target: Specs | None = None,
) -> Servable:
    """Makes what `export(..., format="litert")` converts of a supervised learner.

    Args:
      learner: what to export, with its weights as they are now.
      support_examples: B, of all classes together: N * K for N ways and K shots.
      query_examples: Q, how many are predicted at a time; as many as B by default.
      transductive: normalise a query set by its own statistics, as in the paper; False: by those of
        the support set, so that each prediction depends on its own example alone.
      steps: gradient steps that `adapt` takes; the learner's inner steps by default.
      step_size: alpha; the learner's own by default, the meta-learned ones if there are any.
      inputs: as for a SavedModel.
      target: as for a SavedModel.

    Raises:
      ValueError: B is not given, an argument is out of range, or the model takes sizes known only
        at run time.
    """
    check_specs(inputs=inputs, target=target)
    if support_examples is None:
        raise ValueError(
            "LiteRT takes sets of one size; give support_examples, N * K for N ways and K shots."
        )
    support_examples = arguments.count("support_examples", support_examples, 1)
    if query_examples is None:
        query_examples = support_examples
    query_examples = arguments.count("query_examples", query_examples, 1)
    transductive = arguments.boolean("transductive", transductive)
    steps = arguments.count("steps", learner.inner_steps if steps is None else steps, 0)
    step_size = default_step_size(learner.inner, step_size)
    served = ServedLearner(learner, inputs, target)
    x, y = served.interface.x, served.interface.y
    support_x, support_y = named(x, "support_x", "support_"), named(y, "support_y", "support_y_")
    query_x, x = named(x, "query_x", "query_"), named(x, "x", "")
    support = [_sized(specs, support_examples) for specs in (support_x, support_y)]
    weights = {spec.name: spec for spec in served.interface.weights}

    def adapt(support_x, support_y):
        return served.weights_after(support_x, support_y, steps, step_size)

    def predict(x, weights):
        outputs = served.outputs(x, weights, transductive)
        return outputs if isinstance(outputs, dict) else {"predictions": outputs}

    def both(support_x, support_y, query_x):
        return predict(query_x, adapt(support_x, support_y))

    takes: dict[str, tuple] = {
        "initial_weights": (served.weights_before,),
        "adapt": (adapt, *support),
        "predict": (predict, _sized(x, query_examples), weights),
        "adapt_and_predict": (both, *support, _sized(query_x, query_examples)),
    }
    with portable_gradients():
        signatures = {name: traced(*given) for name, given in takes.items()}
    about = description(learner, served, steps, step_size, transductive)
    about |= {"support_examples": support_examples, "query_examples": query_examples}
    return Servable(served, signatures, about)


def _sized(specs: Any, examples: int) -> Any:
    """Specifications of a set of so many."""
    return tf.nest.map_structure(
        lambda s: tf.TensorSpec([examples, *s.shape[1:]], s.dtype, s.name), specs
    )
