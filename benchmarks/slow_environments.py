"""When a process for each environment pays: a user's environment whose step takes some time.

A step either computes or waits (for a simulator elsewhere). Each line compares roll-outs of the
same episodes one after another and in processes.

python -m benchmarks.slow_environments --milliseconds 0.1 1 10
"""

from __future__ import annotations

import argparse
import time

import gymnasium
import numpy as np

from maml_tf.rl.sampler import Sampler


class Slow(gymnasium.Env):
    """Does nothing, slowly: 10 numbers of observation and 3 of action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (10,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    seconds, waits = 0.0, False

    def sample_tasks(self, rng, n):
        """Numbers without a meaning."""
        return rng.uniform(size=n)

    def set_task(self, task):
        """Heeds no task."""

    def reset(self, *, seed=None, options=None):
        """Starts an episode without an end."""
        super().reset(seed=seed)
        return np.zeros(10), {}

    def step(self, action):
        """Computes or waits."""
        if self.waits:
            time.sleep(self.seconds)
        else:
            until = time.thread_time() + self.seconds  # of a processor
            while time.thread_time() < until:
                pass
        return np.zeros(10), 0.0, False, False, {}


class Idle:
    """A policy whose actions are noise."""

    def __init__(self, tasks: int):
        self.log_stds = np.zeros((tasks, 3), np.float32)

    def __call__(self, observations, noise):
        """Actions and their means."""
        return noise, noise


def seconds(make, asynchronous: bool, tasks: int, episodes: int, horizon: int) -> float:
    sampler = Sampler(
        make, tasks=tasks, episodes=episodes, horizon=horizon, asynchronous=asynchronous
    )
    best = np.inf
    for index in range(3):
        drawn = sampler.sample_tasks(index)
        start = time.perf_counter()
        sampler.sample(Idle(tasks), drawn, index)
        best = min(best, time.perf_counter() - start)
    sampler.close()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[0.1, 1.0, 10.0])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--horizon", type=int, default=20)
    given = parser.parse_args()
    sizes = given.tasks, given.episodes, given.horizon
    for waits in (False, True):
        for length in given.milliseconds:
            make = type("Slow", (Slow,), {"seconds": length / 1e3, "waits": waits})
            alone, together = (seconds(make, a, *sizes) for a in (True, False))
            what = "waits" if waits else "computes"
            print(
                f"a step that {what} {length:g} ms: {together:.2f} s one after another, "
                f"{alone:.2f} s in processes, {together / alone:.1f} times as fast"
            )


if __name__ == "__main__":
    main()
