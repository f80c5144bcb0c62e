"""Roll-outs of many tasks in lockstep: one policy call a time step and thread.

Shape letters: T tasks, E episodes a task, H horizon, O observation numbers, A action numbers,
G numbers of a task; B = T * E environments.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.spaces import flatdim

from maml_tf import arguments, seeds
from maml_tf.rl import envs
from maml_tf.types import Trajectories

_UNEVEN = 1.15
"""What lanes gain over steps of all as one (benchmarks/README.md): 0.87 / 0.75 of the physics."""


class Act(Protocol):
    """A policy of T tasks, each with its own weights.

    One with `part(tasks: slice) -> Act` may be asked for the actions of some tasks by each of
    several threads at the same time.
    """

    log_stds: np.ndarray  # [T, A]

    def __call__(self, observations: np.ndarray, noise: np.ndarray) -> tuple:
        """Acts.

        Args:
            observations: [T, E, O] float32.
            noise: [T, E, A] float32, standard normal.

        Returns:
            Actions and their means, each [T, E, A].
        """
        ...


class Sampler:
    """E episodes of each of T tasks, all in step.

    What is drawn is a function of (seed, split, index, stage), whatever the number of threads.

    Attributes:
        observation_size: O.
        action_size: A.
        horizon: H.
        diverged: episodes, since the sampler was made, that ended because their simulation did.
    """

    def __init__(
        self,
        environment: str | Callable[[], gymnasium.Env] | gymnasium.vector.VectorEnv,
        *,
        tasks: int,
        episodes: int,
        horizon: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        dynamics: str = "paper",
        squared_reward: bool = False,
        oracle: bool = False,
        resample: bool = False,
    ):
        """Makes the environments.

        Args:
            environment: a name of `envs.ENVIRONMENTS`; an id of Gymnasium's ("module:id" imports
                a module first), or a function that makes one environment, with
                `sample_tasks(rng, n)` and `set_task(task)`; or B environments in one, with
                `sample_tasks(rng, n)` and `set_tasks(tasks [B, G])`.
            tasks: T.
            episodes: E.
            horizon: H; the environment's own if not given.
            seed: the run's seed, 0 or more.
            threads: native threads of MuJoCo; as many as processors if not given.
            dynamics: "paper" or "gymnasium", of this package's robots.
            squared_reward: minus the squared distance; of 2D navigation.
            oracle: append the task to the observation.
            resample: a task of each episode's own: all tasks at once, as pre-training sees them.

        Raises:
            ValueError: a number is no whole one or below 1, the dynamics are unknown, an option is
                not the environment's, or the environment is unknown, its module cannot be imported,
                it has no tasks, no horizon, or other actions than vectors of real numbers, or does
                not keep to Gymnasium's interface.
        """
        numbers = {"tasks": tasks, "episodes": episodes, "horizon": horizon, "threads": threads}
        for name, number in numbers.items():
            if number is not None and arguments.whole(name, number) < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1.")
        self.tasks = arguments.whole("tasks", tasks)
        self.episodes = arguments.whole("episodes", episodes)
        self.seed = arguments.count("seed", seed, 0)
        flags = {"squared_reward": squared_reward, "oracle": oracle, "resample": resample}
        for name, flag in flags.items():
            arguments.boolean(name, flag)
        self.diverged = 0
        self.resample = resample
        _check_options(environment, dynamics, squared_reward, oracle)
        options = {"threads": threads, "dynamics": dynamics, "squared": squared_reward}
        self.env = _make(environment, tasks * episodes, horizon, oracle, options)
        self.horizon = horizon or self._own_horizon(environment)
        self.observation_size = flatdim(self.env.single_observation_space)
        self.action_size = flatdim(self.env.single_action_space)
        self._lanes = self._cut()
        self._threads = ThreadPoolExecutor(len(self._lanes) or 1)

    def _own_horizon(self, environment: Any) -> int:
        """The environment's own H."""
        name = getattr(self.env, "name", None) or type(self.env).__name__
        name = environment if isinstance(environment, str) else name
        own = getattr(self.env, "max_episode_steps", None)
        if own is None or own == -1:  # Gymnasium's two words for no end
            raise ValueError(f"{name}'s episodes have no end; give a horizon (--horizon).")
        return arguments.count(f"max_episode_steps of {name}", own, 1)

    def _cut(self) -> list[tuple[slice, envs.TaskVectorEnv]]:
        """The tasks of each thread and a view of their environments; none to step all as one.

        A thread that does all of some tasks, policy and physics, waits for no other. It pays where
        threads get nearly equal numbers of tasks; else MuJoCo shares out every step.
        """
        env, tasks = self.env, self.tasks
        if not isinstance(env, envs.TaskVectorEnv) or env.threads == 1:
            return []
        if env.threads * math.ceil(tasks / env.threads) > _UNEVEN * tasks:
            return []
        firsts = [tasks * lane // env.threads for lane in range(env.threads + 1)]
        return [
            (slice(first, last), env.part(slice(first * self.episodes, last * self.episodes)))
            for first, last in itertools.pairwise(firsts)
        ]

    def sample_tasks(self, index: int, split: str = "train") -> np.ndarray:
        """Draws the tasks of meta-batch `index`: [T, G], or with `resample` [T, E, G].

        Without [G] where an environment of your own has other tasks than arrays of floats: they are
        objects, each as the environment gave it.
        """
        count = self.tasks * (self.episodes if self.resample else 1)
        drawn = self.env.sample_tasks(
            seeds.generator(self.seed, split, "tasks of episodes", index), count
        )
        if not self.resample:
            return drawn
        return drawn.reshape(self.tasks, self.episodes, *drawn.shape[1:])

    def sample(
        self, act: Act, tasks: np.ndarray, index: int, stage: int = 0, split: str = "train"
    ) -> Trajectories:
        """Rolls out E episodes of each task.

        Args:
            act: the policy.
            tasks: what `sample_tasks` returns, [T, G], or [T, E, G]: one an episode.
            index: meta-batch number.
            stage: inner step; each has its own noise.
            split: "train", "val" or "test".

        Returns:
            New arrays, zero after an episode's end and at a step in which a simulation diverged.

        Raises:
            ValueError: if the tasks are not T, or an environment of your own raises an error, does
                not keep to Gymnasium's interface, or gives numbers that are not finite in every
                episode of a task.
        """
        tasks = _as_array(tasks)
        if len(tasks) != self.tasks:
            raise ValueError(
                f"{len(tasks)} tasks are given; the sampler was made for {self.tasks}."
            )
        rng = seeds.generator(self.seed, split, f"episodes of stage {stage}", index)
        shape = (self.tasks, self.episodes)
        one_an_episode = tasks.ndim == (2 if tasks.dtype == object else 3)
        each = tasks if one_an_episode else np.repeat(tasks[:, None], self.episodes, axis=1)
        self.env.set_tasks(each.reshape(-1, *each.shape[2:]))
        observations, _ = self.env.reset(seed=int(rng.integers(2**31)))
        observations = observations.reshape(*shape, -1)
        noise = rng.standard_normal((self.horizon, *shape, self.action_size), np.float32)
        trajectories = self._empty(act)
        lanes: list[tuple[Any, ...]] = [(act, self.env, observations, noise, trajectories)]
        if self._lanes and hasattr(act, "part"):
            lanes = [
                (act.part(t), env, observations[t], noise[:, t], trajectories.part(t))
                for t, env in self._lanes
            ]
        run = self._threads.map if len(lanes) > 1 else map
        diverged = sum(run(lambda lane: self._roll_out(*lane), lanes))
        self.diverged += diverged
        if diverged and isinstance(self.env, (envs.ForeignTasks, envs.ForeignVector)):
            nothing = trajectories.mask.sum((1, 2)) == 0  # to learn from, of a task
            self.env.refuse_divergence(np.flatnonzero(np.repeat(nothing, self.episodes)))
            if diverged == self.tasks * self.episodes:
                self.env.warn_of_divergence()
        return trajectories

    def _roll_out(
        self, act: Act, env: Any, observations: np.ndarray, noise: np.ndarray, out: Trajectories
    ) -> int:
        """Fills `out`; returns how many simulations diverged. Shapes as in `Act`, some tasks."""
        shape, diverged = out.rewards.shape[:2], 0
        alive = np.ones(shape, np.float32)
        for step in range(self.horizon):
            actions, means = (np.asarray(a) for a in act(observations, noise[step]))
            out.observations[:, :, step] = observations
            out.actions[:, :, step] = actions
            out.means[:, :, step] = means
            observations, rewards, terminated, truncated, infos = env.step(
                actions.reshape(-1, self.action_size)
            )
            observations = observations.reshape(*shape, -1)
            if "diverged" in infos:
                lost = infos["diverged"].reshape(shape) & (alive > 0)
                diverged += int(lost.sum())
                alive[lost] = 0.0
            out.mask[:, :, step] = alive
            np.multiply(
                rewards.reshape(shape), alive, out=out.rewards[:, :, step], casting="same_kind"
            )
            ended = terminated | truncated
            if ended.any():
                alive[ended.reshape(shape)] = 0.0
                if not alive.any():
                    break
        if not out.mask.all():
            never = out.mask == 0.0
            for array in (out.observations, out.actions, out.means):
                array[never] = 0.0
        return diverged

    def _empty(self, act: Act) -> Trajectories:
        """Zeros to be filled."""
        shape = (self.tasks, self.episodes, self.horizon)
        sizes = {
            "observations": (self.observation_size,),
            "actions": (self.action_size,),
            "rewards": (),
            "mask": (),
            "means": (self.action_size,),
        }
        arrays = {name: np.zeros(shape + size, np.float32) for name, size in sizes.items()}
        return Trajectories(**arrays, log_stds=np.array(act.log_stds, np.float32))

    def close(self) -> None:
        """Ends the environments' threads and processes."""
        self._threads.shutdown()
        for _, env in self._lanes:
            env.close()
        self.env.close()


def _check_options(environment: Any, dynamics: str, squared_reward: bool, oracle: bool) -> None:
    """Refuses options that the environment would not heed."""
    envs.registry.check_dynamics(dynamics)
    used = {"dynamics": dynamics != "paper", "squared": squared_reward}
    entry = envs.ENVIRONMENTS.get(_own_name(environment))
    for option, argument in (("dynamics", "dynamics"), ("squared", "squared_reward")):
        if used[option] and (entry is None or option not in entry.options):
            having = [name for name, e in envs.ENVIRONMENTS.items() if option in e.options]
            raise ValueError(f"{argument} is for {', '.join(having)}; drop it.")
    made = isinstance(environment, gymnasium.vector.VectorEnv)
    if made and oracle and not getattr(environment, "oracle", False):
        raise ValueError(
            f"oracle is True, and {type(environment).__name__} is made already without its tasks "
            "in the observation; make it with oracle=True, or drop it."
        )


def _own_name(environment: Any) -> str:
    """The name in `envs.ENVIRONMENTS` of what is given by its id; else as given, or none."""
    if not isinstance(environment, str):
        return ""
    ids = {entry.id: name for name, entry in envs.ENVIRONMENTS.items()}
    return ids.get(environment, environment)


def _make(
    environment: str | Callable[[], gymnasium.Env] | gymnasium.vector.VectorEnv,
    num_envs: int,
    horizon: int | None,
    oracle: bool,
    options: dict,
) -> envs.TaskVectorEnv | envs.ForeignTasks | envs.ForeignVector:
    """B environments with `sample_tasks` and `set_tasks`."""
    if isinstance(environment, gymnasium.vector.VectorEnv):
        _check(environment, num_envs)
        if isinstance(environment, (envs.TaskVectorEnv, envs.ForeignTasks)):
            return environment
        return envs.ForeignVector(environment)
    if not isinstance(environment, str):
        return envs.ForeignTasks(environment, num_envs, oracle=oracle)
    name = _own_name(environment)
    if name in envs.ENVIRONMENTS:
        known = envs.ENVIRONMENTS[name]
        return envs.make_vector(
            name,
            num_envs,
            max_episode_steps=horizon or known.horizon,
            oracle=oracle,
            autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
            **{key: options[key] for key in known.options},
        )
    _register(environment)
    id = environment.rpartition(":")[2]
    return envs.ForeignTasks(
        # Without Gymnasium's own checker: `ForeignTasks` says what is wrong in a sentence.
        lambda: gymnasium.make(id, max_episode_steps=horizon, disable_env_checker=True),
        num_envs,
        oracle=oracle,
        name=id,
    )


def _register(environment: str) -> None:
    """Imports the module of "module:id", and refuses an id that is not registered then."""
    module, _, id = environment.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _prefixes(module):
            raise ValueError(f"{error}; is the directory of {module} on PYTHONPATH?") from error
        raise ValueError(
            f"{module} cannot be imported, for it raised {envs.faults.brief(error)}; mend it until "
            f'python -c "import {module}" works.'
        ) from error
    try:
        gymnasium.spec(id)
    except (gymnasium.error.Error, ValueError, TypeError) as error:
        unknown = f"environment {id!r} is unknown"
        if module:
            unknown += f", for {module} does not register it"
        raise ValueError(
            f"{unknown}; use one of {', '.join(envs.ENVIRONMENTS)}, or an id that is registered "
            "with Gymnasium."
        ) from error


def _prefixes(module: str) -> list[str]:
    """The packages of a module, and itself."""
    return list(itertools.accumulate(module.split("."), lambda head, tail: f"{head}.{tail}"))


def _as_array(tasks: Any) -> np.ndarray:
    """Tasks as an array: of numbers [T, G] or [T, E, G], or of objects [T] or [T, E]."""
    if isinstance(tasks, np.ndarray):
        return tasks
    try:
        array = np.asarray(tasks, np.float64)
    except Exception:  # of numbers beyond all floats, or of tasks of the user's
        array = np.zeros(0)
    if array.ndim > 1:
        return array
    if not isinstance(tasks, (list, tuple)):
        raise ValueError(
            f"the tasks given are {envs.faults.brief(tasks)}; give what sample_tasks returns."
        )
    return envs.task_forms.rows(tasks)


def _check(environment: gymnasium.vector.VectorEnv, num_envs: int) -> None:
    """Refuses a vector environment that lacks tasks, has other spaces, or another size."""
    name = type(environment).__name__
    if not hasattr(environment, "set_tasks") or not hasattr(environment, "sample_tasks"):
        raise ValueError(
            f"{name} has no tasks; give it sample_tasks(rng, n) and set_tasks(tasks), or wrap its "
            "environments with maml_tf.rl.envs.ForeignTasks."
        )
    if environment.num_envs != num_envs:
        raise ValueError(
            f"{name} holds {environment.num_envs} environments; tasks x episodes are {num_envs}."
        )
    envs.foreign.check_spaces(
        name, environment.single_observation_space, environment.single_action_space
    )
