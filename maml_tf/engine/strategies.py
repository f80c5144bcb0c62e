"""What a `tf.distribute` strategy may be: the devices of one machine."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def refuse_several_workers(*strategies: Any) -> None:
    """Refuses strategies that spread over several processes.

    Checkpoints, validation and the stop signal know one process; several would wait for each other
    for ever, or end with different weights.

    Args:
      *strategies: any number, beside the one that is in force; None is none.

    Raises:
      ValueError: one of them has several workers.
    """
    for strategy in (tf.distribute.get_strategy(), *strategies):
        if strategy is not None and _has_several_workers(strategy):
            raise ValueError(
                f"{type(strategy).__name__} has several workers, which is not built yet; use "
                "tf.distribute.MirroredStrategy on the devices of one machine, or no strategy."
            )


def _has_several_workers(strategy: Any) -> bool:
    if isinstance(strategy, tf.distribute.experimental.ParameterServerStrategy):
        return True
    # TensorFlow's own answer has no public name; a strategy of other make may lack it.
    ask = getattr(strategy.extended, "_in_multi_worker_mode", None)
    if ask is not None and ask():
        return True
    resolver = getattr(strategy, "cluster_resolver", None)
    cluster = resolver.cluster_spec() if resolver is not None else None
    return cluster is not None and sum(map(cluster.num_tasks, cluster.jobs)) > 1
