"""The command line runs in the tests' own process, so that it is quick."""

import pytest

from maml_tf.experiments import machine


@pytest.fixture(autouse=True)
def leave_the_machine_alone(monkeypatch):
    """Thread counts are global; tests share a process."""
    monkeypatch.setattr(machine, "set_up", lambda settings: None)
