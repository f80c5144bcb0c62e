"""The paper's environments, registered with Gymnasium.

gymnasium.make("maml_tf/HalfCheetahVelocity-v0")
gymnasium.make_vec("maml_tf/AntGoal-v0", num_envs=800, vectorization_mode="vector_entry_point")
"""

from maml_tf.rl.environments import ENVIRONMENTS
from maml_tf.rl.envs.base import TaskVectorEnv
from maml_tf.rl.envs.foreign import ForeignTasks
from maml_tf.rl.envs.foreign_vector import ForeignVector
from maml_tf.rl.envs.registry import make_single, make_vector, register
from maml_tf.rl.envs.single import TaskEnv

__all__ = [
    "ENVIRONMENTS",
    "ForeignTasks",
    "ForeignVector",
    "TaskEnv",
    "TaskVectorEnv",
    "make_single",
    "make_vector",
    "register",
]

register()
