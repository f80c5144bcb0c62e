"""From settings to the things of meta-RL."""

import dataclasses

import numpy as np
import pytest
from helpers import make_settings

pytest.importorskip("mujoco", reason="needs the extra rl")

from maml_tf.experiments import methods, problems
from maml_tf.experiments.build import make_learner, make_tasks, make_validation
from maml_tf.experiments.records import Kind
from maml_tf.rl import MetaTRPO, envs

SMALL = {"problem": "navigation_2d", "meta_batch_size": 2, "shots": 3, "horizon": 4}
METHODS = ("maml", "fomaml", "context", "pretrained", "oracle", "random")


def test_every_environment_is_a_data_source():
    assert {p.name for p in problems.known().values() if p.kind is Kind.POLICY} == {
        *envs.ENVIRONMENTS,
        "gymnasium",
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_method_makes_its_learner_and_sampler(method):
    config = make_settings(method=method, **SMALL)
    learner, sampler = make_learner(config), make_tasks(config, "train")
    assert learner.inner_steps == (1 if method in ("maml", "fomaml", "context") else 0)
    assert learner.first_order == (method == "fomaml")
    assert learner.policy.observation_size == (4 if method == "oracle" else 2)
    moving = [v.path for v, own in zip(learner.variables, learner.adapts, strict=True) if own]
    assert len(moving) == (1 if method == "context" else len(learner.variables))
    assert method != "context" or moving[0].endswith("context/vector")
    each = method in ("pretrained", "oracle")
    assert sampler.sample_tasks(0).shape == ((2, 3, 2) if each else (2, 2))


def test_held_out_tasks_are_the_same_for_every_method_and_meta_batch():
    held_out = [
        make_tasks(make_settings(**{**SMALL, "method": m, "meta_batch_size": t}), "test")
        for m, t in zip(METHODS, range(1, 7), strict=True)
    ]
    tasks = [sampler.sample_tasks(0, "test") for sampler in held_out]
    assert tasks[0].shape == (40, 2)
    for other in tasks[1:]:
        np.testing.assert_array_equal(tasks[0], other)
    assert make_tasks(make_settings(**SMALL, test_tasks=100), "val").tasks == 40


def test_a_schedule_is_as_many_updates_as_the_iterations_have():
    given = {"meta_lr_schedule": "cosine", "iterations": 10, "warmup_iterations": 2}
    given |= {"meta_optimizer": "promp", "minibatches": 2, "clip_norm": 0.5}
    learner = make_learner(make_settings(**SMALL, **given))
    schedule = learner.optimizer.get_config()["learning_rate"]["config"]
    assert (schedule["warmup_steps"], schedule["decay_steps"]) == (20, 80)  # 5 epochs of 2 parts
    assert learner.clip_norm == 0.5


def test_settings_reach_the_learner():
    given = {"step_size": 0.3, "inner_steps": 2, "discount": 0.5, "gae_lambda": 0.7, "max_kl": 0.2}
    given |= {"curvature": "hessian", "curvature_share": 0.5, "learn_step_size": True}
    given |= {"inner_loss": "likelihood_ratio"}
    config = make_settings(**SMALL, **given, adapt="head", seed=3)
    learner = make_learner(config)
    for name in ("discount", "gae_lambda", "max_kl", "curvature", "curvature_share"):
        assert getattr(learner, name) == given[name]
    assert (learner.step_size, learner.inner_steps, len(learner.step_sizes)) == (0.3, 2, 2)
    assert learner.inner_loss.__qualname__.startswith("likelihood_ratio")
    first = learner.policy.model.get_weights()[0]
    again = make_learner(config).policy.model.get_weights()[0]
    other = make_learner(config.replace(seed=4)).policy.model.get_weights()[0]
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_body_and_head_are_all_of_a_policy():
    every, head, body = (
        make_learner(make_settings(**SMALL, adapt=part)).adapts for part in ("all", "head", "body")
    )
    assert all(every) and sum(head) == 2
    assert list(body) == [not own for own in head]  # the log-std, too, is of the body


def test_settings_reach_the_environment():
    plain, squared = (
        make_tasks(make_settings(**SMALL, squared_reward=on), "train").env for on in (False, True)
    )
    rewards = []
    for env in (plain, squared):
        env.set_tasks(np.full((6, 2), 0.4))
        env.reset(seed=0)
        rewards.append(env.step(np.zeros((6, 2)))[1])
    np.testing.assert_allclose(rewards[1], -np.square(rewards[0]))
    assert plain.max_episode_steps == 4
    robots = {**SMALL, "problem": "cheetah_velocity", "seed": 5}
    sampler = make_tasks(make_settings(**robots, dynamics="gymnasium"), "train")
    assert sampler.env.dynamics == "gymnasium" and sampler.seed == 5


@pytest.mark.parametrize(
    "method, test_steps, steps", [("maml", 3, 1), ("pretrained", 3, 1), ("oracle", 0, 0)]
)
def test_a_validation_goes_no_further_than_it_must(method, test_steps, steps):
    config = make_settings(**SMALL, method=method, test_steps=test_steps, validation_tasks=2)
    validation = make_validation(config, make_learner(config))
    assert (validation.steps, validation.num_tasks, validation.split) == (steps, 2, "val")
    assert validation.sampler.tasks == 2 and len(validation().mean) == steps + 1


def test_a_method_may_bring_its_own_meta_optimizer(monkeypatch):
    """One record, whose `learner` is given the policy and what all learners share."""
    made = []

    def learner(policy, settings, shared):
        made.append(shared)
        return MetaTRPO(policy, max_kl=0.5, **shared)

    record = dataclasses.replace(methods.METHODS["maml"], learner=learner)
    monkeypatch.setitem(methods.METHODS, "maml", record)
    own = make_learner(make_settings(**SMALL, adapt="head"))
    assert own.max_kl == 0.5 and len(made) == 1
    assert 0 < sum(own.adapts) < len(own.variables)
