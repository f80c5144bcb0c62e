"""Seconds of a meta-RL iteration, split into sampling, inner steps and the parts of the meta-step.

    python -m benchmarks.meta_rl --environment cheetah_velocity --iterations 3

The learner is the command line's: 100-100 ReLU policy, two single-threaded pieces of the tasks at a
time on two cores. Beside the clock's seconds stand those of the processors, all cores added, which
other programs on the machine disturb less. `gradient`, `products` (ten) and `objective` (one place
of the line search) are measured alone, on the last iteration's trajectories. `--plain` measures
them in turns with TensorFlow Probability's own density and KL in place of the matrix products.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from maml_tf.engine import pieces
from maml_tf.engine.conjugate_gradient import flatten
from maml_tf.rl import distributions, trust_region
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import GaussianPolicy
from maml_tf.rl.sampler import Sampler

PRODUCTS = 10


def timed(function: Callable, *arguments: Any) -> tuple[float, float, Any]:
    """Seconds of the clock and of the processors until the result is there, and the result."""
    clock, processors = time.perf_counter(), time.process_time()
    result = function(*arguments)
    for tensor in tf.nest.flatten(result):
        if tf.is_tensor(tensor):
            tensor.numpy()
    return time.perf_counter() - clock, time.process_time() - processors, result


def parts(learner: MetaTRPO, number: int) -> dict[str, Callable]:
    """The parts of a meta-step, compiled alone: functions of theta, the batches and a share."""

    def gradient(values, batches, share):
        def slope(at, piece):
            return trust_region.slope(lambda x: learner.meta_objective(x, piece), at)

        return pieces.mean(slope)(values, pieces.cut(batches, number))

    def products(values, batches, share):
        product = pieces.MeanProduct(learner.kl_curvature, values)
        kept, start = product.prepare(pieces.cut(share, number)), flatten(values)

        def once_more(i, vector):
            return i + 1, product(vector, kept)

        return tf.while_loop(lambda i, _: i < PRODUCTS, once_more, [tf.constant(0), start])[1]

    def objective(values, batches, share):
        return pieces.mean(learner.meta_objective)(values, pieces.cut(batches, number))

    functions = {"gradient": gradient, "products": products, "objective": objective}
    return {name: tf.function(f, autograph=False) for name, f in functions.items()}


def show(name: str, clock: float, processors: float | None = None) -> None:
    """Prints one line."""
    of_both = "" if processors is None else f"{processors:8.2f} of processors"
    print(f"{name:28s}{clock:8.2f} s {of_both}", flush=True)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", default="cheetah_velocity")
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--inner_steps", type=int, default=1)
    parser.add_argument("--curvature_share", type=float, default=1.0)
    parser.add_argument("--pieces", type=int, default=None)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count() or 1)
    sampler = Sampler(options.environment, tasks=options.tasks, episodes=options.episodes)
    learner = MetaTRPO(
        GaussianPolicy(sampler.observation_size, sampler.action_size),
        meta_batch_size=options.tasks,
        inner_steps=options.inner_steps,
        curvature_share=options.curvature_share,
        pieces=options.pieces,
    )
    for index in range(options.iterations + 1):
        clock, processors, seen = timed(learner.meta_step, sampler, index)
        show("first iteration, compiling" if index == 0 else "iteration", clock, processors)
        for name in ("sampling", "inner", "meta_step") if index else ():
            show(f"  {name}", float(getattr(seen, f"{name}_seconds")))
    rollouts = learner.roll_out_and_adapt(sampler, 0, [None] * options.inner_steps)
    arguments = (
        [tf.convert_to_tensor(v.value) for v in learner.variables],
        rollouts.batches,
        rollouts.share(options.curvature_share),
    )
    steps = options.episodes * sampler.horizon
    number = options.pieces or pieces.default_number(options.tasks, steps)
    kinds = {"": distributions.DiagonalGaussian}
    if options.plain:
        kinds[", plain TFP"] = distributions.plain_gaussian
    measured = {}
    for kind, made in kinds.items():
        distributions.DiagonalGaussian = made
        for name, function in parts(learner, number).items():
            function(*arguments)  # compiles
            measured[name + kind] = function
    for name in sorted(measured) * (5 if options.plain else 1):
        show(f"    {name}", *timed(measured[name], *arguments)[:2])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{number} pieces, peak {peak:.0f} MB, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
