"""How much of what a meta-RL step gains on its own trajectories it gains on fresh ones.

    python -m benchmarks.step_quality logs/cheetah_direction --shares 1 0.2

Natural gradients follow curvature and slope of the same episodes, whose noise they fit. Each
direction is taken to the same mean KL on fresh trajectories of other tasks; gains are of the
surrogate, to first order, in deviations of the advantage: on the trajectories that made the
direction, and on the fresh ones.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import tensorflow as tf

from benchmarks.meta_rl import parts
from maml_tf.cli import runs
from maml_tf.engine import pieces
from maml_tf.engine.conjugate_gradient import flatten, unflatten
from maml_tf.experiments import machine
from maml_tf.experiments.build import make_tasks
from maml_tf.rl import trust_region

FIRST = 1_000_000
"""Index of a meta-batch that no training has seen."""


def natural(learner, number: int, iterations: int):
    """The direction of `iterations` conjugate gradients: of weights, slope, share and damping."""

    def direction(values, slope, share, damping):
        product = pieces.MeanProduct(learner.kl_curvature, values)
        kept = product.prepare(pieces.cut(share, number))

        def times(vector):
            return product(vector, kept)

        return trust_region.natural_gradient(times, slope, damping, iterations)[0]

    return tf.function(direction, autograph=False)


def main() -> None:
    """Prints a line a direction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a trained run's directory")
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.2])
    parser.add_argument("--iterations", type=int, nargs="+", default=[10])
    parser.add_argument("--dampings", type=float, nargs="+", help="the learner's by default")
    parser.add_argument("--fresh", type=int, default=3, help="meta-batches to judge by")
    options = parser.parse_args()
    directory, made = runs.locate({}, [options.run])
    machine.set_up(made.machine)
    learner, iteration = runs.restore(directory, made)
    sampler = make_tasks(made, "train")
    values = [tf.convert_to_tensor(v.value) for v in learner.variables]

    def roll_out(index):
        return learner.roll_out_and_adapt(sampler, FIRST + index, [None] * learner.inner_steps)

    own, *fresh = (roll_out(index) for index in range(1 + options.fresh))
    number = pieces.default_number(*own.batches[-1].mask.shape)
    compiled = parts(learner, number)
    slopes = [compiled["gradient"](values, r.batches, None)[1] for r in (own, *fresh)]
    expected = tf.add_n(slopes[1:]) / len(fresh)

    def show(name, along):
        length, along = 0.01, along / tf.norm(along)
        for _ in range(5):  # the KL is all but quadratic
            moved = unflatten(flatten(values) - length * along, values)
            apart = np.mean([compiled["objective"](moved, r.batches, None)[1] for r in fresh])
            length *= float(np.sqrt(learner.max_kl / apart))
        own_gain, gain = (length * tf.tensordot(along, s, 1) for s in (slopes[0], expected))
        print(f"{name:44s}{length:9.4f}{own_gain:10.5f}{gain:10.5f}", flush=True)

    print(f"{directory.name}, iteration {iteration}, mean KL {learner.max_kl:g}")
    print(f"{'direction':44s}{'length':>9s}{'own':>10s}{'fresh':>10s}")
    show("gradient", slopes[0])
    dampings = options.dampings or [learner.damping]
    for iterations in options.iterations:
        function = natural(learner, number, iterations)
        for share, damping in itertools.product(options.shares, dampings):
            name = f"{iterations} CG iterations, share {share:g}, damping {damping:g}"
            show(name, function(values, slopes[0], own.share(share), tf.constant(damping)))


if __name__ == "__main__":
    main()
