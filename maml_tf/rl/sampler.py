"""Roll-outs of many tasks in lockstep: one policy call per time step and thread.

Shape letters: T tasks, E episodes per task, H horizon, O observation numbers, A action numbers,
G numbers of a task; P = T * E environments in parallel.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from maml_tf import arguments, seeds
from maml_tf.engine.workers import Workers
from maml_tf.rl import envs
from maml_tf.rl.actor import Act, DivisibleAct
from maml_tf.rl.envs import spaces, task_forms
from maml_tf.rl.envs.make import Given, Options, Tasked, make_environments, own_horizon
from maml_tf.rl.heads import Head
from maml_tf.types import Trajectories

_UNEVEN = 1.15
"""What threads with tasks of their own gain over steps of all as one (benchmarks/README.md):
0.87 / 0.75 of the physics."""


class _Part(NamedTuple):
    """What one thread rolls out: all episodes of some tasks."""

    act: Act
    env: Tasked
    observations: np.ndarray  # [tasks, E, O], the first ones
    noise: np.ndarray  # [H, tasks, E, ...]
    out: Trajectories  # to be filled


class Sampler:
    """E episodes of each of T tasks, all in step.

    What is drawn is a function of (seed, split, index, stage), whatever the number of threads.

    Attributes:
      observation_size: O.
      observation_shape: of the environment's own observations; None of several parts.
      shows_images: whether they are images.
      head: what a policy's actions are; see `heads`.
      action_size: A; of a `Discrete` space the number of choices.
      horizon: H.
      own: those of the T tasks whose episodes this process rolls out; all but of several workers.
      diverged: episodes, since the sampler was made, that ended because their simulation did.
    """

    def __init__(
        self,
        environment: Given,
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
        asynchronous: bool = False,
    ):
        """Makes the environments; of several workers, in their strategy's scope, each its own.

        Args:
          environment: a name of `envs.ENVIRONMENTS`; an id of Gymnasium's ("module:id" imports
            a module first), or a function that makes one environment, with
            `sample_tasks(rng, n)` and `set_task(task)` or `reset(options={"task": task})`; or P
            environments in one, with `sample_tasks(rng, n)` and `set_tasks(tasks [P, G])`.
          tasks: T.
          episodes: E.
          horizon: H; the environment's own if not given.
          seed: the run's seed, 0 or more.
          threads: native threads of MuJoCo; as many as processors if not given.
          dynamics: "paper" or "gymnasium", of this package's robots.
          squared_reward: minus the squared distance; of 2D navigation.
          oracle: append the task to the observation.
          resample: give each episode a task of its own: all tasks at once, as pre-training sees
            them.
          asynchronous: step each environment of your own in a process of its own, P of them: for
            slow ones (docs/performance.md). What is drawn stays the same.

        Raises:
          ValueError: a number is no whole one or below 1, the dynamics are unknown, an option is
            not the environment's, or the environment is unknown, its module cannot be imported,
            it has no tasks, no horizon, or spaces that no policy is for, or does not keep to
            Gymnasium's interface.
        """
        numbers = {"tasks": tasks, "episodes": episodes, "horizon": horizon, "threads": threads}
        for name, number in numbers.items():
            if number is not None and arguments.whole(name, number) < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1.")
        self.tasks = arguments.whole("tasks", tasks)
        self.episodes = arguments.whole("episodes", episodes)
        self.seed = arguments.count("seed", seed, 0)
        flags = {"squared_reward": squared_reward, "oracle": oracle, "resample": resample}
        flags["asynchronous"] = asynchronous
        for name, flag in flags.items():
            arguments.boolean(name, flag)
        self.diverged = 0
        self.resample = resample
        options = Options(horizon, oracle, asynchronous, dynamics, squared_reward, threads)
        workers = Workers()
        self.own = workers.share(self.tasks)
        self._rows = slice(self.own.start * self.episodes, self.own.stop * self.episodes)
        if self.tasks < workers.count:
            raise ValueError(
                f"{tasks} tasks are too few for {workers.count} workers, each of which needs one; "
                "raise --validation_tasks, --test_tasks or --meta_batch_size, or take fewer."
            )
        share = self._rows if workers.together else None
        self.env = make_environments(environment, tasks * episodes, options, share)
        self._stepped = self._steps_alone(share)
        self.horizon = horizon or own_horizon(environment, self.env)
        self.observation_size = spaces.size_of(self.env.single_observation_space)
        own = getattr(self.env, "own_observation_space", self.env.single_observation_space)
        self.observation_shape, self.shows_images = own.shape, spaces.is_image(own)
        self.head = spaces.head_for(self.env.single_action_space)
        self.bounds_actions = spaces.has_bounds(self.env.single_action_space)
        self.action_size = self.head.size
        self._cuts = self._cut()
        self._threads = ThreadPoolExecutor(len(self._cuts) or 1)

    def _cut(self) -> list[tuple[slice, envs.TaskVectorEnv]]:
        """The tasks of each thread and a view of their environments; none to step all as one.

        A thread that does all of some tasks, policy and physics, waits for no other. It pays where
        threads get nearly equal numbers of tasks; else MuJoCo shares out every step.
        """
        env, tasks = self._stepped, self.own.stop - self.own.start
        if not isinstance(env, envs.TaskVectorEnv) or env.threads == 1:
            return []
        if env.threads * math.ceil(tasks / env.threads) > _UNEVEN * tasks:
            return []
        firsts = [tasks * thread // env.threads for thread in range(env.threads + 1)]
        return [
            (slice(first, last), env.part(slice(first * self.episodes, last * self.episodes)))
            for first, last in itertools.pairwise(firsts)
        ]

    def _steps_alone(self, share: slice | None) -> Tasked:
        """The environments that this process steps: its share of those that all workers reset."""
        if share is None or not isinstance(self.env, envs.TaskVectorEnv):
            return self.env
        return self.env.part(share, self.env.threads)

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
        """Rolls out E episodes of each task; of several workers, of its own tasks (`own`).

        Args:
          act: the policy; of its own tasks' weights.
          tasks: what `sample_tasks` returns, [T, G], or [T, E, G]: one per episode.
          index: meta-batch number.
          stage: inner step; each has its own noise.
          split: "train", "val" or "test".

        Returns:
          New arrays, zero after an episode's end and at a step in which a simulation diverged.

        Raises:
          ValueError: if the tasks are not T, the policy's actions are of another kind, or an
            environment of your own raises an error, does not keep to Gymnasium's interface, or
            gives numbers that are not finite in every episode of a task.
        """
        self._check_kind(getattr(act, "head", self.head))
        tasks = task_forms.as_array(tasks)
        if len(tasks) != self.tasks:
            raise ValueError(
                f"{len(tasks)} tasks are given; the sampler was made for {self.tasks}."
            )
        rng = seeds.generator(self.seed, split, f"episodes of stage {stage}", index)
        shape = (self.tasks, self.episodes)
        one_per_episode = tasks.ndim == (2 if tasks.dtype == object else 3)
        each = tasks if one_per_episode else np.repeat(tasks[:, None], self.episodes, axis=1)
        observations = self._reset(each, int(rng.integers(2**31)))
        noise = self.head.noise(rng, (self.horizon, *shape))[:, self.own]
        trajectories = self._empty(act)
        parts = [_Part(act, self._stepped, observations, noise, trajectories)]
        if self._cuts and isinstance(act, DivisibleAct):
            parts = [
                _Part(act.part(t), env, observations[t], noise[:, t], trajectories.part(t))
                for t, env in self._cuts
            ]
        run = self._threads.map if len(parts) > 1 else map
        diverged = sum(run(self._roll_out, parts))
        self.diverged += diverged
        if diverged and isinstance(self.env, (envs.ForeignTasks, envs.ForeignVector)):
            nothing = trajectories.mask.sum((1, 2)) == 0  # to learn from, of a task
            self.env.refuse_divergence(np.flatnonzero(np.repeat(nothing, self.episodes)))
            if diverged == trajectories.mask.shape[0] * self.episodes:
                self.env.warn_of_divergence()
        return trajectories

    def _reset(self, tasks: np.ndarray, seed: int) -> np.ndarray:
        """Starts all episodes with their tasks `[T, E, ...]`; returns its own, `[tasks, E, O]`."""
        each = tasks.reshape(-1, *tasks.shape[2:])
        if self.env.num_envs == len(each):
            self.env.set_tasks(each)
            observations, _ = self.env.reset(seed=seed)
            observations = observations[self._rows]
        else:  # They are only its own, and seeded as they would be among all.
            self.env.set_tasks(each[self._rows])
            seeds_of: Any = [seed + row for row in range(self._rows.start, self._rows.stop)]
            observations, _ = self.env.reset(seed=seeds_of)
        return observations.reshape(-1, self.episodes, *observations.shape[1:])

    def _roll_out(self, part: _Part) -> int:
        """Fills `part.out`; returns how many simulations diverged."""
        act, env, observations, noise, out = part
        shape, diverged = out.rewards.shape[:2], 0
        alive = np.ones(shape, np.float32)
        for step in range(self.horizon):
            actions, outputs = (np.asarray(a) for a in act(observations, noise[step]))
            out.observations[:, :, step] = observations
            out.actions[:, :, step] = actions
            out.outputs[:, :, step] = outputs
            observations, rewards, terminated, truncated, infos = env.step(
                actions.reshape(-1, *self.head.action_shape)
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
            for array in (out.observations, out.actions, out.outputs):
                array[never] = 0.0
        return diverged

    def _empty(self, act: Act) -> Trajectories:
        """Zeros to be filled."""
        shape = (self.own.stop - self.own.start, self.episodes, self.horizon)
        sizes = {
            "observations": (self.observation_size,),
            "rewards": (),
            "mask": (),
            "outputs": (self.head.output_size,),
        }
        return Trajectories(
            **{name: np.zeros(shape + size, np.float32) for name, size in sizes.items()},
            actions=np.zeros(shape + self.head.action_shape, self.head.dtype),
            log_stds=np.array(act.log_stds, np.float32),
        )

    def _check_kind(self, head: Head) -> None:
        kinds = [(own.action_shape, own.dtype, own.output_size) for own in (head, self.head)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"The policy's actions are of {head}, and the environment's of {self.head}; make "
                "the policy by maml_tf.rl.policy_for(sampler)."
            )

    def close(self) -> None:
        """Ends the environments' threads and processes."""
        self._threads.shutdown()
        for _, env in self._cuts:
            env.close()
        self.env.close()
