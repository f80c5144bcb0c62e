"""The command line runs in the tests' own process, so that it is quick."""

import logging

import pytest

from maml_tf.cli import runs


@pytest.fixture(autouse=True)
def leave_the_machine_alone(monkeypatch):
    """Thread counts and loggers are global; tests share a process."""
    monkeypatch.setattr(runs, "set_up_machine", lambda config: None)
    yield
    log = logging.getLogger("maml_tf")
    log.handlers, log.propagate = [], True
