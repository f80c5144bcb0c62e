"""The environments by name: where each is, and what a problem of it is made of.

Nothing of Gymnasium is imported here, so that the command line knows them at once. A new
environment is its module in `envs/` and an entry here.
"""

from __future__ import annotations

from typing import NamedTuple


class Environment(NamedTuple):
    """Where an environment is, when its episodes end, and how it is evaluated."""

    id: str  # Gymnasium's
    place: str  # module:class in `envs/`
    horizon: int  # H
    title: str  # for figures and tables
    options: tuple[str, ...] = ("dynamics", "threads")  # of its own; these are MuJoCo's
    test_steps: int = 3  # gradient steps of an evaluation
    walks_on_a_plane: bool = False  # whether an evaluation keeps paths for a picture


ENVIRONMENTS = {
    "navigation_2d": Environment(
        "maml_tf/Navigation2D-v0",
        "point:Navigation2D",
        100,
        "2D navigation",
        options=("squared",),
        test_steps=4,
        walks_on_a_plane=True,
    ),
    "cheetah_velocity": Environment(
        "maml_tf/HalfCheetahVelocity-v0",
        "half_cheetah:HalfCheetahVelocity",
        200,
        "half-cheetah, goal velocity",
    ),
    "cheetah_direction": Environment(
        "maml_tf/HalfCheetahDirection-v0",
        "half_cheetah:HalfCheetahDirection",
        200,
        "half-cheetah, forward/backward",
    ),
    "ant_velocity": Environment(
        "maml_tf/AntVelocity-v0", "ant:AntVelocity", 200, "ant, goal velocity"
    ),
    "ant_direction": Environment(
        "maml_tf/AntDirection-v0", "ant:AntDirection", 200, "ant, forward/backward"
    ),
    "ant_goal": Environment("maml_tf/AntGoal-v0", "ant:AntGoal", 200, "ant, goal place"),
}
"""By the value of --problem."""
