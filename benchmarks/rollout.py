"""Environment steps per second: sampler, bare physics, and Gymnasium's vector environments.

    python -m benchmarks.rollout --environments cheetah_velocity ant_velocity

All on the paper's dynamics, in turn within each round. `physics` is MuJoCo's own roll-out of the
same model and as many states, one call an action, with random actions and no sensors' use; its
threads are the sampler's. `sync` and `async` are Gymnasium's own HalfCheetah-v5 and Ant-v5 with the
paper's time step and frame skip, in its SyncVectorEnv and AsyncVectorEnv.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np

from maml_tf.rl import envs
from maml_tf.rl.envs import ant
from maml_tf.rl.envs.mujoco_base import cores
from maml_tf.rl.policy import Actor, GaussianPolicy
from maml_tf.rl.sampler import Sampler

ASSETS = "envs/mujoco/assets"
ROBOTS = {
    "cheetah": ("HalfCheetah-v5", "half_cheetah.xml"),
    "ant": ("Ant-v5", "ant.xml"),
}


def actor(made: Sampler, tasks: int) -> Actor:
    """The paper's policy, 100-100 ReLU, with weights of each task's own."""
    policy = GaussianPolicy(made.observation_size, made.action_size)
    return policy.actor([np.stack([v.numpy()] * tasks) for v in policy.variables], tasks)


def sampler(name: str, options: argparse.Namespace) -> Callable[[], float]:
    """Steps a second of a whole roll-out, policy included; only steps that count."""
    made = Sampler(name, tasks=options.tasks, episodes=options.episodes, threads=options.threads)
    policy = actor(made, options.tasks)
    tasks = made.sample_tasks(0)
    made.sample(policy, tasks, 0)

    def measure() -> float:
        start = time.perf_counter()
        steps = made.sample(policy, tasks, 0).mask.sum()
        return steps / (time.perf_counter() - start)

    return measure


def physics(name: str, options: argparse.Namespace) -> Callable[[], float]:
    """Steps a second of MuJoCo alone: the same number of states, all steps of the horizon."""
    count = options.tasks * options.episodes
    env = envs.make_vector(name, count, threads=options.threads)
    env.reset(seed=0)
    horizon = envs.ENVIRONMENTS[name].horizon
    controls = np.random.default_rng(0).normal(size=(horizon, count, 1, env.action_size))
    np.clip(controls, -1, 1, out=controls)  # as the sampler's
    first = env._state.copy()
    after, sensed = np.empty((count, 1, first.shape[1])), np.empty((count, 1, env._sensed.shape[2]))

    def measure() -> float:
        state = first
        start = time.perf_counter()
        for control in controls:
            env._pool.rollout(
                env._models,
                env._data,
                state,
                control,
                nstep=1,
                state=after,
                sensordata=sensed,
                skip_checks=True,
            )
            state = after[:, 0].copy()
        return horizon * count / (time.perf_counter() - start)

    return measure


def peer(name: str, options: argparse.Namespace, mode: str) -> Callable[[], float]:
    """Steps a second of Gymnasium's own vector environment, random actions."""
    robot, file = ROBOTS[name.split("_")[0]]
    model = mujoco.MjSpec.from_file(str(Path(gymnasium.__file__).parent / ASSETS / file))
    if robot == "Ant-v5":
        model.option.timestep = ant.AntVelocity.timestep["paper"]
        for geom in model.geoms:
            geom.solimp[:3] = ant.SOFT_CONTACTS
    model.compile()
    count = options.peer_envs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_text(model.to_xml())
        vector = gymnasium.make_vec(
            robot, num_envs=count, vectorization_mode=mode, xml_file=str(path), frame_skip=1
        )
        vector.reset(seed=0)
    vector.action_space.seed(0)
    actions = [vector.action_space.sample() for _ in range(20)]

    def measure() -> float:
        start = time.perf_counter()
        steps = 0
        while time.perf_counter() - start < options.seconds:
            for action in actions:
                vector.step(action)
            steps += len(actions) * count
        return steps / (time.perf_counter() - start)

    return measure


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", nargs="+", default=["cheetah_velocity", "ant_velocity"])
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--peer_envs", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name in options.environments:
        measures = {
            "sampler": sampler(name, options),
            "physics": physics(name, options),
            "sync": peer(name, options, "sync"),
            "async": peer(name, options, "async"),
        }
        rates = {key: [] for key in measures}
        for _ in range(options.rounds):
            for key, measure in measures.items():
                rates[key].append(measure())
        medians = {key: statistics.median(values) for key, values in rates.items()}
        fastest = {key: max(values) for key, values in rates.items()}
        for kind, found in (("median", medians), ("best", fastest)):
            peer_rate = max(found["sync"], found["async"])
            print(
                name,
                kind,
                {key: round(rate) for key, rate in found.items()},
                f"sampler / physics {found['sampler'] / found['physics']:.2f},",
                f"sampler / the faster peer {found['sampler'] / peer_rate:.1f}",
            )


if __name__ == "__main__":
    main()
