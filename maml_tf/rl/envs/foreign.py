"""Any Gymnasium environment with tasks, in Gymnasium's own vector environments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from maml_tf.rl.envs import faults, spaces, task_forms
from maml_tf.rl.envs.base import Infos
from maml_tf.rl.envs.faults import EnvironmentFault
from maml_tf.rl.envs.guarded import Guarded, check, made, maker
from maml_tf.rl.envs.processes import Processes
from maml_tf.rl.envs.task_draws import TaskDraws


class ForeignTasks(gymnasium.vector.VectorWrapper):
    """P environments that have `sample_tasks(rng, n)` and `set_task(task)`, each with a task.

    One without `set_task` finds its task at each reset, in `options["task"]`.

    `sample_tasks` may take rng and n in any order and by any usual name, or n alone. A task may be
    a number, an array, a name, an index, a dictionary or any object; `set_task` is given what
    `sample_tasks` gave, a copy for each environment. Either may be a wrapper's: the outermost that
    has it is asked.

    Observations of any space are flattened to vectors, and actions are those of a policy's head
    (`spaces`): real ones in [-1, 1] are scaled to the action space and clipped, where it has bounds
    and their difference is finite. An environment that returns numbers that are not finite in
    float32, or a reward beyond 1e15, ends there: it keeps its last observation, its reward is 0,
    and `infos["diverged"]` marks it. The next step resets ended environments. Environments' own
    infos are not handed on.

    Whatever an environment raises, or returns against Gymnasium's interface, is a `ValueError` of
    one sentence that names the environment, the task and the step.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        *,
        oracle: bool = False,
        asynchronous: bool = False,
        name: str = "",
    ):
        """Makes the environments, and tries one of them for a step.

        Args:
          make: makes one environment.
          num_envs: P.
          oracle: append the task to the observation: its numbers, a dictionary's in the order of
            the keys.
          asynchronous: step each in a process of its own, with the same numbers.
          name: of the environment, for messages; by default its id or class.

        Raises:
          ValueError: the environment cannot be made, has no tasks, spaces that no policy is for,
            does not keep to Gymnasium's interface, or `make` returns the same object again.
        """
        self._one = made(make, name)
        self.name = name = name or faults.name_of(self._one)
        try:
            check(name, self._one)
        except ValueError:
            raise
        except Exception as error:  # of a property of the environment's
            raise faults.raised(name, "__init__", error) from error
        self._trial = Guarded(self._one, name)
        sample = self._one.get_wrapper_attr("sample_tasks")
        self._draws = TaskDraws(name, sample, self._trial)
        drawn = self._draws.refuse_other_chance(num_envs, self._begin)
        self._form = drawn[0] if task_forms.rows(drawn).dtype != object else None
        self._as_vector = self._try(drawn[0])
        self.oracle = oracle
        self._shown = self._numbers(task_forms.rows(drawn)) if oracle else np.zeros((num_envs, 0))
        self._vector = self._make_all(make, num_envs, asynchronous)
        super().__init__(self._vector)
        self.max_episode_steps = self._one.spec.max_episode_steps if self._one.spec else None
        self.own_observation_space = self._one.observation_space
        size = spaces.size_of(self.own_observation_space) + self._shown.shape[1]
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._for_environment = spaces.for_environment(self._one.action_space)
        self._last = np.zeros((num_envs, size), np.float32)
        self._tasks: list = list(drawn)
        self._steps = 0
        self._divergences = faults.Divergences(name)

    def _make_all(self, make: Callable, num_envs: int, asynchronous: bool) -> Any:
        """All environments in one; each has to be an object of its own."""
        if asynchronous:
            return Processes(make, self.name, num_envs, like=self._one)
        met = {id(self._one.unwrapped): self._one.unwrapped}
        try:
            return gymnasium.vector.SyncVectorEnv([maker(make, self.name, met)] * num_envs)
        except (Exception, SystemExit) as error:
            raise faults.raised(self.name, "__init__", error) from error

    def _begin(self, task: Any) -> None:
        """Sets a task, in the form that the environment takes, if it takes either."""
        for form in (task, np.array([task])):
            with contextlib.suppress(EnvironmentFault):
                self._trial.task = form
                return

    def _try(self, task: Any) -> bool:
        """Takes one step with a task; whether a number has to come as a vector of one."""
        try:
            self._try_as(task)
        except EnvironmentFault as fault:
            if not (
                isinstance(fault.__cause__, (TypeError, IndexError)) and task_forms.is_number(task)
            ):
                raise
            try:
                self._try_as(np.array([task]))
            except EnvironmentFault:
                raise fault from fault.__cause__
            return True
        return False

    def _try_as(self, task: Any) -> None:
        self._trial.task = task
        seen, _ = self._trial.reset(seed=0)
        if not faults.is_finite(seen[np.newaxis]):
            raise self._not_finite(task)
        self._trial.step(spaces.some_action(self._one.action_space))

    def _not_finite(self, task: Any) -> EnvironmentFault:
        return faults.wrong(
            self.name,
            "reset",
            "returned an observation that is not finite (NaN, infinite or beyond float32)",
            f"reset with task {faults.brief(task)}",
        )

    def sample_tasks(self, rng: np.random.Generator, num_tasks: int) -> np.ndarray:
        """Draws tasks, as the environment does.

        Returns:
          [num_tasks, G] float64 where the environment gives an array of floats, else
          [num_tasks] objects, each as the environment gives it.
        """
        drawn = self._draws(rng, num_tasks)
        made = task_forms.rows(drawn)
        kept = None if self._form is None else np.shape(self._form)
        now = None if made.dtype == object else np.shape(drawn[0])
        if kept != now:
            raise EnvironmentFault(
                f"{self.name} gave {_shape(kept)} as tasks before, and {_shape(now)} now; let "
                "sample_tasks give tasks of one form."
            )
        return made

    def set_tasks(self, tasks: np.ndarray) -> None:
        """Sets each environment's task: P rows of what `sample_tasks` returns.

        Raises:
          ValueError: there are not P of them, or they have another form.
        """
        if len(tasks) != self.num_envs:
            raise ValueError(f"{len(tasks)} tasks are given for {self.num_envs} environments.")
        if self.oracle:
            self._shown = self._numbers(tasks)
        self._tasks = self._given(tasks)
        self._vector.set_attr("task", self._tasks)

    def _given(self, tasks: np.ndarray) -> list:
        """Tasks as the environment gave them."""
        given: list = list(tasks)
        if self._form is not None and not _are_objects(tasks):
            form = np.asarray(self._form)
            try:
                given = list(np.reshape(tasks, (len(tasks), *form.shape)).astype(form.dtype))
            except ValueError as error:
                raise ValueError(
                    f"tasks have shape {list(np.shape(tasks))}; {self.name} takes "
                    f"{_shape(form.shape)}, one per row."
                ) from error
        if self._as_vector:
            given = [np.array([task]) if task_forms.is_number(task) else task for task in given]
        return given

    def _numbers(self, tasks: np.ndarray) -> np.ndarray:
        """What an oracle is shown of each task, [P, G]."""
        made = [task_forms.numbers_of(self.name, task) for task in tasks]
        shown = getattr(self, "_shown", None)
        size = len(made[0]) if shown is None else shown.shape[1]
        if any(len(one) != size for one in made):
            raise EnvironmentFault(
                f"{self.name} has tasks of different numbers of values, so that an oracle cannot "
                f"observe them; give every task {size}, or leave the oracle."
            )
        return np.stack(made)

    def reset(self, **kwargs) -> tuple[np.ndarray, Infos]:
        """Starts new episodes; returns observations [P, O] float32.

        Raises:
          ValueError: an observation is not finite.
        """
        observations, infos = self.env.reset(**kwargs)
        finite = faults.is_finite(observations)
        if not finite.all():
            raise self._not_finite(self._tasks[int(np.argmin(finite))])
        self._steps = 0
        self._divergences.clear()
        self._last = self._with_tasks(observations)
        return self._last, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Takes one action of the policy's in each environment, as `TaskVectorEnv.step`."""
        observations, rewards, terminated, truncated, infos = self.env.step(
            self._for_environment(actions)
        )
        self._steps += 1
        observations = self._with_tasks(observations)
        diverged = ~faults.can_be_learned(observations, rewards)
        if diverged.any():
            self._divergences.note(diverged, self._steps, actions, rewards)
            observations[diverged] = self._last[diverged]
            rewards[diverged] = 0.0
        self._last = observations
        infos = {**infos, "diverged": diverged}
        return observations, rewards, terminated | diverged, truncated, infos

    def refuse_divergence(self, rows: np.ndarray) -> None:
        """Refuses environments of which nothing was learned, as `Divergences.refuse`."""
        self._divergences.refuse(rows, self._tasks)

    def warn_of_divergence(self) -> None:
        """Says once that all episodes ended because numbers were not finite."""
        self._divergences.warn(self._tasks)

    def _with_tasks(self, observations: np.ndarray) -> np.ndarray:
        blocks = [observations, self._shown] if self.oracle else [observations]
        with np.errstate(over="ignore"):
            return np.concatenate(blocks, axis=1, dtype=np.float32)

    def close(self, **kwargs) -> None:
        """Closes all environments, the one that draws tasks among them."""
        with contextlib.suppress(Exception):
            self._trial.close()
        super().close(**kwargs)


def _are_objects(tasks: Any) -> bool:
    return isinstance(tasks, np.ndarray) and tasks.dtype == object


def _shape(shape: tuple[int, ...] | None) -> str:
    return "objects" if shape is None else f"floats of shape {list(shape)}"
