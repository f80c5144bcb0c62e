"""The command line runs in the tests' own process, so that it is quick."""

import logging

import pytest

from maml_tf.experiments import machine


@pytest.fixture(autouse=True)
def leave_the_machine_alone(monkeypatch):
    """Thread counts and loggers are global; tests share a process."""
    monkeypatch.setattr(machine, "set_up", lambda settings: None)
    yield
    log = logging.getLogger("maml_tf")
    log.handlers, log.propagate = [], True
