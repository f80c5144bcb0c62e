"""What is exported of a policy for runtimes of fixed sizes and few operations: LiteRT.

The signatures are those of a SavedModel (see export.py), with the same names of inputs and outputs,
but for what is decided when they are made: how many observations and episodes there are, and how
many gradient steps of which size are taken. `act` takes noise, and no seed.

Shape letters: B observations, E episodes, H steps of the longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.portable import portable_gradients, traced
from maml_tf.engine.served_weights import default_step_size
from maml_tf.rl.export import ServedPolicy, Specs, description
from maml_tf.types import Servable

if TYPE_CHECKING:
    from maml_tf.rl.meta_policy import MetaPolicy


def portable(
    learner: MetaPolicy,
    *,
    query_examples: int = 1,
    support_examples: int | None = None,
    horizon: int | None = None,
    steps: int = 1,
    step_size: float | None = None,
) -> Servable:
    """Makes what `export(..., format="litert")` converts of a policy.

    Args:
      learner: what to export, with its weights as they are now.
      query_examples: B, how many observations `act` takes at a time.
      support_examples: E, how many episodes `adapt` takes; by default there is no `adapt`, whose
        least squares need TensorFlow Select.
      horizon: H, how many steps an episode has; shorter ones are filled up, and masked.
      steps: gradient steps that `adapt` takes.
      step_size: alpha; the learner's own by default, the meta-learned ones if there are any.

    Raises:
      ValueError: an argument is out of range, or only one of E and H is given.
    """
    if (support_examples is None) != (horizon is None):
        raise ValueError(
            "support_examples and horizon say how large the episodes are that adapt takes; give "
            "both, or neither."
        )
    steps = arguments.count("steps", steps, 0)
    step_size = default_step_size(learner.inner, step_size)
    served = ServedPolicy(learner)
    specs = Specs(served)

    def act(observations, weights, noise):
        return served.actions(observations, weights, None, noise)

    def adapt(observations, actions, rewards, mask, weights, first_step=None):
        episodes = (observations, actions, rewards, mask)
        return served.weights_after(episodes, weights, steps, step_size, first_step)

    sizes: dict[str, Any] = {"query_examples": arguments.count("query_examples", query_examples, 1)}
    few = _sized([specs.observations, specs.noise], [query_examples])
    takes: dict[str, tuple] = {
        "initial_weights": (served.weights_before,),
        "act": (act, few[0], specs.weights, few[1]),
    }
    if support_examples is not None:
        sizes["support_examples"] = arguments.count("support_examples", support_examples, 1)
        sizes["horizon"] = arguments.count("horizon", horizon, 1)
        columns = _sized([*specs.episodes, specs.mask], [support_examples, horizon])
        first = specs.numbers[-1]  # where each step has its own step sizes
        takes["adapt"] = (adapt, *columns, specs.weights, *([] if first is None else [first]))
    with portable_gradients():
        signatures = {name: traced(*given) for name, given in takes.items()}
    return Servable(served, signatures, description(served, steps, step_size) | sizes)


def _sized(specs: Any, lengths: list[Any]) -> list[tf.TensorSpec]:
    """Specifications whose first axes have these lengths."""
    return [tf.TensorSpec([*lengths, *s.shape[len(lengths) :]], s.dtype, s.name) for s in specs]
