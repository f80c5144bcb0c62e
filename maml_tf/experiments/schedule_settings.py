"""The settings of a schedule of the meta step size: what is derived, and what contradicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maml_tf.experiments.records import SettingValue

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Training

SHAPES = ("constant", "cosine", "exponential")
"""Values of --meta_lr_schedule."""

SCHEDULE = frozenset(
    {"meta_lr_schedule", "final_meta_step_size", "warmup_iterations", "schedule_iterations"}
)
"""The settings."""

CONSTANT: dict[str, SettingValue] = dict.fromkeys(SCHEDULE)
"""What says that there is no schedule, to `Settings.replace`."""

_FINAL_SHARE = {"cosine": 0.0, "exponential": 0.01}
"""Of the meta step size, what is left at the end by default."""


def derived(training: Training, iterations: int) -> dict[str, Any]:
    """Values of the derived settings: none where the meta step size does not fall.

    Args:
      training: what was said.
      iterations: of the run.
    """
    share = _FINAL_SHARE.get(training.meta_lr_schedule)
    if share is None:
        return {}
    final = share * training.meta_step_size
    return {"final_meta_step_size": final, "schedule_iterations": iterations}


def check(training: Training, iterations: int) -> None:
    """Refuses a schedule that the run does not come to the end of, or that would have no effect.

    Args:
      training: what was said, and what was derived.
      iterations: of the run.

    Raises:
      ValueError: names the flags.
    """
    shape, warmup = training.meta_lr_schedule, training.warmup_iterations
    length = training.schedule_iterations or iterations
    if shape == "constant":
        for name in ("final_meta_step_size", "schedule_iterations"):
            if getattr(training, name) is not None:
                raise ValueError(
                    f"--{name} needs a schedule; add --meta_lr_schedule=cosine, or drop --{name}."
                )
    elif not iterations:
        raise ValueError(
            f"--meta_lr_schedule={shape} is over --iterations, which is 0; raise it, or drop "
            "--meta_lr_schedule."
        )
    elif length > iterations:
        raise ValueError(
            f"--schedule_iterations={length} is longer than the run, --iterations={iterations}; "
            "lower it, or raise --iterations."
        )
    if training.second_order_after and training.second_order_after >= iterations > 0:
        raise ValueError(
            f"--second_order_after={training.second_order_after} is not before the end of the run, "
            f"--iterations={iterations}; lower it, or choose --method=fomaml."
        )
    if warmup and warmup >= length:
        raise ValueError(
            f"--warmup_iterations={warmup} leaves nothing of a schedule of {length} iterations; "
            "lower it, or raise --iterations."
        )
    if shape == "exponential" and training.final_meta_step_size == 0:
        raise ValueError(
            "--meta_lr_schedule=exponential never comes to 0; raise --final_meta_step_size, or "
            "choose cosine."
        )
