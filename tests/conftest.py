"""Set-up that must happen before TensorFlow starts its devices."""

import gc
import logging
import os
from pathlib import Path

from maml_tf.cli import start

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
start.use_onednn()  # as commands do, whose numbers are compared with those of the tests' process

import keras
import pytest
import tensorflow as tf

# Two devices on any machine, so that distribution can be tested; the rest runs on the first.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


LONGEST = """
tests/test_workers.py
tests/test_tutorials.py
tests/cli/test_cli.py
tests/test_meta_learner.py
tests/test_resuming.py
tests/rl/test_meta_promp.py
tests/test_docs.py
tests/rl/test_own_environments.py
tests/test_sources.py
tests/rl/test_meta_trpo.py
tests/test_training.py
tests/cli/test_cli_rl.py
tests/test_prototypes.py
tests/cli/test_reproduce.py
tests/test_baselines.py
tests/conformance/test_conformance.py
tests/conformance/test_export_conformance.py
tests/test_imaml.py
tests/test_callbacks.py
tests/test_reptile.py
tests/test_goldens.py
tests/cli/test_paths.py
"""
"""The files that take longest, the longest first."""


def pytest_configure(config):
    """Workers take the longest files first; pytest-xdist would begin with those of most tests."""
    config.option.loadscopereorder = False
    assert all((Path(__file__).parents[1] / file).is_file() for file in LONGEST.split())


def pytest_collection_finish():
    """What importing has made stays: the collector need not walk through it over and over."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` chooses
def pytest_collection_modifyitems(items):
    """Marks costly cases, and puts the longest files first, so that none is left for the end."""
    mark_further_cases(items)
    places = {file: place for place, file in enumerate(LONGEST.split())}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0], len(places)))


def mark_further_cases(items):
    """All but `@pytest.mark.cases(n)` of a test's fast cases, spread evenly, become slow ones."""
    tests = {}
    for item in items:
        if item.get_closest_marker("cases") and not item.get_closest_marker("slow"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tests.values():
        (number,) = cases[0].get_closest_marker("cases").args
        kept = {place * len(cases) // number for place in range(number)}
        for place, case in enumerate(cases):
            if place not in kept:
                case.add_marker("slow")


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
