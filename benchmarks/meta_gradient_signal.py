"""How much of a policy's meta-gradient is signal: that of one meta-batch against that of others.

    python -m benchmarks.meta_gradient_signal --environment ant_direction --step_sizes 0.1 0.5

Meta-gradients g_i of independent meta-batches at the same weights, each of its own tasks and
trajectories. `cosine` is the mean over pairs of the cosine between them; `signal` is the root of
the mean over pairs of g_i . g_j, an unbiased estimate of the squared length of the expected
gradient; `noise` is the root of the mean of |g_i|^2 less that; `batches` is the square of noise
over signal: how many meta-batches have to be averaged until both are alike. `gain` is the mean
return after a step less that before. `length` is that of the first episodes, and `clipped` the
share of their action numbers that the environment clips.

Every option that takes several values is one axis of a grid.
"""

from __future__ import annotations

import argparse
import itertools
import os

import numpy as np
import tensorflow as tf

from maml_tf.rl.meta_vpg import MetaVPG
from maml_tf.rl.policy import GaussianPolicy
from maml_tf.rl.sampler import Sampler

FIRST = 1_000_000
"""Index of a meta-batch that no training has seen."""


def signal(gradients: np.ndarray) -> tuple[float, float, float]:
    """Mean cosine, signal and noise of gradients `[batches, n]`."""
    products = gradients @ gradients.T
    lengths = np.sqrt(np.diag(products))
    pairs = np.triu_indices(len(gradients), 1)
    cosine = float(np.mean((products / np.outer(lengths, lengths))[pairs]))
    squared = float(np.mean(products[pairs]))
    noise = max(float(np.mean(np.diag(products))) - squared, 0.0)
    return cosine, float(np.sign(squared)) * abs(squared) ** 0.5, noise**0.5


def meta_gradients(
    learner: MetaVPG, sampler: Sampler, batches: int
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Meta-gradients `[batches, n]`, and the means of `gain`, `length` and `clipped`."""
    slope = tf.function(lambda batch, at: learner.slope(batch)(at), autograph=False)
    values, found, seen = learner.inner.values(), [], []
    for index in range(batches):
        steps = [None] * learner.inner_steps
        rollouts = learner.roll_out_and_adapt(sampler, FIRST + index, steps)
        gradients = slope(rollouts.batches, values)
        found.append(np.concatenate([np.ravel(g) for g in gradients]))
        first = rollouts.batches[0]
        taken = first.mask.numpy() > 0
        clipped = np.mean(np.abs(first.actions.numpy()[taken]) > 1)
        gain = np.mean(rollouts.returns[:, -1] - rollouts.returns[:, 0])
        seen.append((gain, taken.mean() * rollouts.horizon, clipped))
    return np.stack(found), tuple(np.mean(seen, axis=0))


def stddev(text: str) -> float | None:
    """A number, or None for Glorot's initial kernel."""
    return None if text == "glorot" else float(text)


def main() -> None:
    """Prints a line a cell of the grid."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", default="cheetah_direction")
    parser.add_argument("--weights", help="initial.weights.h5 of a release; else random ones")
    parser.add_argument("--inner_losses", nargs="+", default=["likelihood_ratio"])
    parser.add_argument("--step_sizes", type=float, nargs="+", default=[0.1])
    parser.add_argument("--gae_lambdas", type=float, nargs="+", default=[1.0])
    parser.add_argument("--init_stds", type=float, nargs="+", default=[1.0])
    parser.add_argument("--head_stddevs", type=stddev, nargs="+", default=[None])
    parser.add_argument("--standardize", action="store_true", help="after one meta-batch")
    parser.add_argument("--tasks", type=int, nargs="+", default=[20])
    parser.add_argument("--shots", type=int, nargs="+", default=[20])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count() or 1)
    titles = ("inner loss", "alpha", "lambda", "std", "head's", "tasks", "shots")
    widths = (16, 6, 7, 6, 7, 6, 6)
    print(*(f"{t:>{w}s}" for t, w in zip(titles, widths, strict=True)), end="")
    measured = ("cosine", "signal", "noise", "batches", "gain", "length", "clipped")
    print("", *(f"{t:>10s}" for t in measured), flush=True)
    axes = (options.inner_losses, options.step_sizes, options.gae_lambdas)
    axes += (options.init_stds, options.head_stddevs, options.tasks, options.shots)
    for cell in itertools.product(*axes):
        inner_loss, step_size, gae_lambda, init_std, head_stddev, tasks, shots = cell
        sampler = Sampler(options.environment, tasks=tasks, episodes=shots, seed=options.seed)
        policy = GaussianPolicy(
            sampler.observation_size,
            sampler.action_size,
            seed=options.seed,
            init_std=init_std,
            head_stddev=head_stddev,
            standardize=options.standardize,
        )
        if options.weights:
            policy.stored.load_weights(options.weights)
        learner = MetaVPG(
            policy,
            meta_batch_size=tasks,
            step_size=step_size,
            inner_loss=inner_loss,
            gae_lambda=gae_lambda,
        )
        if options.standardize:
            rollouts = learner.roll_out_and_adapt(sampler, FIRST - 1, [None])
            policy.standardizer.update(rollouts.observed())
        gradients, (gain, length, clipped) = meta_gradients(learner, sampler, options.batches)
        cosine, strength, noise = signal(gradients)
        print(*(f"{c!s:>{w}s}" for c, w in zip(cell, widths, strict=True)), end=" ")
        needed = (noise / strength) ** 2 if strength > 0 else np.inf
        shown = (cosine, strength, noise, needed, gain, length, clipped)
        places = (4, 4, 4, 1, 2, 1, 3)
        print(*(f"{n:10.{p}f}" for n, p in zip(shown, places, strict=True)), flush=True)
        sampler.close()


if __name__ == "__main__":
    main()
