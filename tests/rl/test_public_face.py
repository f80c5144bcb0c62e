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


def test_tensorflow_probability_is_imported_with_the_first_learner_or_asked_for():
    """All in one process, for one takes seconds to start."""
    lines = python(
        """
import sys
import maml_tf.rl, maml_tf.rl.objectives
policy = maml_tf.rl.GaussianPolicy(2, 2, (4,))
for name in maml_tf.rl.__all__:
    getattr(maml_tf.rl, name)
print("told:", "tensorflow_probability" in sys.modules)
for missing in ("tensorflow_probability", "tf_keras"):
    sys.modules[missing] = None  # importing it now fails
    try:
        maml_tf.rl.MetaTRPO(policy, meta_batch_size=2)
    except ModuleNotFoundError as error:
        print("told:", error)
    del sys.modules[missing]
maml_tf.rl.MetaTRPO(policy, meta_batch_size=2)
print("told:", "tensorflow_probability" in sys.modules)
"""
    )
    # TensorFlow Probability has more to say where tf_keras is missing.
    assert [line for line in lines if line.startswith("told:")] == [
        "told: False",
        "told: The distributions of policies need tensorflow_probability; pip install maml-tf[rl].",
        "told: The distributions of policies need tf_keras; pip install maml-tf[rl].",
        "told: True",
    ]


@pytest.mark.slow
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
