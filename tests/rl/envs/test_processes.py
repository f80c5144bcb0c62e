"""Environments in processes of their own: the same numbers, the same sentences, nothing left."""

import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")

import numpy as np
from alive import is_running
from walks import (
    Reset,
    Walk,
    dies,
    four,
    kind,
    later,
    made_once,
    not_all,
    placed,
    unreadable,
    unsendable,
)

from maml_tf.experiments import identity, settings
from maml_tf.rl import envs
from maml_tf.rl.envs import processes
from maml_tf.rl.sampler import Sampler


class Noise:
    log_stds = np.zeros((2, 1), np.float32)

    def __call__(self, observations, noise):
        return noise, noise


def sampler_of(make, **options):
    return Sampler(make, **{"tasks": 2, "episodes": 2, "horizon": 9, **options})


def roll(make, **options):
    sampler = sampler_of(make, **options)
    drawn = [sampler.sample(Noise(), sampler.sample_tasks(i), i) for i in range(2)]
    sampler.close()
    return drawn


# --- the same ---


@pytest.mark.parametrize(
    "make",
    [
        Walk,
        Reset,
        *(pytest.param(m, marks=pytest.mark.slow) for m in (kind(), lambda: Walk(), "Walk-v0")),
    ],
)
def test_what_is_drawn_is_the_same_to_the_bit(make):
    options = {"horizon": None} if make == "Walk-v0" else {}
    alone, together = (roll(make, asynchronous=a, **options) for a in (True, False))
    assert 0 < np.mean([each.mask.mean() for each in together]) < 1
    for one, other in zip(alone, together, strict=True):
        for name in ("observations", "actions", "rewards", "mask"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize(
    "methods, message",
    [
        ({"step": later}, r"Bent raised RuntimeError \(no device\) in step 3 .* task {'place': "),
        pytest.param(
            {"step": four},
            r"Bent, in step 1 of an episode with task {'place': .*, returned 4 val",
            marks=pytest.mark.slow,
        ),
        ({"set_task": not_all}, r"Bent raised RuntimeError \(no device\) in set_task with task {"),
    ],
)
def test_a_fault_is_the_same_sentence_and_nothing_else_is_said(methods, message):
    sampler = sampler_of(kind(**methods), asynchronous=True)
    started = list(sampler.env.env.processes)
    tasks = np.array([{"place": -0.5}, {"place": 0.5}])
    with pytest.raises(ValueError, match=message) as raised, warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sample(Noise(), tasks, 0)
    assert "\n" not in str(raised.value)
    assert not any(process.is_alive() for process in started)
    with pytest.raises(ValueError, match="Bent's processes have ended.*make a new sampler"):
        sampler.sample(Noise(), tasks, 0)
    sampler.close()


# --- faults of processes alone ---


def with_a_generator():
    held = (x for x in ())
    return lambda: (held, Walk())[1]


@pytest.mark.parametrize(
    "make, message",
    [
        (kind(step=dies), "Bent's process ended with status 7 in step 3 .* with task {'place': "),
        (kind(__init__=made_once), r"Bent raised RuntimeError \(no device\) in __init__"),
        (kind(sample_tasks=unsendable), "Bent has the task {'place': .* let it be plain data, or"),
        pytest.param(
            kind(sample_tasks=unreadable, set_task=placed),
            r"Bent has a task that cannot be read .* \(RuntimeError \(not here\)\); let it be",
            marks=pytest.mark.slow,
        ),
        (with_a_generator(), "Walk is made by <function .* cannot be sent .* or leave asynchron"),
    ],
    ids=["dies", "cannot be made", "task", "task there", "function"],
)
def test_what_goes_wrong_in_a_process_is_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as raised, warnings.catch_warnings():
        warnings.simplefilter("error")
        roll(make, asynchronous=True)
    assert "\n" not in str(raised.value) and ";" in str(raised.value)


@pytest.mark.parametrize("name", ["navigation_2d", "maml_tf/Navigation2D-v0"])
def test_environments_of_this_package_are_refused(name):
    with pytest.raises(ValueError, match=f"of your own.* {name} steps all its tasks at once; drop"):
        sampler_of(name, asynchronous=True)


def test_the_flag_is_for_environments_of_one_s_own_and_names_no_run():
    own = {"problem": "gymnasium", "environment": "Walk-v0"}
    said = settings.make({**own, "asynchronous": True})
    assert said.machine.asynchronous
    assert identity.directory_name(said) == identity.directory_name(settings.make(own))
    for problem in "navigation_2d", "ant_goal", "sinusoid":
        with pytest.raises(ValueError, match=f"for --problem=gymnasium, not --problem={problem}"):
            settings.make({"problem": problem, "asynchronous": True})


def test_what_is_made_already_is_refused():
    made = envs.ForeignTasks(Walk, 4)
    with pytest.raises(ValueError, match="ForeignTasks is made already; drop it"):
        sampler_of(made, asynchronous=True)


def test_too_many_processes_are_refused_before_any_is_started(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (110, 110))
    monkeypatch.setattr(processes, "_context", None)
    with pytest.raises(ValueError, match="Walk in 4 processes needs 112 open files, and 110 are"):
        sampler_of(Walk, asynchronous=True)


# --- nothing is left ---


def test_closing_closes_each_environment_and_ends_its_process(tmp_path):
    sampler = sampler_of(kind(note=str(tmp_path)), asynchronous=True)
    started = list(sampler.env.env.processes)
    sampler.sample(Noise(), sampler.sample_tasks(0), 0)
    sampler.close()
    sampler.close()
    assert len(started) == 4 and not any(process.is_alive() for process in started)
    assert {int(name) for name in os.listdir(tmp_path)} == {process.pid for process in started}


SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
import numpy as np
import test_processes, walks
from maml_tf.rl.sampler import Sampler

class Slow(walks.Walk):
    note, main = {note!r}, 0
    def step(self, action):
        time.sleep(0.05)
        return super().step(action)

sampler = Sampler(Slow, tasks=2, episodes=2, horizon=10000, asynchronous=True)
print(*(process.pid for process in sampler.env.env.processes), flush=True)
while True:
    sampler.sample(test_processes.Noise(), sampler.sample_tasks(0), 0)
"""
"""A program without `if __name__ == "__main__"`."""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGKILL)),
    ],
)
@pytest.mark.slow
def test_a_signal_leaves_no_process_behind(number, tmp_path):
    path = [os.getcwd(), os.path.dirname(__file__)]
    script = tmp_path / "program.py"
    (tmp_path / "notes").mkdir()
    script.write_text(SCRIPT.format(path=path, note=str(tmp_path / "notes")))
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = [int(word) for word in program.stdout.readline().split()]
    assert len(started) == 4, program.stderr.read()
    time.sleep(0.2)
    # A terminal's Ctrl-C is everybody's.
    (os.killpg if number == signal.SIGINT else os.kill)(program.pid, number)
    _, said = program.communicate(timeout=20)
    assert program.returncode == -number
    assert said.count("Traceback") == (number == signal.SIGINT), said  # the main process' alone
    until = time.monotonic() + 20
    while any(map(is_running, started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, started))
    notes = {int(name) for name in os.listdir(tmp_path / "notes")}
    assert notes >= set(started)  # each environment was closed
