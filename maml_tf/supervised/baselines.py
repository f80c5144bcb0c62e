"""The baselines that MAML is compared with (Finn et al. 2017, sections 5.1, 5.2, appendix C).

Most are a `MetaLearner` with other settings (experiments/methods.py puts them together):

  pretrained  one model, trained on all tasks without inner steps
  oracle      the same, and it sees which task it is given
  random      a fresh initialisation, not trained
  context     the inner loop moves a vector beside the input (`networks.Context`), nothing else

The multi-task baseline trains one regressor per task and averages their weights
(`MultitaskLearner`).
Of image classes, `pretrained` learns all training classes at once (`JointClassifier`), and a fresh
head is fine-tuned to a task's:

  nearest_neighbour  the same network; a query example takes the class of the nearest support one

Shape letters: T regressors or tasks, B examples, Q query examples.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.functional import functional
from maml_tf.objectives.base import given
from maml_tf.objectives.resolve import LossLike
from maml_tf.sources.supplies import Tasks
from maml_tf.supervised import checks
from maml_tf.supervised.learner import MetaLearner
from maml_tf.supervised.meta_gradient import MetaMetrics
from maml_tf.supervised.meta_steps import StepMetrics
from maml_tf.types import Batch, Structure, Task, Weights

PULLS = ("zero", "mean")


class JointClassifier(MetaLearner):
    """Learns to tell all training classes apart; classifies a task's by the nearest neighbour.

    The two baselines of Ravi & Larochelle 2017 (section 5.1) share one such network. Here "nearest"
    is by Euclidean distance of what the last layer, the head, is given.
    """

    refused = {"head_initialization": "classifies by the nearest neighbour"}

    def __init__(self, model: keras.Sequential, loss: LossLike, **options: Any):
        """Sets the learner up.

        Args:
          model: its last layer is the head, with one output per class.
          loss: of logits; see `MetaLearner`.
          **options: those of `MetaLearner`; there are no inner steps.
        """
        super().__init__(model, loss, inner_steps=0, **options)
        body = keras.Sequential([keras.Input(model.input_shape[1:]), *model.layers[:-1]])
        self._features = functional(body)
        kept = {id(variable) for variable in body.trainable_variables}
        self._in_body = [id(variable) in kept for variable in model.trainable_variables]

    def predict(
        self,
        weights: Weights,
        support: Batch,
        x: Structure,
        *,
        inductive: bool = False,
        running_after: int | tf.Tensor | None = None,
        mask: Structure = (),
    ) -> tf.Tensor:
        """The class of each example's nearest support example, as 0 and 1.

        Arguments and result are those of `MetaLearner.predict`; there are no running statistics.
        """
        if running_after is not None:
            checks.running_of(self)
        body = [w for w, own in zip(weights, self._in_body, strict=True) if own]
        seen = self._features.run(body, support.x, mask=support.mask)
        known: Any = seen.outputs  # [T, B, features]
        statistics = seen.statistics if inductive else None
        asked: Any = self._features(body, x, statistics=statistics, mask=mask)  # [T, Q, features]
        difference = tf.math.squared_difference(asked[:, :, None], known[:, None])
        distance = tf.reduce_sum(difference, -1)  # [T, Q, B]
        if given(support.mask):
            exists = tf.convert_to_tensor(support.mask)[:, None]
            distance = tf.where(exists, distance, distance.dtype.max)
        nearest = tf.argmin(distance, -1)  # [T, Q]
        classes = tf.gather(support.y, nearest, batch_dims=1)
        return tf.one_hot(classes, self.model.output_shape[-1], dtype=asked.dtype)


class MultitaskLearner(MetaLearner):
    """Trains T regressors at once, each on a task of its own; `model` is their average.

    Regressor t minimises

        L_t(theta_t) + penalty * |theta_t - c_t|^2,    c_t = 0, or the mean of theta_s over s < t

    and the mean of all theta_t is what is fine-tuned to a new task. The paper trains the regressors
    one after another, each towards the mean of those before it. Here they advance together, as one
    set of stacked weights, and c_t moves with them; where all stand still, it is the same equation.

    Each regressor starts from random weights of its own, as in the paper.
    """

    refused = {
        "learn_step_size": "takes no inner step",
        "head_initialization": "averages whole regressors",
    }

    def __init__(
        self,
        model: keras.Model,
        loss: LossLike,
        *,
        penalty: float = 0.0,
        pull: str = "zero",
        **options: Any,
    ):
        """Sets the learner up.

        Args:
          model: the regressors' architecture; its weights are replaced by their average.
          loss: `(outputs [T, B, ...], y) -> [T]`.
          penalty: factor of the squared distance from c_t.
          pull: what c_t is: "zero" (weight decay), or the running "mean"; nothing pulls the first.
          **options: those of `MetaLearner`; `meta_batch_size` is T.

        Raises:
          ValueError: an argument is out of range, or there are several replicas.
        """
        if pull not in PULLS or not arguments.number("penalty", penalty) >= 0:
            raise ValueError(
                f"Choose pull from {', '.join(PULLS)} and penalty >= 0, not '{pull}' and {penalty}."
            )
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError("The multi-task baseline trains on one device; leave the strategy.")
        self.penalty, self.pull = penalty, pull
        super().__init__(model, loss, inner_steps=0, **options)
        self._average()

    def _learned_variables(self) -> list[keras.Variable]:
        self.regressors = [
            keras.Variable(value, name="regressors_" + variable.path.replace("/", "_"))
            for variable, value in _random_starts(self.model, self.meta_batch_size)
        ]
        return self.regressors

    @property
    def state(self) -> list[keras.Variable]:
        """The average and the regressors."""
        return [*self.model.variables, *self.regressors]

    def regularizer(self, weights: Weights) -> tf.Tensor:
        """The penalty, summed over regressors, for weights `[T, *shape]`."""
        if self.pull == "mean":
            # Those before are held constant, for in the paper they are done.
            weights = [w - tf.stop_gradient(_mean_of_those_before(w)) for w in weights]
        return self.penalty * tf.add_n([tf.reduce_sum(tf.square(w)) for w in weights])

    def meta_gradient(
        self, task: Task, index: tf.Tensor | None = None, scale: tf.Tensor | None = None
    ) -> tuple[Weights, MetaMetrics]:
        """The gradient of each regressor's own objective on its own task.

        Args:
          task: T tasks, the same ones every time, with fresh examples; all are learned from.
          index: of the meta-batch; nothing here is a function of it.
          scale: a factor of the gradient, for an optimizer that divides by it.

        Returns:
          A gradient `[T, *shape]` for each of `self.variables`, and `MetaMetrics` of the mean
          regressor, without the penalty.
        """
        del index
        sets = _factors_of(task.support, task.query), _factors_of(task.query, task.support)
        both: Batch = tf.nest.map_structure(lambda *pair: tf.concat(pair, 1), *sets)
        weights = [tf.convert_to_tensor(v.value) for v in self.regressors]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            losses, own, outputs, _ = self.judge(weights, both)
            objective = tf.reduce_sum(losses if own is None else losses + own)
            if self.penalty:
                objective += self.regularizer(weights)
            if scale is not None:
                objective *= tf.cast(scale, objective.dtype)
        gradient = tape.gradient(objective, weights)
        metric = tf.reduce_mean(self.measure(outputs, both))
        return gradient, MetaMetrics(tf.zeros([0]), tf.reduce_mean(losses), metric)

    def meta_steps(self, tasks: Tasks, start: int, count: int) -> StepMetrics:
        """As `MetaLearner.meta_steps`; afterwards `model` is the regressors' average."""
        metrics = super().meta_steps(tasks, start, count)
        self._average()
        return metrics

    def finalize(self) -> None:
        """As `MetaLearner.finalize`, of the regressors."""
        super().finalize()
        self._average()

    def _average(self) -> None:
        for variable, regressors in zip(
            self.model.trainable_variables, self.regressors, strict=True
        ):
            variable.assign(tf.reduce_mean(regressors.value, 0))


def _factors_of(batch: Batch, other: Batch) -> Batch:
    """A set with a mask and sample weights of its own, 1 for each, where another has such."""
    shape = tf.shape(tf.nest.flatten(batch.x)[0])[:2]
    weights, mask = batch[2:]
    if given(other.sample_weight) and not given(weights):
        weights = tf.ones(shape, tf.convert_to_tensor(other.sample_weight).dtype)
    if given(other.mask) and not given(mask):
        mask = tf.ones(shape, tf.bool)
    return batch._replace(sample_weight=weights, mask=mask)


def _mean_of_those_before(weight: tf.Tensor) -> tf.Tensor:
    """For `[T, *shape]`: at t the mean over s < t; at 0, where there is none, the weight itself."""
    copies = weight.shape[0]
    shares = np.tril(np.ones((copies, copies)), -1) / np.maximum(np.arange(copies), 1)[:, None]
    shares[0, 0] = 1.0
    # A matrix product, because XLA makes a cumulative sum ten times as slow.
    flat = tf.reshape(weight, [copies, -1])
    return tf.reshape(tf.constant(shares, weight.dtype) @ flat, weight.shape)


def _random_starts(model: keras.Model, copies: int) -> list[tuple[keras.Variable, np.ndarray]]:
    """Each variable of a model, and its initial value in `copies` models of other seeds."""
    return [
        (variable, np.stack([_draw(layer, variable, copy) for copy in range(copies)]))
        for layer in model.layers
        for variable in layer.trainable_variables
    ]


def _draw(layer: keras.Layer, variable: keras.Variable, copy: int) -> np.ndarray:
    """A variable's initial value by its layer's initializer, with a seed of this copy's own."""
    initializer = getattr(layer, f"{variable.name}_initializer")
    settings = initializer.get_config()
    if "seed" in settings:
        # Hashed: no two (seed of the layer, copy) meet.
        seeds = np.random.SeedSequence([initializer.seed, copy]).generate_state(1)
        settings["seed"] = int(seeds[0] >> 1)  # Keras takes 31 bits
    return np.asarray(type(initializer).from_config(settings)(variable.shape, variable.dtype))
