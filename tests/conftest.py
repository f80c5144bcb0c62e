"""Set-up that must happen before TensorFlow starts its devices."""

import logging
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
import tensorflow as tf

# Two devices on any machine, so that distribution can be tested; the rest runs on the first.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def loggers_as_before():
    """Commands log to the screen of the test that runs them; tests share a process."""
    yield
    log = logging.getLogger("maml_tf")
    log.handlers, log.propagate = [], True


@pytest.fixture
def float64():
    """Models built in the test compute in float64."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def two():
    """A strategy of two replicas, one for all tests of a process.

    A second strategy would begin to count its collective operations where the first began, and
    meet operations of that number and another shape.
    """
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy
