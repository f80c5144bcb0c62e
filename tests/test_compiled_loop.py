import numpy as np
import pytest
import tensorflow as tf

from maml_tf import compiled_loop


@pytest.mark.parametrize("jit_compile", [False, True])
def test_any_number_of_steps_without_compiling_again(monkeypatch, jit_compile):
    monkeypatch.setattr(compiled_loop, "CAPACITY", 4)
    traces = []

    def step(index):
        traces.append(index)
        return tf.cast(index, tf.float32), tf.cast(tf.stack([index, index**2]), tf.float32)

    spec = (tf.TensorSpec([]), tf.TensorSpec([2]))
    loop = compiled_loop.compile_loop(step, spec, jit_compile=jit_compile)
    loop(0, 1)
    first = len(traces)
    for start, count in ((3, 1), (3, 4), (0, 11)):  # less than, as many as, more than one call's
        index, pair = loop(start, count)
        np.testing.assert_array_equal(index, np.arange(start, start + count))
        np.testing.assert_array_equal(pair, np.stack([index, index.numpy() ** 2], -1))
    assert len(traces) == first


def test_steps_run_in_order():
    total = tf.Variable(1.0)

    def step(index):
        return total.assign(2 * total + tf.cast(index, tf.float32))

    # 1 -> 2 + 5 -> 14 + 6 -> 40 + 7
    loop = compiled_loop.compile_loop(step, tf.TensorSpec([]))
    np.testing.assert_array_equal(loop(5, 3), [7, 20, 47])
