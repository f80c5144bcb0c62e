"""`maml-tf render`, from a learner in the place of a trained run."""

import json

import numpy as np
import pytest
from helpers import make_settings

pytest.importorskip("mujoco")

from maml_tf.cli import runs
from maml_tf.cli.main import run
from maml_tf.experiments import build
from maml_tf.rl import rendering
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import GaussianPolicy
from maml_tf.rl.sampler import Sampler

_NOTHING = rendering.Episode(np.zeros([1, 2]), 0.0)


@pytest.fixture
def policy_run(tmp_path, monkeypatch):
    """A run of 2D navigation; its learner is not trained."""

    def of(given):
        changes = dict(given)
        if "step_size" in changes:  # of a trained run, the evaluation's
            changes["test_step_size"] = changes.pop("step_size")
        return make_settings(**{"problem": "navigation_2d", **changes})

    sampler = Sampler("navigation_2d", tasks=2, episodes=2, horizon=5)
    learner = MetaTRPO(GaussianPolicy(2, 2, (4,)), meta_batch_size=2)
    monkeypatch.setattr(runs, "locate", lambda given, words: (tmp_path, of(given)))
    monkeypatch.setattr(runs, "restore", lambda directory, config: (learner, 7))
    monkeypatch.setattr(build, "make_tasks", lambda settings, split: sampler)
    return tmp_path


def test_a_task_is_drawn_into_the_runs_figures(policy_run, capsys):
    assert run(["render", "RUN", "--task=1", "--test_steps=2"]) == 0
    path = policy_run / "figures" / "task_1.gif"
    assert path.read_bytes().startswith(b"GIF89a")
    said = capsys.readouterr().err
    assert "Task 1, iteration 7: return -" in said and f"Wrote {path}" in said
    assert run(["render", "RUN", f"--to={policy_run}/here.gif", "--test_steps=1"]) == 0
    assert (policy_run / "here.gif").exists()


def test_a_tuned_step_size_is_the_one_that_is_drawn(policy_run, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        rendering, "render", lambda *_, step_sizes, **__: drawn.append(step_sizes) or [_NOTHING] * 2
    )
    flags = ["--tune_step_size=True", "--update_lr=0.3", "--num_test_tasks=2", "--test_steps=1"]
    assert run(["evaluate", "RUN", "--test_set", *flags]) == 0
    result = policy_run / "results" / "test_5trajectories_stepsizetuned.json"
    chosen = json.loads(result.read_text())["step_size"]
    assert run(["render", "RUN", *flags]) == 0
    assert run(["render", "RUN", "--update_lr=0.3", "--test_steps=1"]) == 0
    assert drawn == [[chosen], [0.3]] and chosen != 0.3


def test_a_mistake_is_one_line(policy_run, capsys):
    assert run(["render", "RUN", "--to=it.png", "--test_steps=1"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "ends in .gif" in line


def test_what_has_no_policy_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "locate", lambda given, words: (tmp_path, make_settings(**given)))
    assert run(["render", "RUN"]) == 1
    assert "render shows policies; sinusoid has none" in capsys.readouterr().err
