"""A learner from a run's directory or a release."""

import numpy as np
import pytest

import maml_tf
from maml_tf.cli.main import run
from maml_tf.experiments.settings import make

LINE = ["--norm=none", "--shots=3", "--meta_batch_size=2", "--jit_compile=False"]
LINE += ["--validation_tasks=2", "--progress=False", "--test_tasks=24", "--test_steps=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of five iterations, with checkpoints at 3 and 5."""
    logs = tmp_path_factory.mktemp("logs")
    line = [*LINE, f"--logdir={logs}", "--save_every=3", "--iterations=5"]
    assert run(["train", *line]) == 0
    assert run(["evaluate", "--split=test", *line]) == 0
    (directory,) = logs.iterdir()
    return directory


def weights(learner):
    return [np.asarray(variable) for variable in learner.variables]


@pytest.mark.slow
def test_a_run_and_its_release_are_the_same_learner(trained, tmp_path):
    before = sorted(path for path in trained.rglob("*"))
    learner = maml_tf.load(trained)
    assert run(["release", str(trained), f"--to={tmp_path / 'kept'}"]) == 0
    released = maml_tf.load(str(tmp_path / "kept"))
    for one, other in zip(weights(learner), weights(released), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(path for path in trained.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    tasks = maml_tf.tasks.Sinusoid(shots=3, split="test")
    estimate = maml_tf.evaluate(released, tasks, num_tasks=24, steps=1)
    assert np.isfinite(estimate.mean).all() and len(estimate.mean) == 2
    maml_tf.export(released, tmp_path / "export")
    assert (tmp_path / "export" / "saved_model.pb").exists()


@pytest.mark.slow
def test_an_earlier_checkpoint_is_another_learner(trained):
    earlier, latest = maml_tf.load(trained, iteration=3), maml_tf.load(trained)
    assert any(np.any(a != b) for a, b in zip(weights(earlier), weights(latest), strict=True))


def test_what_is_no_run_is_named(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="No run in .*nowhere"):
        maml_tf.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="place must be"):
        maml_tf.load(3)
    with pytest.raises((FileNotFoundError, ValueError), match="4"):
        maml_tf.load(trained, iteration=4)
    with pytest.raises(ValueError, match="^iteration must be a whole number"):
        maml_tf.load(trained, iteration="3")
    with pytest.raises(ValueError, match="two choices of weights"):
        maml_tf.load(trained, best=True, iteration=3)


def test_a_release_has_one_set_of_weights():
    from pathlib import Path

    release = Path(__file__).parents[1] / "models" / "sinusoid_10shot"
    with pytest.raises(ValueError, match="one set of weights; drop best"):
        maml_tf.load(release, best=True)
    learner = maml_tf.load(release)
    assert learner.inner_steps == make({}).inner_steps == 1


def test_a_policy_is_loaded_too():
    pytest.importorskip("gymnasium", reason="needs the extra rl")
    from pathlib import Path

    learner = maml_tf.load(Path(__file__).parents[1] / "models" / "navigation_2d")
    assert isinstance(learner, maml_tf.rl.MetaTRPO)
