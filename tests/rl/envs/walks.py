"""Environments for processes of their own, in a module that is imported there without TensorFlow.

Each process imports what its environment is defined in, which takes seconds where that is a module
of tests.
"""

import os

import gymnasium
import numpy as np
from gymnasium.spaces import Box

MAIN = os.getpid()


class Walk(gymnasium.Env):
    """x' = x + a + noise towards a task's place; some episodes end."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-2.0, 1.0, (1,), np.float64)
    main = 0  # the process that is told by a class of `kind`
    note = ""  # a directory in which `close` leaves a note

    def sample_tasks(self, rng, n):
        return [{"place": place} for place in rng.uniform(-1, 1, n)]

    def set_task(self, task):
        self.place = task.pop("place")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.normal(), 0
        return np.array([self.x, self.place]), {}

    def step(self, action):
        self.x += float(action[0]) + self.np_random.normal()
        self.steps += 1
        ended = self.steps > 3 and self.x > self.place
        return np.array([self.x, self.place]), -abs(self.x - self.place), ended, False, {"a": 1}

    def close(self):
        if self.note and os.getpid() != self.main:
            open(f"{self.note}/{os.getpid()}", "w").close()


class Reset(Walk):
    """Takes its task at the reset."""

    set_task = property()  # none

    def reset(self, *, seed=None, options=None):
        self.place = options["task"]["place"]
        return super().reset(seed=seed)


gymnasium.register("Walk-v0", Walk, max_episode_steps=8)


def kind(**methods):
    return type("Bent", (Walk,), {"main": MAIN, **methods})


# --- faults ---


def boom(self, *args, **kwargs):
    raise RuntimeError("no device\nand a second line")


def later(self, action):
    self.count = getattr(self, "count", 0) + 1
    return boom(self) if self.count == 3 else Walk.step(self, action)


def four(self, action):
    return Walk.step(self, action)[: 4 if os.getpid() != self.main else 5]


def not_all(self, task):
    if os.getpid() != self.main and task["place"] > 0:
        boom(self)
    self.place = task["place"]


def dies(self, action):
    if self.steps == 2 and os.getpid() != self.main:
        os._exit(7)
    return Walk.step(self, action)


def made_once(self):
    if os.getpid() != self.main:
        boom(self)


def unsendable(self, rng, n):
    return [{"place": float(p), "of": (x for x in ())} for p in rng.uniform(-1, 1, n)]


class Unreadable:
    def __init__(self, process):
        self.process = process
        if os.getpid() != process:
            raise RuntimeError("not here")

    def __reduce__(self):
        return Unreadable, (self.process,)


def unreadable(self, rng, n):
    return [Unreadable(MAIN) for _ in range(n)]


def placed(self, task):
    self.place = 0.0
