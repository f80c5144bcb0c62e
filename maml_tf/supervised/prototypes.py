"""Heads that begin as a prototypical network: Proto-MAML.

Triantafillou et al. 2020, "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few
Examples" (arXiv 1903.03096), section 3. With p_c the mean, over a task's support examples of class
c, of what the head is given, the task's head begins as

    kernel[:, c] = 2 p_c,    bias[c] = -|p_c|^2

so that of an example x its logit c is |x|^2 - |x - p_c|^2: before the first inner step the softmax
is that of a prototypical network (Snell et al. 2017), and the inner steps go on from there.

An inner step's gradient takes the head for a number like any other; the meta-gradient goes through
the prototypes into the body. It does so where inner gradients are held constant, too, as in the
paper's own code (google-research/meta-dataset): a prototype is no gradient, and first order saves
second derivatives, of which it has none. The meta-learned head is of no use, and stays as it was.

A class without support examples has a prototype of zero, as in that code: kernel and bias are 0,
and so is its logit, which is that of a distance to the origin. Sample weights weigh the mean, so
that an example of weight 0 is not in it. Dropout and noise are off in the pass that makes them.

Shape letters: T tasks, B examples, N ways, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.run import has_rule
from maml_tf.objectives.base import INDICES, ONE_HOT, weighted
from maml_tf.types import Batch, Weights

if TYPE_CHECKING:
    from maml_tf.supervised.adaptive_model import AdaptiveModel

INITIALIZATIONS = ("learned", "prototypes")

_OWN = "head_initialization='prototypes'"


class PrototypeHead:
    """From theta and support sets to the weights of each task's head; an `InnerLoop.head`."""

    def __init__(self, learner: AdaptiveModel):
        """Finds the head.

        Raises:
          ValueError: the model has none that prototypes can make, or it does not adapt.
        """
        self._learner = learner
        self.layer = _last_layer(learner.model)
        theta = [id(variable) for variable in learner.model.trainable_variables]
        kernel, bias = _weights(learner.model, self.layer)
        if not all(id(v) in theta and learner.adapts[theta.index(id(v))] for v in (kernel, bias)):
            raise ValueError(
                f"{_OWN} gives each task its own head, and kernel and bias of "
                f"'{self.layer.name}' do not adapt; let `adapts` choose both, and do not freeze it."
            )
        self._kernel, self._bias = theta.index(id(kernel)), theta.index(id(bias))
        check_loss(learner)

    def __call__(self, weights: Weights, support: Batch) -> dict[int, tf.Tensor]:
        """Kernels `[T, F, N]` and biases `[T, N]`, by their places in theta.

        Args:
          weights: theta, shared by all tasks.
          support: `x [T, B, ...]`, and `y [T, B]` class indices or `[T, B, N]`.
        """
        passed = self._learner.apply.run(weights, support.x, mask=support.mask, watch=self.layer)
        features = tf.cast(passed.entered[0], weights[self._kernel].dtype)
        prototypes = class_means(features, self._classes(support, features.dtype), support)
        kernels = 2 * tf.linalg.matrix_transpose(prototypes)
        return {self._kernel: kernels, self._bias: -tf.reduce_sum(prototypes**2, -1)}

    def _classes(self, support: Batch, dtype: tf.DType) -> tf.Tensor:
        """How far each example is of each class, `[T, B, N]`."""
        y, loss = tf.convert_to_tensor(support.y), self._learner.loss
        if loss.labels == ONE_HOT:
            return tf.cast(y, dtype)
        y = tf.cast(y[..., 0] if y.shape.rank == 3 else y, tf.int32)
        classes = tf.one_hot(y, self.layer.units, dtype=dtype)
        if loss.ignored is None:
            return classes
        return classes * tf.cast(y != loss.ignored, dtype)[..., None]


def class_means(features: tf.Tensor, classes: tf.Tensor, support: Batch) -> tf.Tensor:
    """The mean of each class' features; zero where it has no example.

    Args:
      features: `[T, B, F]`.
      classes: `[T, B, N]`, 1 for the class of an example and 0 for the others, or shares of such.
      support: whose sample weights and mask count.

    Returns:
      `[T, N, F]`.
    """
    shares = weighted(classes, support.sample_weight, support.mask)
    features = weighted(features, (), support.mask)  # what pads a set may be no number
    sums = tf.matmul(shares, features, transpose_a=True)
    counts = tf.reduce_sum(shares, 1)[..., None]
    return sums / tf.where(counts == 0, tf.ones_like(counts), counts)


def head_of(learner: AdaptiveModel, initialization: str) -> PrototypeHead | None:
    """The heads that a learner's tasks begin with; None for its own, which is meta-learned.

    Raises:
      ValueError: `initialization` is none of `INITIALIZATIONS`, or does not go with the learner.
    """
    if not isinstance(initialization, str) or initialization not in INITIALIZATIONS:
        raise ValueError(
            f"head_initialization must be one of {', '.join(map(repr, INITIALIZATIONS))}; not "
            f"{arguments.shown(initialization)}."
        )
    return PrototypeHead(learner) if initialization == "prototypes" else None


def check_loss(learner: AdaptiveModel) -> None:
    """Refuses a loss that is not of classes.

    Raises:
      ValueError: names it.
    """
    loss = learner.loss
    if loss.parts is None and loss.labels in (INDICES, ONE_HOT):
        return
    takes = "several outputs" if loss.parts is not None else loss.labels or "targets of any kind"
    raise ValueError(
        f"{_OWN} is of the classes of one output, and the loss '{loss.name}' takes {takes}; take a "
        "cross-entropy of class indices or one-hot labels, or drop it."
    )


# --- the head of a model ---


def _last_layer(model: keras.Model) -> keras.layers.Dense:
    """The Dense layer whose outputs are the model's, called once."""
    graph, output = _output(model, model)
    layer = output._keras_history.operation
    what = f"ends in {type(layer).__name__} '{layer.name}'"
    if type(layer) is not keras.layers.Dense:
        raise _refusal(model, what)
    if len(output.shape) != 2:
        raise _refusal(model, f"gives an array [{len(output.shape) - 1} axes] an example")
    if layer.activation not in (keras.activations.linear, keras.activations.softmax):
        name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
        raise _refusal(model, f"{what} with the activation {name}")
    if not layer.use_bias:
        raise _refusal(model, f"{what} without a bias")
    if _calls(_graph(model), layer) != 1:
        raise _refusal(model, f"calls '{layer.name}' more than once")
    return layer


def _output(model: keras.Model, whole: keras.Model) -> tuple[Any, Any]:
    """The graph, within those of models inside, that ends in a layer, and its one output."""
    graph = _graph(model)
    if graph is None or not has_rule(model):
        raise _refusal(whole, "has no graph that says which layer is the last")
    outputs = tf.nest.flatten(graph._outputs_struct)
    if len(outputs) != 1:
        raise _refusal(whole, f"has {len(outputs)} outputs")
    inside = outputs[0]._keras_history.operation
    return _output(inside, whole) if isinstance(inside, keras.Model) else (graph, outputs[0])


def _graph(operation: Any) -> keras.Function | None:
    graph = getattr(operation, "_functional", None) or operation
    return graph if isinstance(graph, keras.Function) else None


def _calls(graph: Any, layer: keras.Layer) -> int:
    """How often a graph, and those inside, call a layer."""
    called = [node.operation for nodes in graph._nodes_by_depth.values() for node in nodes]
    inside = [_graph(operation) for operation in called]
    return called.count(layer) + sum(_calls(inner, layer) for inner in inside if inner is not None)


def _weights(model: keras.Model, layer: Any) -> tuple[keras.Variable, keras.Variable]:
    """Kernel and bias, which no other layer uses."""
    kernel, bias = layer._kernel, layer.bias
    own = {id(kernel), id(bias)}
    for other in model._flatten_layers():
        holds = _graph(other) is None and any(inner is layer for inner in other._layers)
        uses = own & {id(variable) for variable in other._trainable_variables}
        if holds or (uses and other is not layer):
            raise _refusal(model, f"shares the weights of '{layer.name}' with '{other.name}'")
    return kernel, bias


def _refusal(model: keras.Model, what: str) -> ValueError:
    return ValueError(
        f"{_OWN} sets kernel and bias of the last layer of a Sequential or functional model, a "
        f"linear or softmax Dense, and '{model.name}' {what}; end it in one, or drop it."
    )
