"""`maml_tf.rl` is what a user imports."""

import subprocess
import sys

import pytest

import maml_tf.rl


def test_every_public_name_is_there_and_documented():
    pytest.importorskip("mujoco", reason="needs the extra rl")
    for name in maml_tf.rl.__all__:
        found = getattr(maml_tf.rl, name)
        assert found.__doc__ or name == "ENVIRONMENTS", name
    assert {"MetaPolicy", "MetaTRPO", "GaussianPolicy", "Sampler", "envs"} <= set(
        maml_tf.rl.__all__
    )


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()


def test_importing_it_imports_neither_tensorflow_nor_gymnasium():
    heavy = "('tensorflow', 'keras', 'gymnasium', 'tensorflow_probability', 'tf_keras')"
    code = f"import sys, maml_tf.rl; print([n for n in {heavy} if n in sys.modules])"
    assert python(code) == ["[]"]


def test_an_environment_alone_needs_no_tensorflow():
    lines = python(
        """
import sys, gymnasium
from maml_tf.rl import envs
from maml_tf.rl.envs import process_worker
gymnasium.make("maml_tf/Navigation2D-v0").reset()
print([n for n in ("tensorflow", "keras") if n in sys.modules])
"""
    )
    assert lines == ["[]"]


def test_tensorflow_probability_is_imported_with_the_first_learner():
    lines = python(
        """
import sys
import maml_tf.rl, maml_tf.rl.objectives
policy = maml_tf.rl.GaussianPolicy(2, 2, (4,))
for name in maml_tf.rl.__all__:
    getattr(maml_tf.rl, name)
print("tensorflow_probability" in sys.modules)
maml_tf.rl.MetaTRPO(policy, meta_batch_size=2)
print("tensorflow_probability" in sys.modules)
"""
    )
    assert lines == ["False", "True"]


@pytest.mark.parametrize("missing", ["tensorflow_probability", "tf_keras"])
def test_a_learner_without_tensorflow_probability_says_what_to_install(missing):
    lines = python(
        f"""
import sys
sys.modules[{missing!r}] = None  # importing it now fails
import maml_tf.rl
policy = maml_tf.rl.GaussianPolicy(2, 2, (4,))
try:
    maml_tf.rl.MetaTRPO(policy, meta_batch_size=2)
except ModuleNotFoundError as error:
    print(error)
"""
    )
    assert lines[-1:] == [f"The distributions of policies need {missing}; pip install maml-tf[rl]."]


def test_without_the_extra_the_error_says_what_to_install():
    lines = python(
        """
import sys
sys.modules["gymnasium"] = None  # importing it now fails
import maml_tf.rl
policy = maml_tf.rl.GaussianPolicy(2, 2, (4,))
print(type(maml_tf.rl.MetaTRPO(policy, meta_batch_size=2)).__name__, len(maml_tf.rl.ENVIRONMENTS))
for name in ("Sampler", "envs", "render"):
    try:
        getattr(maml_tf.rl, name)
    except ModuleNotFoundError as error:
        print(error)
"""
    )
    assert lines[0] == "MetaTRPO 6"
    assert lines[1:] == [
        f"maml_tf.rl.{name} needs gymnasium; pip install maml-tf[rl]."
        for name in ("Sampler", "envs", "render")
    ]
