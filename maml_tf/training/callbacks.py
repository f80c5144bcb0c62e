"""Keras' callbacks in a training: a validation is an epoch, or without one a logging window.

Batch hooks are called once per compiled call of several meta-steps. Epochs and their batches are
counted from the run's beginning, so that a run that goes on counts on.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.workers import outside_scope
from maml_tf.training.window import Window
from maml_tf.types import Estimate, Learner, Metrics

_OF_RATES = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)

_WRITERS = (keras.callbacks.CSVLogger, keras.callbacks.ModelCheckpoint, keras.callbacks.TensorBoard)


class Callbacks:
    """Tells Keras' callbacks what the training loop does, and whether one of them stops it."""

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        learner: Learner[Any],
        *,
        every: int,
        iterations: int,
    ):
        """Gives each callback the learner's model and the training's parameters.

        Args:
          callbacks: what the user gave, as `checked` made it.
          learner: whose `model` they are given; one without a model has something in its place
            that holds `stop_training`.
          every: meta-steps of an epoch.
          iterations: of the whole run.
        """
        self._callbacks, self._learner, self._every = list(callbacks), learner, every
        self._epoch: int | None = None
        self._logs: dict[str, float] = {}  # of the epoch that is running
        self._ended: dict[str, float] = {}  # of the one before
        self._window, self._call = Window(learner.metric_name), Window(learner.metric_name)
        self._model = getattr(learner, "model", None) or types.SimpleNamespace()
        self._lends_optimizer = False
        self._list: Any = _Outside(keras.callbacks.CallbackList(self._callbacks))
        if self._callbacks:
            self._model.stop_training = False
            self._lend_optimizer()
            self._refuse_rates()
            self._list.set_model(self._model)
            epochs = math.ceil(iterations / every)
            self._list.set_params({"epochs": epochs, "steps": every, "verbose": 0})

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._callbacks)

    @property
    def stopped(self) -> bool:
        """Whether one of them has set `model.stop_training`."""
        return bool(self._callbacks) and bool(self._model.stop_training)

    def begin(self) -> None:
        """The training begins."""
        self._list.on_train_begin()

    def begin_call(self, iteration: int) -> None:
        """A compiled call begins, with meta-step `iteration`, counted from 0."""
        if not self._callbacks:
            return
        if self._epoch is None:
            self._epoch = iteration // self._every
            self._list.on_epoch_begin(self._epoch)
        self._list.on_train_batch_begin(iteration % self._every)

    def end_call(self, iteration: int, metrics: Metrics) -> None:
        """It ends, after `iteration` meta-steps in all; `metrics` are what it saw."""
        if not self._callbacks:
            return
        for window in self._window, self._call:
            window.add(metrics)
        self._list.on_train_batch_end((iteration - 1) % self._every, _logs(self._call))

    def begin_validation(self) -> None:
        """A validation begins."""
        self._list.on_test_begin()

    def end_validation(self, estimate: Estimate, metric: str, decides: int, iteration: int) -> None:
        """It ends; a callback that has `on_validation(estimate, metric, iteration)` sees all of it.

        Args:
          estimate: what it measured.
          metric: its name.
          decides: the gradient step whose mean decides which weights are best.
          iteration: meta-steps so far.
        """
        self._logs = {f"val_{metric}": float(estimate.mean[decides])}
        for step, mean in enumerate(estimate.mean):
            self._logs[f"val_{metric}_after_step_{step}"] = float(mean)
        self._list.on_test_end(self._logs)
        for callback in self._callbacks:
            if hasattr(callback, "on_validation"):
                callback.on_validation(estimate, metric, iteration)

    def end_epoch(self) -> None:
        """The epoch ends: its means, and what was validated at its end."""
        if self._epoch is not None:
            self._logs = {**_logs(self._window), **self._logs}
            self._list.on_epoch_end(self._epoch, self._logs)
        self._epoch, self._ended, self._logs = None, self._logs, {}

    def end(self) -> None:
        """The training ends, by itself, by a callback or by a signal."""
        self._list.on_train_end(self._ended)

    def close(self) -> None:
        """Takes back what the model was lent."""
        if self._lends_optimizer:
            del self._model.optimizer
            self._lends_optimizer = False

    def _lend_optimizer(self) -> None:
        """Callbacks of learning rates ask the model, which was not compiled, for its optimizer."""
        optimizer = self._learner.optimizer
        if optimizer is not None and getattr(self._model, "optimizer", None) is None:
            self._model.optimizer = optimizer
            self._lends_optimizer = True

    def _refuse_rates(self) -> None:
        """Refuses callbacks of learning rates where there is none, or it has a schedule.

        Raises:
          ValueError: names the callback.
        """
        for callback in self._callbacks:
            if not isinstance(callback, _OF_RATES):
                continue
            changes = f"{type(callback).__name__} changes a learning rate, and "
            if self._learner.optimizer is None:
                raise ValueError(
                    f"{changes}{type(self._learner).__name__} has no optimizer with one; leave it "
                    "out."
                )
            if not hasattr(self._learner.optimizer.learning_rate, "assign"):
                raise ValueError(
                    f"{changes}the optimizer's follows a schedule; leave out one of them."
                )


class _Outside:
    """Calls outside of a strategy's scope, where what one worker makes is its own affair."""

    def __init__(self, called: keras.callbacks.CallbackList):
        self._called = called

    def __getattr__(self, name: str) -> Callable[..., None]:
        method = getattr(self._called, name)

        def call(*arguments: Any) -> None:
            if tf.distribute.has_strategy():
                outside_scope(lambda: method(*arguments))
            else:
                method(*arguments)

        return call


def _logs(window: Window) -> dict[str, float]:
    """What callbacks are given of a window: norms are TensorBoard's."""
    return {name: mean for name, mean in window.take().items() if "/" not in name}


def checked(callbacks: object) -> list[keras.callbacks.Callback]:
    """Callbacks as a list: none, one, or several.

    Raises:
      ValueError: something among them is no callback of Keras.
    """
    given = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    for callback in given:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(
                f"callbacks has {arguments.shown(callback)}; give keras.callbacks.Callback "
                "objects, such as [keras.callbacks.CSVLogger('log.csv')]."
            )
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            raise ValueError(
                "SwapEMAWeights exchanges weights that train exchanges itself; leave it out: "
                "validations measure the averages of use_ema=True already."
            )
    return given


def that_write_nothing(
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    """Those of a worker that writes no files: Keras' writers would all write the same one."""
    return [callback for callback in callbacks if not isinstance(callback, _WRITERS)]
