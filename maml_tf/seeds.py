"""Random streams that depend on nothing but names and a number.

A stream is named by (seed, split, purpose, index), so meta-batch 1000 is the same whether 999
others were drawn before it or none: training can stop and resume anywhere.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from maml_tf import arguments

if TYPE_CHECKING:  # So that a data set which is not there is known without TensorFlow.
    import tensorflow as tf

SPLITS = ("train", "val", "test")


def check_split(split: str) -> str:
    """Returns `split`, or raises.

    Raises:
      ValueError: if it is not "train", "val" or "test".
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; use one of {', '.join(map(repr, SPLITS))}.")
    return split


def generator(seed: int, split: str, purpose: str, index: int) -> np.random.Generator:
    """Numpy's counterpart of `stream`, for what does not run in TensorFlow.

    Args:
      seed: the run's seed, any integer.
      split: "train", "val" or "test".
      purpose: what is drawn; draws of different purposes are independent.
      index: meta-batch number.

    Returns:
      A generator seeded with SHA-256(seed, split, purpose, index).

    Raises:
      ValueError: if the split is unknown.
    """
    seed, index = arguments.whole("seed", seed), arguments.whole("index", index)
    name = f"{seed}/{check_split(split)}/{purpose}/{index}"
    return np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))


def stream(seed: int, split: str, purpose: str, index: tf.Tensor | int) -> tf.Tensor:
    """Seed of one draw, for `uniform`.

    seed = SHA-256(seed, split, purpose)[:64 bits] XOR index. Two meta-batches of one purpose never
    share a seed, and two purposes practically never do.

    Args:
      seed: the run's seed, any integer.
      split: "train", "val" or "test".
      purpose: what is drawn; draws of different purposes are independent.
      index: meta-batch number, an integer scalar, known while tracing or not.

    Returns:
      int32 [2].

    Raises:
      ValueError: if the split is unknown.
    """
    import tensorflow as tf

    name = f"{arguments.whole('seed', seed)}/{check_split(split)}/{purpose}"
    dtype = getattr(index, "dtype", None)
    if not (isinstance(dtype, tf.DType) and dtype.is_integer):
        index = arguments.whole("index", index)
    key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], dtype="<i4").astype(np.int32)
    # XLA takes int32 seeds only; a bitcast keeps all 64 bits of the index.
    return tf.bitwise.bitwise_xor(tf.bitcast(tf.cast(index, tf.int64), tf.int32), key)


def uniform(
    seed: tf.Tensor, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0
) -> tf.Tensor:
    """Numbers from U[low, high), the same with XLA and without.

    Args:
      seed: int32 [2], from `stream`.
      shape: static shape of the result.
      low: smallest value.
      high: bound above.

    Returns:
      float32 of that shape, low + (high - low) n / 2^24 with a whole number n.
    """
    import tensorflow as tf

    # Not floats: even with one algorithm named, XLA makes other floats of the same bits.
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, alg="philox")
    fraction = tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24
    return low + (high - low) * fraction
