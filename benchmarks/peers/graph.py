"""One MAML meta-step as the original program computed it: one static graph of TensorFlow 1's kind.

`tf.map_fn` over tasks that run side by side, native convolutions with a kernel for each task,
`tf.gradients` within `tf.gradients`, Adam, a session. It takes one thread an operation and as many
operations at a time as there are cores, which was its best; `THREADS` says both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from benchmarks import settings
from benchmarks.settings import Setting

Weights: TypeAlias = dict[str, tf.Tensor]
v1 = tf.compat.v1

THREADS = (1, os.cpu_count() or 1)
"""Of one operation, and operations at a time."""


def apply(setting: Setting, weights: Weights, x: tf.Tensor) -> tf.Tensor:
    """Outputs [B, N] of one task's examples [B, ...]."""
    depth = len(settings.layers(setting))
    for i in range(1, depth):
        if setting.convolutional:
            stride = 1 if setting.max_pool else 2
            x = tf.nn.conv2d(x, weights[f"conv{i}"], stride, "SAME") + weights[f"b{i}"]
        else:
            x = tf.matmul(x, weights[f"w{i}"]) + weights[f"b{i}"]
        if f"beta{i}" in weights:
            moments = tf.nn.moments(x, list(range(x.shape.rank - 1)))
            epsilon = settings.BATCH_NORM_EPSILON
            x = tf.nn.batch_normalization(x, *moments, weights[f"beta{i}"], None, epsilon)
        x = tf.nn.relu(x)
        if setting.convolutional and setting.max_pool:
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    if setting.network == "omniglot_conv":
        x = tf.reduce_mean(x, [1, 2])
    x = tf.reshape(x, [x.shape[0], -1])
    return tf.matmul(x, weights[f"w{depth}"]) + weights[f"b{depth}"]


def _loss(setting: Setting, weights: Weights, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """One task's mean squared error, or its summed cross-entropy divided by K."""
    outputs = apply(setting, weights, x)
    if setting.regression:
        return tf.reduce_mean(tf.square(outputs - y))
    losses = tf.nn.softmax_cross_entropy_with_logits(tf.one_hot(y, setting.ways), outputs)
    return tf.reduce_sum(losses) / setting.shots


def _query_loss(setting: Setting, weights: Weights, task: list[tf.Tensor]) -> tf.Tensor:
    """One task's query loss after `inner_steps` gradient steps on its support set."""
    support_x, support_y, query_x, query_y = task
    moving = [name for name in weights if not name.startswith("beta")]
    weights = dict(weights)
    for _ in range(setting.inner_steps):
        loss = _loss(setting, weights, support_x, support_y)
        gradients = tf.gradients(loss, [weights[name] for name in moving])
        if setting.first_order:
            gradients = [tf.stop_gradient(gradient) for gradient in gradients]
        for name, gradient in zip(moving, gradients, strict=True):
            weights[name] = weights[name] - setting.step_size * gradient
    return _loss(setting, weights, query_x, query_y)


class Step:
    """A session over the graph of the meta-step on fixed data."""

    def __init__(self, setting: Setting, weights: Mapping[str, np.ndarray], data: Mapping):
        config = v1.ConfigProto(
            intra_op_parallelism_threads=THREADS[0], inter_op_parallelism_threads=THREADS[1]
        )
        self._names = list(weights)
        with tf.Graph().as_default() as graph:
            variables = {
                n: v1.get_variable(n, initializer=tf.constant(weights[n])) for n in weights
            }
            parts = ("support_x", "support_y", "query_x", "query_y")
            fed = [v1.placeholder(data[part].dtype, data[part].shape) for part in parts]
            read = {name: tf.convert_to_tensor(variable) for name, variable in variables.items()}
            losses = tf.map_fn(
                lambda task: _query_loss(setting, read, task),
                fed,
                fn_output_signature=tf.float32,
                parallel_iterations=setting.tasks,
            )
            self._loss = tf.reduce_mean(losses)
            optimizer = v1.train.AdamOptimizer(
                settings.META_STEP_SIZE, epsilon=settings.ADAM_EPSILON
            )
            pairs = optimizer.compute_gradients(self._loss, list(variables.values()))
            self._gradients = [gradient for gradient, _ in pairs]
            self._train = optimizer.apply_gradients(pairs)
            self._session = v1.Session(graph=graph, config=config)
            self._session.run(v1.global_variables_initializer())
        self._data = {place: data[part] for place, part in zip(fed, parts, strict=True)}

    def __call__(self) -> float:
        """Takes one meta-step in place; returns the query loss before it."""
        return float(self._session.run([self._loss, self._train], self._data)[0])

    def meta_gradient(self) -> tuple[float, dict[str, np.ndarray]]:
        """The query loss and its gradient by weight, without taking a step."""
        loss, gradients = self._session.run([self._loss, self._gradients], self._data)
        return float(loss), dict(zip(self._names, gradients, strict=True))


def build(
    setting: Setting, weights: Mapping[str, np.ndarray] | None, data: Mapping[str, np.ndarray]
) -> Step:
    """The meta-step of `setting` on `data`, from `weights` or from random ones."""
    return Step(setting, weights or settings.initial_weights(setting), data)
