"""An exported policy, loaded where only TensorFlow can be imported, against the learner itself."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import PointSampler, slow

from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.objectives import policy_batch
from maml_tf.rl.policy import GaussianPolicy
from maml_tf.saving.export import export
from maml_tf.saving.saved_models import SIDECAR

GIVEN_STEP_SIZE = 0.3
WEIGHTS = ["dense_1_kernel", "dense_1_bias", "head_kernel", "head_bias", "log_std"]
SIZES = ((5, 10), (3, 7))  # episodes, horizon

ELSEWHERE = """
import sys
for name in ("keras", "maml_tf"):
    sys.modules[name] = None  # importing it now fails
import numpy as np, tensorflow as tf
data, results = np.load("data.npz"), {}
for name in sys.argv[1:]:
    model = tf.saved_model.load(name)
    results[f"{name} before"] = model.act(data["o"])["means"]
    results[f"{name} log_stds"] = model.act(data["o"])["log_stds"]
    for size in range(2):
        episodes = [data[f"{size} {key}"] for key in ("observations", "actions", "rewards")]
        mask = data[f"{size} mask"]
        adapted = model.adapt(*episodes, mask)
        results |= {f"{name} {size} {weight}": value for weight, value in adapted.items()}
        given = model.adapt(*episodes, mask, step_size=0.3)
        drawn = model.act(data["o"], given, noise=data["noise"])
        results[f"{name} {size} given"] = drawn["actions"]
        twice = model.adapt(*episodes, mask, weights=adapted)
        results[f"{name} {size} twice"] = model.act(data["o"], twice)["means"]
        both = model.adapt(*episodes, mask, steps=2)
        results[f"{name} {size} both"] = model.act(data["o"], both)["means"]
        whole = model.adapt(*episodes), model.adapt(*episodes, np.ones_like(mask))
        results[f"{name} {size} whole"] = [model.act(data["o"], w)["means"] for w in whole]
    sample = [model.act(data["o"], seed=seed)["actions"] for seed in (0, 0, 1)]
    results[f"{name} seeds"] = sample
    sign = model.signatures
    start = sign["initial_weights"]()
    tensors = dict(zip(("observations", "actions", "rewards"), map(tf.constant, episodes)))
    moved = sign["adapt"](
        mask=tf.constant(mask), steps=tf.constant(1), step_size=tf.constant(0.3), **tensors, **start
    )
    served = sign["act"](observations=tf.constant(data["o"]), seed=tf.constant(1), **moved)
    plain = model.act(data["o"].astype("float64"), given, seed=1)
    results[f"{name} served"] = [served["actions"], plain["actions"]]
np.savez("results.npz", **results)
"""


def make_learner(learn_step_size=False, **options):
    learner = MetaTRPO(
        GaussianPolicy(2, 2, (8,), seed=1),
        meta_batch_size=1,
        step_size=0.2,
        discount=0.9,
        gae_lambda=0.8,
        learn_step_size=learn_step_size,
        **options,
    )
    for seed, variable in enumerate([*learner.policy.variables, *learner.step_sizes]):
        noise = np.random.default_rng(seed).uniform(0, 0.2, variable.shape)
        variable.assign(variable + noise)
    return learner


def episodes_of(learner, size):
    """Trajectories of one task `[1, E, H, ...]`, some of which end early."""
    episodes, horizon = SIZES[size]
    sampler = PointSampler(1, episodes, horizon, seed=size)
    actor = learner.policy.actor(learner.inner.initial_weights(), 1)
    trajectories = sampler.sample(actor, sampler.sample_tasks(0), 0)
    mask = trajectories.mask.copy()
    mask[0, 0, horizon // 2 :] = 0
    return trajectories._replace(mask=mask)


def adapted(learner, trajectories, step_size=None, steps=1):
    """The learner's own answer."""
    batch, _ = policy_batch(trajectories, discount=0.9, gae_lambda=0.8)
    return learner.inner.steps(
        learner.inner_loss,
        learner.inner.stacked(1),
        [batch] * steps,
        step_size=learner.inner.alphas(step_size),
    ).weights[-1]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By name: a learner, what it was given, and what its export gave in another process."""

    @functools.cache
    def one(name):
        folder = tmp_path_factory.mktemp("policies")
        random = np.random.default_rng(9)
        data = {"o": random.normal(size=(6, 2)), "noise": random.normal(size=(6, 2))}
        data = {key: value.astype("float32") for key, value in data.items()}
        learner = make_learner(learn_step_size=name == "learned")
        export(learner, folder / name)
        for size in range(2):
            given = episodes_of(make_learner(), size)._asdict()
            data |= {f"{size} {key}": value[0] for key, value in given.items() if key != "log_stds"}
        np.savez(folder / "data.npz", **data)
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, name], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return learner, data, np.load(folder / "results.npz"), folder

    return one


NAMES = ["fixed", slow("learned")]  # step sizes of each step are learned too, below


@pytest.mark.parametrize("name", NAMES)
def test_it_acts_as_the_learner_does(exported, name):
    learner, data, results, _ = exported(name)
    policy = learner.policy
    before = policy(learner.inner.initial_weights(), tf.constant(data["o"])[None])
    np.testing.assert_allclose(results[f"{name} before"], before.means[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results[f"{name} log_stds"], policy.log_std, rtol=1e-6)
    first, again, other = results[f"{name} seeds"]
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    standard = (first - before.means[0]) / np.exp(policy.log_std)
    assert 0.3 < standard.numpy().std() < 2


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_it_adapts_as_the_learner_does_to_any_number_of_steps(exported, name, size):
    learner, data, results, _ = exported(name)
    trajectories = episodes_of(make_learner(), size)
    close = {"rtol": 1e-4, "atol": 1e-5}
    for weight, value in zip(WEIGHTS, adapted(learner, trajectories), strict=True):
        np.testing.assert_allclose(results[f"{name} {size} {weight}"], value[0], **close)
    observations = tf.constant(data["o"])[None]
    means, log_stds = learner.policy(adapted(learner, trajectories, GIVEN_STEP_SIZE), observations)
    actions = means[0] + tf.exp(log_stds[0]) * data["noise"]
    np.testing.assert_allclose(results[f"{name} {size} given"], actions, **close)
    means, _ = learner.policy(adapted(learner, trajectories, steps=2), observations)
    np.testing.assert_allclose(results[f"{name} {size} twice"], means[0], **close)
    np.testing.assert_allclose(results[f"{name} {size} both"], means[0], **close)


@pytest.mark.parametrize("name", NAMES)
def test_no_mask_is_one_of_ones_and_signatures_say_the_same(exported, name):
    _, _, results, _ = exported(name)
    for size in range(2):
        without, ones = results[f"{name} {size} whole"]
        np.testing.assert_allclose(without, ones, rtol=1e-5, atol=1e-6)
    served, plain = results[f"{name} served"]
    np.testing.assert_allclose(served, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "step_size"), [("fixed", 0.2), slow("learned", "meta-learned")])
def test_the_sidecar_says_what_was_exported(exported, name, step_size):
    said = json.loads((exported(name)[3] / name / SIDECAR).read_text())
    del said["maml_tf"]
    assert said == {
        "model": "policy",
        "observations": 2,
        "actions": 2,
        "head": "GaussianHead(size=2, squash=False)",
        "discount": 0.9,
        "gae_lambda": 0.8,
        "defaults": {"steps": 1, "step_size": step_size},
        "weights": WEIGHTS,
    }


@pytest.mark.slow
def test_each_step_has_its_own_step_sizes_in_an_export(tmp_path):
    learner = make_learner("layer_and_step", inner_steps=2)
    assert {tuple(alpha.shape) for alpha in learner.step_sizes} == {(2,)}
    trajectories = episodes_of(learner, 0)
    export(learner, tmp_path / "it")
    model = tf.saved_model.load(str(tmp_path / "it"))
    episodes = [getattr(trajectories, n)[0] for n in ("observations", "actions", "rewards", "mask")]
    given = [np.array([number], np.int32)[0] for number in (0, 1, 2)]
    one = model.adapt(*episodes)
    two = model.adapt(*episodes, weights=one, first_step=given[1])
    three = model.adapt(*episodes, weights=two, first_step=given[2])  # the last one's again
    for steps, served in ((1, one), (2, two), (3, three)):
        at_once = model.adapt(*episodes, steps=steps)
        for name, value in zip(WEIGHTS, adapted(learner, trajectories, steps=steps), strict=True):
            np.testing.assert_allclose(served[name], value[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(at_once[name], value[0], rtol=1e-4, atol=1e-5)
    again = model.adapt(*episodes, weights=one)
    assert max(np.abs(again[name] - two[name]).max() for name in WEIGHTS) > 1e-4
    assert "first_step" in model.signatures["adapt"].structured_input_signature[1]


@pytest.mark.slow
def test_weights_that_do_not_adapt_stay(tmp_path):
    learner = make_learner(adapts=lambda variable: "bias" in variable.path)
    export(learner, tmp_path / "it", step_size=0.5)
    trajectories = episodes_of(learner, 0)
    model = tf.saved_model.load(str(tmp_path / "it"))
    names = ("observations", "actions", "rewards", "mask")
    weights = model.adapt(*(getattr(trajectories, name)[0] for name in names))
    expected = adapted(learner, trajectories, 0.5)
    before = model.initial_weights()
    for name, value, own in zip(WEIGHTS, expected, learner.adapts, strict=True):
        assert own == ("bias" in name) == bool(np.any(weights[name] != before[name]))
        after = value[0] if own else value
        np.testing.assert_allclose(weights[name], after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must be 0 or more"),
        ({"step_size": 0.0}, "step_size must be positive"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export(make_learner(), tmp_path / "it", **options)
    assert not any(tmp_path.iterdir())


def test_a_mask_without_a_step_is_refused(exported):
    model = tf.saved_model.load(str(exported("fixed")[3] / "fixed"))
    given = (np.zeros(shape, np.float32) for shape in ((1, 4, 2), (1, 4, 2), (1, 4), (1, 4)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="no step as taken"):
        model.adapt(*given)


def test_it_takes_the_64_bit_floats_of_numpy_and_a_mask_of_bool(exported):
    _, data, results, folder = exported("fixed")
    model = tf.saved_model.load(str(folder / "fixed"))
    names = ("observations", "actions", "rewards", "mask")
    narrow = [data[f"0 {name}"] for name in names]
    wide = [column.astype("float64") for column in narrow]
    ways = [wide, [narrow[0], *wide[1:]], [*wide[:2], narrow[2], narrow[3].astype(bool)]]
    for given in (*ways, [tf.constant(column) for column in wide]):
        for name, value in model.adapt(*given).items():
            np.testing.assert_allclose(value, results[f"fixed 0 {name}"], rtol=1e-6)
    whole = model.adapt(*wide[:3], steps=1, step_size=0.2)
    for name, value in model.adapt(*narrow[:3]).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-6)
