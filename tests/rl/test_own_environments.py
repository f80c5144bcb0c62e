"""Environments registered in ten lines each learn, are exported, and act on TensorFlow alone."""

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("gymnasium", reason="needs the extra rl")

from helpers import slow_but

import maml_tf
from maml_tf.cli.main import run
from maml_tf.rl.heads import BernoulliHead, CategoricalHead, GaussianHead
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import policy_for
from maml_tf.rl.sampler import Sampler

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES = {
    "Poles": ({"step_size": 0.4}, 6, CategoricalHead(2), 1.0),
    "Planets": ({"step_size": 0.3}, 8, GaussianHead(1), 2.0),
    "Reacher": ({"step_size": 0.2}, 8, GaussianHead(2), 2.0),
    "Switches": ({"step_size": 0.5}, 6, BernoulliHead(6), 1.0),
}
"""Options, meta-steps, the head, and how much more the return is to be after one step."""

ELSEWHERE = """
import sys
for name in ("keras", "tf_keras", "maml_tf", "tensorflow_probability"):
    sys.modules[name] = None  # importing it now fails
import numpy as np, tensorflow as tf
results = {}
for name in sys.argv[1:]:
    model, data = tf.saved_model.load(name), np.load(f"{name}.npz")
    episodes = [data[key] for key in ("observations", "actions", "rewards", "mask")]
    wide = [column.astype("int64" if column.dtype == "int32" else "float64") for column in episodes]
    adapted, seen = model.adapt(*wide), data["observations"][0]
    acted = model.act(seen, adapted, noise=data["noise"][0])
    results |= {f"{name} {key}": value for key, value in acted.items()}
    for seed in (3, 3, 4):
        drawn = model.act(seen, adapted, seed=seed)["actions"]
        results[f"{name} {seed}"] = [*results.get(f"{name} {seed}", []), drawn]
np.savez("results.npz", **results)
"""


def trained(name):
    options, steps, head, _ = CASES[name]
    environment = f"own_environments:own/{name}-v0"
    # From seed 0 a pole's gain is within what the rounding of a processor makes of it.
    sampler = Sampler(environment, tasks=8, episodes=8, seed=int(name == "Poles"))
    assert sampler.head == head
    learner = MetaTRPO(policy_for(sampler, hidden=(16,)), meta_batch_size=8, **options)
    learner.meta_steps(sampler, 0, steps)
    return learner, sampler


NAMES = slow_but({"Poles", "Switches"}, CASES)  # test_rl_export.py has the Gaussian head


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """By name: a learner, its sampler, and what its export gave in another process."""

    @functools.cache
    def one(name):
        folder = tmp_path_factory.mktemp("own")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(EXAMPLES))
            learner, sampler = trained(name)
        rng = np.random.default_rng(0)
        maml_tf.export(learner, folder / name)
        theta = learner.inner.initial_weights()
        taken = sampler.sample(learner.policy.actor(theta, 8), sampler.sample_tasks(0), 0)
        own = {key: value[0] for key, value in taken._asdict().items()}
        shape = own["rewards"].shape
        np.savez(folder / f"{name}.npz", noise=sampler.head.noise(rng, shape), **own)
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, name], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return learner, sampler, np.load(folder / "results.npz"), folder

    return one


@pytest.mark.parametrize("name", NAMES)
def test_after_one_step_its_return_is_above_that_before(learned, name):
    learner, sampler, _, _ = learned(name)
    before, after = learner.evaluator(sampler, num_tasks=16, steps=1)().mean
    assert after > before + CASES[name][3]


@pytest.mark.parametrize("name", NAMES)
def test_its_export_adapts_and_acts_on_tensorflow_alone(learned, name):
    learner, _, results, folder = learned(name)
    policy, data = learner.policy, np.load(folder / f"{name}.npz")
    columns = {key: data[key][None] for key in data.files if key != "noise"}
    batch, _ = learner._sampling.weigh(maml_tf.types.Trajectories(**columns))
    weights = learner._sampling.step(
        learner.inner.stacked(1), batch, learner.inner.alphas_by_weight(None)
    )
    seen, noise = data["observations"][:1], data["noise"][:1]
    actions, outputs = policy.actor(weights, 1)(seen, noise)
    head = policy.head
    np.testing.assert_allclose(
        results[f"{name} {head.output_name}"], outputs[0], rtol=1e-3, atol=1e-4
    )
    close = np.isclose(results[f"{name} actions"], actions[0], atol=1e-3)
    assert close.mean() > 0.98  # a choice may hang on the last digit
    first, again = results[f"{name} 3"]
    np.testing.assert_array_equal(first, again)
    assert (first != results[f"{name} 4"][0]).any()
    if head.has_mode:
        mode = head.mode(tf.constant(outputs[0]))
        assert np.mean(results[f"{name} mode"] == mode) > 0.98


@pytest.mark.slow
def test_the_command_line_takes_any_of_them(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    line = ["--problem=gymnasium", "--environment=own_environments:own/Switches-v0"]
    line += ["--meta_batch_size=4", "--shots=3", "--step_size=0.5", "--iterations=1"]
    line += ["--progress=False", f"--logdir={tmp_path}", "--validation_tasks=2"]
    assert run(["train", *line]) == 0
    assert run(["evaluate", *line, "--split=test", "--test_tasks=4", "--test_steps=1"]) == 0
    assert "iteration 1, test split" in capsys.readouterr().out
