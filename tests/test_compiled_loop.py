import numpy as np
import pytest
import tensorflow as tf

from maml_tf.engine import compilation as compiled_loop


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


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_fed_loop_gives_each_step_its_own_data_without_compiling_again(jit_compile):
    traces, calls = [], []

    def step(index, data):
        traces.append(index)
        return tf.cast(index, tf.float32), data["a"] + tf.cast(data["b"], tf.float32)

    def draw(start, count):
        calls.append((start, count))
        return [
            {"a": np.full(2, i, np.float32), "b": np.int64(10 * i)}
            for i in range(start, start + count)
        ]

    spec = (tf.TensorSpec([]), tf.TensorSpec([2]))
    loop = compiled_loop.compile_fed_loop(step, spec, draw, capacity=4, jit_compile=jit_compile)
    loop(0, 1)
    first = len(traces)
    for start, count in ((3, 1), (3, 4), (0, 11)):
        index, sums = loop(start, count)
        np.testing.assert_array_equal(index, np.arange(start, start + count))
        np.testing.assert_array_equal(sums, np.stack([11 * index] * 2, -1))
    assert len(traces) == first
    assert calls[-3:] == [(0, 4), (4, 4), (8, 3)]


def test_a_fed_loop_compiles_again_for_another_shape_and_keeps_the_order():
    def step(index, data):
        return tf.reduce_sum(data)

    def draw(start, count):
        return [np.full(1 + i // 2 % 2, i, np.float32) for i in range(start, start + count)]

    loop = compiled_loop.compile_fed_loop(step, tf.TensorSpec([]), draw)
    np.testing.assert_array_equal(loop(1, 7), [1, 2 * 2, 2 * 3, 4, 5, 2 * 6, 2 * 7])


def test_a_fed_loop_takes_text():
    loop = compiled_loop.compile_fed_loop(
        lambda index, text: tf.cast(tf.strings.length(text), tf.float32),
        tf.TensorSpec([2]),
        lambda start, count: [np.array(["a" * i, "bb"], object) for i in range(count)],
    )
    np.testing.assert_array_equal(loop(0, 3), [[0, 2], [1, 2], [2, 2]])
