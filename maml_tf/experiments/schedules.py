"""The meta step size of a run, as a schedule of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops
from keras.optimizers.schedules import (
    CosineDecay,
    ExponentialDecay,
    LearningRateSchedule,
    PolynomialDecay,
)

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Training


@keras.saving.register_keras_serializable("maml_tf")
class WarmUpAndHold(LearningRateSchedule):
    """Rises from 0 to the first value of another schedule, follows it, and keeps its last value.

    At step i, counted from 0:

        decay(0) * i / warmup_steps               for i < warmup_steps
        decay(min(i - warmup_steps, decay_steps))  afterwards
    """

    def __init__(self, decay: LearningRateSchedule, decay_steps: int, warmup_steps: int = 0):
        """Takes the schedule.

        Args:
          decay: what comes after the warm-up.
          decay_steps: how many steps of it are followed.
          warmup_steps: of the warm-up; 0: none.
        """
        super().__init__()
        self.decay, self.decay_steps, self.warmup_steps = decay, decay_steps, warmup_steps

    def __call__(self, step: Any) -> Any:
        """The value at a step, counted from 0."""
        step = ops.cast(step, keras.config.floatx())
        value = self.decay(ops.clip(step - self.warmup_steps, 0, self.decay_steps))
        if not self.warmup_steps:
            return value
        return value * ops.minimum(step / self.warmup_steps, 1.0)

    def get_config(self) -> dict[str, Any]:
        """What makes another like it."""
        return {
            "decay": keras.optimizers.schedules.serialize(self.decay),
            "decay_steps": self.decay_steps,
            "warmup_steps": self.warmup_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUpAndHold:
        """Makes it anew."""
        decay = keras.optimizers.schedules.deserialize(config["decay"])
        return cls(**{**config, "decay": decay})


def learning_rate(training: Training, updates: int = 1) -> float | LearningRateSchedule:
    """The learning rate of the meta-optimizer, by the number of its updates, counted from 0.

    A warm-up rises from 0 in a straight line. After the schedule's end the last value stays.

    Args:
      training: of the run, with derived values.
      updates: of the optimizer, in an iteration.

    Returns:
      A number where it is constant from the beginning.
    """
    first, warmup = training.meta_step_size, training.warmup_iterations * updates
    final, length = training.final_meta_step_size, training.schedule_iterations
    if final is None or length is None:  # constant
        return PolynomialDecay(0.0, warmup, first) if warmup else first
    steps = length * updates - warmup
    if training.meta_lr_schedule == "cosine":
        if not warmup:
            return CosineDecay(first, steps, final / first)
        return CosineDecay(0.0, steps, final / first, warmup_target=first, warmup_steps=warmup)
    decay = ExponentialDecay(first, steps, final / first)
    return WarmUpAndHold(decay, steps, warmup)
