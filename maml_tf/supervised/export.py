"""What is exported of a meta-learner: a SavedModel for TensorFlow alone, without Keras or maml_tf.

The exported model adapts to the tasks that its users bring::

    model = tf.saved_model.load(directory)
    adapted = model.adapt(support_x, support_y)      # or steps=3, step_size=0.1
    logits = model.predict(query_x, adapted)         # or transductive=False
    logits = model.adapt_and_predict(support_x, support_y, query_x)      # both at once
    logits = model.predict(query_x, model.initial_weights())             # no adaptation

`adapted` is a flat dictionary of tensors: every weight by name, then the mean and variance that
each batch normalisation saw on the support set. `transductive=True`, the default, normalises a
query batch by its own statistics: what the model was meta-trained for and the paper reports.
`transductive=False` uses those of the support set, so that a prediction depends on its own example
alone; choose it to predict few examples at a time. Models without batch normalisation ignore it.
A model exported with `running=True` has the running statistics of the meta-training in the place of
the support set's, those after as many steps, and `transductive=False` is its default.

The same four are signatures, with the same names of inputs; `predict` takes the dictionary's
entries as inputs of their own, and predictions are called "predictions". The signatures hold their
defaults for TensorFlow Serving and for sessions. TensorFlow's Python loader does not read those:
a call through `model.signatures` names every input.

Sets have any size. Of one that is padded, `mask=`, a boolean for each example, says which exist, in
`adapt` and `adapt_and_predict`; the others are cut off before anything is computed. There are no
sample weights.

Several inputs, outputs or targets are dictionaries by name; inputs that a model takes in a list,
and that nobody named, are `input_0`, `input_1`.

Arrays of NumPy and numbers of Python are converted. A call takes tensors of the model's types, and
float64 for float32, int64 for int32, class indices as floats, and, in all sets of a call, bytes or
whole numbers for floats: their values go in as they are. A signature takes its own types alone:
tf.cast(labels, tf.int32).

The graph is for prediction: a derivative taken through it ignores custom gradients of layers.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf._version import __version__
from maml_tf.engine.served_weights import default_step_size
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.supervised.serving import ServedLearner, compiled
from maml_tf.types import Servable, Specs


def servable(
    learner: AdaptiveModel,
    *,
    steps: int | None = None,
    step_size: float | None = None,
    inputs: Specs | None = None,
    target: Specs | None = None,
    running: bool = False,
) -> Servable:
    """Makes what `export` writes of a supervised learner.

    Args:
      learner: what to export, with its weights as they are now.
      steps: default number of gradient steps; the learner's inner steps by default.
      step_size: default alpha; the learner's own by default. A learner with meta-learned step
        sizes uses those until a number is given, here or in a call, which replaces them all; NaN
        in a call stands for the meta-learned ones.
      inputs: shape and dtype of a set's x, `tf.TensorSpec([None, ...])`, or a list or dictionary of
        such; by default the model's own inputs, which a subclassed model may not know.
      target: shape and dtype of a set's y, `[None, ...]`, or a dictionary of such. By default
        int32 class indices for losses that take such, and for others floats of the outputs' shape.
      running: predict by the running statistics of the meta-training in place of a support set's.

    Raises:
      ValueError: an argument is out of range, the learner has no running statistics, or the model
        takes sizes known only at run time.
    """
    check_specs(inputs=inputs, target=target)
    steps = arguments.count("steps", learner.inner_steps if steps is None else steps, 0)
    step_size = default_step_size(learner.inner, step_size)
    running = arguments.boolean("running", running)
    served = ServedLearner(learner, inputs, target, running=running)
    signatures = compiled(served, steps, step_size)
    about = description(learner, served, steps, step_size, transductive=not running)
    return Servable(served, signatures, about)


def check_specs(**given: Any) -> None:
    """Checks specifications that a user gave, by the name of the argument.

    Raises:
      ValueError: one is none.
    """
    kinds = (tf.TensorSpec, keras.KerasTensor)
    for name, specs in given.items():
        leaves = [] if specs is None else tf.nest.flatten(specs)
        if any(not isinstance(s, kinds) or not tf.TensorShape(s.shape).rank for s in leaves):
            raise ValueError(
                f"{name} is {arguments.shown(specs)}; give tf.TensorSpec([None, ...], dtype), or a "
                "list or dictionary of such."
            )


def description(
    learner: AdaptiveModel,
    served: ServedLearner,
    steps: int,
    step_size: float,
    transductive: bool = True,
) -> dict[str, Any]:
    """What `maml_tf.json` says of an exported learner."""
    about = served.interface
    x, y, outputs, ways, weights = about.x, about.y, about.outputs, about.ways, about.weights
    return {
        "maml_tf": __version__,
        "model": learner.model.name,
        "input": _described(x),
        "target": _described(y),
        "outputs": outputs if isinstance(outputs, dict) else list(outputs),
        "ways": ways,
        "loss": learner.loss.name,
        "metric": learner.metric_name,
        "defaults": {
            "steps": steps,
            "step_size": "meta-learned" if math.isnan(step_size) else step_size,
            "transductive": transductive,
        },
        "weights": [spec.name for spec in weights[: len(served.initial)]],
        "batch_statistics": [spec.name for spec in weights[len(served.initial) :]],
        **({"running_statistics": True} if served.running else {}),
    }


def _described(specs: Any) -> dict[str, Any]:
    if isinstance(specs, dict):
        return {name: _described(spec) for name, spec in specs.items()}
    return {"shape": list(specs.shape[1:]), "dtype": specs.dtype.name}
