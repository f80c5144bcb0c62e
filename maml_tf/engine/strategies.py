"""Which `tf.distribute` strategy a learner is made in: of one device, one machine, or several."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

_LOG = logging.getLogger(__name__)

KINDS = ("none", "mirrored", "multiworker")
"""What `strategy` makes."""

PATIENCE = 600.0
"""Seconds that a worker waits for the others in one exchange. A worker that dies is known within
ten, by TensorFlow's own heartbeat; this is for one that lives and does not come."""

_NEWS = 60.0
"""Seconds of waiting for the others' start after which a worker says so."""

_PAUSE = 0.2
"""Seconds between two tries."""

_TASK = '"task": {"type": "worker", "index": 0}'
_EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, ' + _TASK + "}"
_JOBS = ("chief", "worker")
_ANY = 1 << 20
"""GPUs that a node may have, and so tasks."""
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS")


def strategy(kind: str = "none") -> tf.distribute.Strategy:
    """The strategy in whose scope model, optimizer and learner are to be made.

    Args:
      kind: "none": the one in force; "mirrored": all accelerators of this machine; "multiworker":
        the processes that the environment variable `TF_CONFIG` names, or else those of a Slurm
        step (`srun`). It waits for all of them, and has to be made before TensorFlow's first
        operation.

    Raises:
      ValueError: the kind is none of these, nothing says who the workers are or what says so is
        malformed, TensorFlow is already at work, or this worker's address is in use.
    """
    if kind not in KINDS:
        raise ValueError(f"A strategy is one of {', '.join(KINDS)}; not {kind!r}.")
    if kind == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy() if kind == "none" else _multiworker()


def refuse_parameter_servers(given: Any) -> None:
    """Refuses a strategy whose workers do not take every step together.

    Raises:
      ValueError: it is one.
    """
    if isinstance(given, tf.distribute.experimental.ParameterServerStrategy):
        raise ValueError(
            f"{type(given).__name__} has workers that do not step together, which a meta-step "
            "needs; use tf.distribute.MultiWorkerMirroredStrategy, or no strategy."
        )


class Member(NamedTuple):
    """One worker."""

    job: str
    task: int
    address: str  # host:port


def members(given: tf.distribute.Strategy) -> list[Member]:
    """The workers of a strategy, the chief first; none where one process is all."""
    resolver = _resolver_of(given)
    if resolver is None:
        return []
    cluster = resolver.cluster_spec()
    return [
        Member(job, task, address)
        for job in _JOBS
        if job in cluster.jobs
        for task, address in enumerate(cluster.job_tasks(job))
    ]


def own_index(given: tf.distribute.Strategy) -> int:
    """This process' place among the `members`."""
    resolver = _resolver_of(given)
    if resolver is None:
        return 0
    own = resolver.task_type, resolver.task_id
    return [member[:2] for member in members(given)].index(own)


def _resolver_of(given: Any) -> Any:
    several = isinstance(given, tf.distribute.MultiWorkerMirroredStrategy)
    return given.cluster_resolver if several else None


def _multiworker() -> tf.distribute.Strategy:
    resolver = _resolver()
    cluster, kind, task = resolver.cluster_spec(), resolver.task_type, resolver.task_id
    every = [a for job in _JOBS if job in cluster.jobs for a in cluster.job_tasks(job)]
    own = cluster.task_address(kind, task)
    _LOG.info("This is %s %d of %d workers; waiting for all of them.", kind, task, len(every))
    if own != every[0]:
        _await(every[0])
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=PATIENCE)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except RuntimeError as error:  # TensorFlow's sentence names an internal.
        raise ValueError(
            "A strategy of several workers has to be made before TensorFlow's first operation: "
            "make it at the top of the program."
        ) from error
    except tf.errors.OpError as error:
        reason = str(error.message).splitlines()[0]
        raise ValueError(
            f"This worker cannot serve at {own} ({reason}); end what uses the address, or give "
            "another."
        ) from error


def _await(address: str) -> None:
    """Waits until the first worker serves at its address; says so once if that takes long.

    TensorFlow would wait, too, but hear no signal and say nothing meanwhile: as it does in the
    first worker itself, until all others are there.
    """
    host, _, port = address.rpartition(":")
    since, told = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if not told and time.monotonic() - since > _NEWS:
                _LOG.warning("Still waiting for the worker at %s (%s).", address, error.strerror)
                told = True
        time.sleep(_PAUSE)


def _resolver() -> Any:
    resolvers = tf.distribute.cluster_resolver
    if os.environ.get("TF_CONFIG"):
        _check_config(os.environ["TF_CONFIG"])
        return resolvers.TFConfigClusterResolver()
    missing = [name for name in _SLURM if name not in os.environ]
    if len(missing) == len(_SLURM):
        raise ValueError(
            f"Nothing says who the workers are: set TF_CONFIG for each of them, such as "
            f"{_EXAMPLE}, or start them by Slurm's srun."
        )
    try:
        # TensorFlow would take a node without GPUs for one without tasks, and ask nvidia-smi. Which
        # task sees which GPU is Slurm's to say (--gpus-per-task).
        found = resolvers.SlurmClusterResolver(
            gpus_per_node=_ANY, gpus_per_task=1, auto_set_gpu=False
        )
        found.cluster_spec()
        return found
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"Slurm's variables do not say who the workers are ({error}).") from error


def _check_config(text: str) -> None:
    """Refuses a `TF_CONFIG` that TensorFlow would misunderstand, or trace back over."""
    try:
        config = json.loads(text)
        fault = _fault(config)
    except (ValueError, RecursionError) as error:
        fault = f"it is no JSON ({error})"
    if fault:
        raise ValueError(f"TF_CONFIG is malformed: {fault}. It is to be like {_EXAMPLE}.")


def _fault(config: Any) -> str:
    """What is wrong with a `TF_CONFIG`; nothing if it is right."""
    cluster = config.get("cluster") if isinstance(config, Mapping) else None
    task = config.get("task") if isinstance(config, Mapping) else None
    if not isinstance(cluster, Mapping) or not cluster or not isinstance(task, Mapping):
        return 'it needs "cluster" and "task"'
    for job, tasks in cluster.items():
        if job not in _JOBS:
            return f'its cluster has "{job}"; only chief and worker train together'
        if not isinstance(tasks, list) or not tasks or not all(map(_is_address, tasks)):
            return f'the "{job}" of its cluster is no list of "host:port"'
    every = [address for tasks in cluster.values() for address in tasks]
    if len(set(every)) < len(every):
        return "one address is there twice"
    if len(cluster.get("chief", [])) > 1:
        return "it has several chiefs"
    kind, index = task.get("type"), task.get("index")
    if kind not in cluster:
        return f"its task is a {kind!r}, which its cluster lacks"
    if type(index) is not int or not 0 <= index < len(cluster[kind]):
        return f"its task has index {index!r}, and there are {len(cluster[kind])} {kind}s"
    return ""


def _is_address(text: Any) -> bool:
    return isinstance(text, str) and text.rpartition(":")[0] != "" and text[-1:].isdigit()
