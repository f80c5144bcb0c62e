"""Exports a meta-learner as a SavedModel that runs on TensorFlow alone, without Keras or maml_tf.

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

The same four are signatures, with the same names of inputs; `predict` takes the dictionary's
entries as inputs of their own, and predictions are called "predictions". The signatures hold their
defaults for TensorFlow Serving and for sessions. TensorFlow's Python loader does not read those:
a call through `model.signatures` names every input.

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
import os
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf._version import __version__
from maml_tf.saving.saved_models import checked_step_size, replacing, tracing_to_save, write
from maml_tf.supervised.evaluation import check_learner
from maml_tf.supervised.learner import MetaLearner
from maml_tf.supervised.serving import Servable, compiled


def export(
    learner: MetaLearner,
    directory: str | os.PathLike[str],
    *,
    steps: int | None = None,
    step_size: float | None = None,
    inputs: Any = None,
    target: Any = None,
) -> None:
    """Writes `learner` as a SavedModel, and beside it `maml_tf.json`, which says what it is.

    The directory appears whole or not at all: it is written beside its place and moved there. An
    earlier export in that place is replaced; anything else is left alone.

    Args:
      learner: what to export, with its weights as they are now.
      directory: where to; it and its parents are created.
      steps: default number of gradient steps; the learner's inner steps by default.
      step_size: default alpha; the learner's own by default. A learner with meta-learned step
        sizes uses those until a number is given, here or in a call, which replaces them all; NaN
        in a call stands for the meta-learned ones.
      inputs: shape and dtype of a set's x, `tf.TensorSpec([None, ...])`, or a list or dictionary of
        such; by default the model's own inputs, which a subclassed model may not know.
      target: shape and dtype of a set's y, `[None, ...]`, or a dictionary of such. By default
        int32 class indices for losses that take such, and for others floats of the outputs' shape.

    Raises:
      ValueError: an argument is out of range, the model takes sizes known only at run time, or the
        directory holds something else than an export.
      OSError: nothing can be written there.
    """
    check_learner(learner)
    for name, specs in ("inputs", inputs), ("target", target):
        _check_specs(name, specs)
    steps = learner.inner_steps if steps is None else steps
    step_size = checked_step_size(learner, steps, step_size)
    with replacing(directory) as staging:
        servable = Servable(learner, inputs, target)
        with tracing_to_save():
            signatures = compiled(servable, steps, step_size)
        write(staging, servable, signatures, _description(learner, servable, steps, step_size))


def _check_specs(name: str, specs: Any) -> None:
    kinds = (tf.TensorSpec, keras.KerasTensor)
    leaves = [] if specs is None else tf.nest.flatten(specs)
    if any(not isinstance(leaf, kinds) or not tf.TensorShape(leaf.shape).rank for leaf in leaves):
        raise ValueError(
            f"{name} is {arguments.shown(specs)}; give tf.TensorSpec([None, ...], dtype), or a "
            "list or dictionary of such."
        )


def _description(learner, servable: Servable, steps: int, step_size: float) -> dict[str, Any]:
    about = servable.interface
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
            "transductive": True,
        },
        "weights": [spec.name for spec in weights[: len(servable.initial)]],
        "batch_statistics": [spec.name for spec in weights[len(servable.initial) :]],
    }


def _described(specs: Any) -> dict[str, Any]:
    if isinstance(specs, dict):
        return {name: _described(spec) for name, spec in specs.items()}
    return {"shape": list(specs.shape[1:]), "dtype": specs.dtype.name}
