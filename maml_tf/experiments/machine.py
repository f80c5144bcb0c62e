"""The machine that a command runs on: its threads and its devices."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maml_tf.engine.workers import Workers
    from maml_tf.experiments.settings import Machine

_LOG = logging.getLogger(__name__)


def set_up(machine: Machine) -> None:
    """Chooses what is global to the process: threads, before TensorFlow's first operation; TF32.

    On a CPU each core works on its own piece of the meta-batch, with single-threaded operations.
    """
    import tensorflow as tf

    # TensorFlow's own default is True.
    tf.config.experimental.enable_tensor_float_32_execution(machine.precision == "tf32")
    cpu = on_cpu()
    intra, inter = machine.intra_op_threads, machine.inter_op_threads
    intra = (1 if cpu else 0) if intra is None else intra
    inter = (os.cpu_count() or 0 if cpu else 0) if inter is None else inter
    threading = tf.config.threading
    try:
        threading.set_intra_op_parallelism_threads(intra)
        threading.set_inter_op_parallelism_threads(inter)
    except RuntimeError:
        _LOG.warning("TensorFlow is already running; thread flags have no effect.")


def workers(machine: Machine) -> int:
    """Threads that are worth working at a time, each with operations of its own."""
    if not on_cpu():
        return 1
    return machine.inter_op_threads or os.cpu_count() or 1


def on_cpu() -> bool:
    """Whether this machine has no accelerator."""
    import tensorflow as tf

    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())


@contextlib.contextmanager
def dtype_policy(machine: Machine) -> Iterator[None]:
    """Where a network is to be made: its layers compute in the precision that was asked for."""
    import keras

    before = keras.config.dtype_policy()
    if machine.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def together(machine: Machine) -> Iterator[Workers]:
    """The scope in which a learner is to be made; gives the workers that this process is one of.

    Raises:
      ValueError: nothing says who the workers are, or what says so is malformed.
      WorkerLost: inside, where one of them does not answer.
    """
    from maml_tf.engine.strategies import strategy
    from maml_tf.engine.workers import Workers

    made = strategy(machine.distribute)
    workers = Workers(made)
    with made.scope(), workers.named():
        yield workers
