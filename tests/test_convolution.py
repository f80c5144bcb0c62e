"""One task's native convolution against the same as patches, to the third derivative."""

import keras
import pytest
import tensorflow as tf

from maml_tf import convolution
from maml_tf.convolution import Geometry, convolve
from tests.helpers import normal

GEOMETRIES = {
    "stride 2, same": (Geometry((3, 3), (2, 2), (1, 1), "same"), (7, 6)),
    "stride 1, same, even kernel": (Geometry((2, 3), (1, 1), (1, 1), "same"), (5, 4)),
    "unequal strides": (Geometry((3, 3), (1, 2), (1, 1), "same"), (5, 6)),
    "valid": (Geometry((3, 2), (2, 2), (1, 1), "valid"), (8, 6)),
    "strides longer than the kernel": (Geometry((2, 2), (3, 3), (1, 1), "valid"), (9, 8)),
}


def derivatives(geometry, size):
    """Output, first, second and third derivatives of a loss curved in x and in the kernel."""
    x, kernel = normal(0, 4, *size, 2), normal(1, 1, *geometry.kernel_size, 2, 3)
    found, tapes = [], [tf.GradientTape(persistent=True) for _ in range(3)]
    with tapes[0]:
        tapes[0].watch([x, kernel])
        with tapes[1]:
            tapes[1].watch([x, kernel])
            with tapes[2]:
                tapes[2].watch([x, kernel])
                y = convolve(x, kernel, geometry)
                loss = tf.reduce_sum(tf.sin(y) * normal(2, *y.shape))
            found.append([y, *tapes[2].gradient(loss, [x, kernel])])
            loss = sum(tf.reduce_sum(tf.sin(d)) for d in found[-1][1:])
        found.append(tapes[1].gradient(loss, [x, kernel]))
        loss = sum(tf.reduce_sum(tf.sin(d)) for d in found[-1])
    found.append(tapes[0].gradient(loss, [x, kernel]))
    return tf.nest.flatten(found)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_native_equals_patches_to_the_third_derivative(float64, monkeypatch, name, compiled):
    geometry, size = GEOMETRIES[name]
    calls = []
    native = convolution._one_task
    monkeypatch.setattr(convolution, "_one_task", lambda *args: calls.append(args) or native(*args))

    def run():
        call = lambda: derivatives(geometry, size)  # noqa: E731
        return tf.function(call)() if compiled else call()

    got = run()
    assert calls, "the native way was not taken"
    monkeypatch.setattr(convolution, "_is_native", lambda geometry: False)
    want = run()
    assert len(got) == 7
    for one, other in zip(got, want, strict=True):
        tf.debugging.assert_near(one, other, rtol=1e-10, atol=1e-10)
        assert tf.reduce_max(tf.abs(other)) > 1e-3


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((3, 3), (1, 1), (2, 2), "same"),
        Geometry((3,), (1,), (1,), "same"),
        Geometry((2, 2, 2), (1, 1, 1), (1, 1, 1), "same"),
    ],
    ids=["dilated", "one axis", "three axes"],
)
def test_one_task_without_a_native_way(float64, geometry):
    rank = len(geometry.kernel_size)
    x, kernel = normal(0, 2, *[5] * rank, 2), normal(1, 1, *geometry.kernel_size, 2, 3)
    want = keras.ops.conv(x, kernel[0], 1, "same", dilation_rate=geometry.dilation)
    tf.debugging.assert_near(convolve(x, kernel, geometry), want)
