"""Gymnasium's spaces: what an observation is to a network, and an action to an environment.

Observations become one vector of float32, as by `gymnasium.spaces.flatten`: choices one-hot, the
parts of a dictionary or tuple one after another. Actions come as the policy's head gives them,
which is one of `heads` for each kind of space.

Shape letters: P environments, O numbers of an observation, A of an action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from maml_tf.rl.envs import faults

if TYPE_CHECKING:
    from maml_tf.rl.heads import Head

_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_EMPTY = "it is empty; give it at least one number"
_OBSERVED = "Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple"
_ACTED = "Box, Discrete, MultiDiscrete or MultiBinary"


def why_not_observed(space: object) -> str | None:
    """Why a policy cannot take observations of a space, and what it can; None where it can."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = list(_parts(space))
        found = [why_not_observed(part) for part in parts] or ["it is empty; give it a part"]
        return next((reason for reason in found if reason), None)
    if isinstance(space, _LEAVES):
        return None if size_of(space) else _EMPTY
    return f"a policy takes numbers; let it be a {_OBSERVED}"


def why_not_acted(space: object) -> str | None:
    """Why a policy cannot give actions of a space, and what it can; None where it can."""
    if isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating):
        return "a Gaussian's actions are real numbers; let it be of floats, or MultiDiscrete"
    if isinstance(space, _LEAVES):
        return None if size_of(space) else _EMPTY
    return f"a policy has no distribution of such; let it be a {_ACTED}"


def _parts(space: spaces.Dict | spaces.Tuple) -> Any:
    return space.values() if isinstance(space, spaces.Dict) else iter(space)


def size_of(space: gymnasium.Space) -> int:
    """Numbers of a space's flattened members."""
    return spaces.flatdim(space)


def vectors(space: gymnasium.Space) -> spaces.Box:
    """The space of flattened members."""
    return spaces.Box(-np.inf, np.inf, (size_of(space),), np.float32)


def is_image(space: object) -> bool:
    """Whether observations are images, which a network of dense layers is nothing for."""
    if not isinstance(space, spaces.Box):
        return False
    return len(space.shape) == 3 or (len(space.shape) == 2 and space.dtype == np.uint8)


def head_for(space: gymnasium.Space) -> Head:
    """The head that an action space needs.

    Raises:
      ValueError: there is none.
    """
    # Here, for environments alone need no TensorFlow.
    from maml_tf.rl.heads import (
        BernoulliHead,
        CategoricalHead,
        GaussianHead,
        MultiCategoricalHead,
    )

    if isinstance(space, spaces.Discrete):
        return CategoricalHead(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategoricalHead(tuple(int(n) for n in space.nvec.reshape(-1)))
    if isinstance(space, spaces.MultiBinary):
        return BernoulliHead(math.prod(space.shape))
    if isinstance(space, spaces.Box):
        return GaussianHead(math.prod(space.shape))
    raise ValueError(f"Actions are {space}; {why_not_acted(space)}.")


def flattened(space: gymnasium.Space, value: Any, lead: tuple[int, ...] = ()) -> np.ndarray | str:
    """Observations as vectors, or what is wrong with one in a few words.

    Args:
      space: of one observation.
      value: one, or as a vector environment gives them, a batch: leading axes in each leaf.
      lead: the leading axes: `()`, or `(P,)`.

    Returns:
      `[*lead, O]` of a real type, float32 where anything is a choice or the parts differ.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or set(value) != set(space.keys()):
            return f"returned an observation that is no dictionary with {', '.join(space.keys())}"
        return _joined([flattened(space[name], value[name], lead) for name in space.keys()])
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space):
            return f"returned an observation that is no tuple of {len(space)}"
        return _joined([flattened(s, v, lead) for s, v in zip(space, value, strict=True)])
    found = faults.observation(value, (*lead, *(space.shape or ())))
    if isinstance(found, str):
        return found
    if isinstance(space, spaces.Box):
        return found.reshape(*lead, -1)
    return _one_hot(space, found, lead)


def _one_hot(space: Any, value: np.ndarray, lead: tuple[int, ...]) -> np.ndarray | str:
    """Whole numbers as what networks take: bits as they are, choices one-hot."""
    is_bits = isinstance(space, spaces.MultiBinary)
    counts = 2 if is_bits else space.n if isinstance(space, spaces.Discrete) else space.nvec
    chosen = value - getattr(space, "start", 0)
    if not ((chosen % 1 == 0) & (chosen >= 0) & (chosen < counts)).all():
        return f"returned {faults.brief(value.tolist())}, an observation outside its space {space}"
    chosen = chosen.reshape(*lead, -1)
    if is_bits:
        return chosen.astype(np.float32)
    sizes = np.reshape(counts, -1).astype(int)
    found = np.zeros((*lead, sizes.sum()), np.float32)
    np.put_along_axis(found, chosen.astype(int) + np.cumsum(sizes) - sizes, 1.0, -1)
    return found


def _joined(parts: list[np.ndarray | str]) -> np.ndarray | str:
    wrong = [part for part in parts if isinstance(part, str)]
    if wrong:
        return wrong[0]
    with np.errstate(over="ignore"):
        return np.concatenate(parts, axis=-1, dtype=np.float32, casting="unsafe")  # type: ignore[arg-type]


def for_environment(space: gymnasium.Space) -> Callable[[np.ndarray], np.ndarray]:
    """What makes the policy's actions those of a space.

    Returns:
      `[P, ...]` -> `[P, *shape]`. Real ones in [-1, 1] are scaled to a box where it has bounds and
      their difference is finite, and then clipped to those that there are; choices are counted
      from the space's start.
    """
    if isinstance(space, spaces.Box):
        low, span, bounded = _scale(space)

        def scaled(actions):
            actions = actions.reshape(len(actions), *space.shape)
            clipped = np.where(bounded, np.clip(actions, -1.0, 1.0), actions)
            scaled = (low + 0.5 * (clipped + 1.0) * span).astype(low.dtype)
            return np.clip(scaled, space.low, space.high)  # also what rounding put beyond

        return scaled
    start, shape = getattr(space, "start", 0), space.shape or ()

    def counted(actions):
        return (actions.reshape(len(actions), *shape) + start).astype(space.dtype)

    return counted


def _scale(space: spaces.Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What -1 becomes, how far 1 is from it, and where actions are scaled and clipped."""
    with np.errstate(all="ignore"):
        span = space.high - space.low
    bounded = np.isfinite(span)
    one = np.ones_like(space.low)
    return np.where(bounded, space.low, -one), np.where(bounded, span, 2.0 * one), bounded


def has_bounds(space: gymnasium.Space) -> bool:
    """Whether all real actions of a space have two bounds; choices have none."""
    if not isinstance(space, spaces.Box):
        return False
    return bool(_scale(space)[2].all())


def some_action(space: gymnasium.Space) -> Any:
    """An action to try an environment with: the middle of a box, the first choice."""
    if isinstance(space, spaces.Box):
        with np.errstate(all="ignore"):
            middle = 0.5 * space.low + 0.5 * space.high
        return np.where(np.isfinite(middle), middle, 0.0).astype(space.dtype)
    return for_environment(space)(np.zeros((1, *(space.shape or ())), int))[0]
