"""A training that JAX runs takes the steps that TensorFlow takes, on the same tasks."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("jax", reason="pip install maml-tf[stablehlo]")
pytestmark = pytest.mark.slow

# Without normalisation: a bias before one has no gradient, and Adam makes steps of its rounding.
WORDS = [
    "--problem=sinusoid",
    "--norm=none",
    "--shots=5",
    "--iterations=20",
    "--learn_step_size=layer",
]
STEPS = 20


def test_a_training_in_jax_is_the_training(tmp_path, capsys):
    from benchmarks.gpu import export
    from maml_tf import load
    from maml_tf.cli.main import run

    exported, trained = tmp_path / "exported", tmp_path / "trained"
    export.write(exported, "mine", *export.training("mine", WORDS))
    trained.mkdir()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def call(*words):
        command = [sys.executable, "-m", *map(str, words)]
        subprocess.run(command, check=True, env=environment, capture_output=True)

    call("benchmarks.gpu.train", exported, "mine", "--out", trained, "--chunk", 8)
    words = ("--logdir", tmp_path / "jax")
    call("benchmarks.gpu.take", exported / "mine.json", trained / "mine.npz", *words)
    assert run(["train", *WORDS, f"--logdir={tmp_path / 'tensorflow'}", "--progress=False"]) == 0
    ours, theirs = (load(next((tmp_path / name).iterdir())) for name in ("tensorflow", "jax"))
    assert len(ours.state) == len(theirs.state)
    for one, other in zip(ours.state, theirs.state, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    with np.load(trained / "mine.npz", allow_pickle=False) as stored:
        assert stored["iteration"] == STEPS
        assert stored["metrics|query_loss"].shape == (STEPS,)


def test_steps_are_timed(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu.export", "--to", tmp_path, "steps", "sinusoid"]
    subprocess.run(command, check=True, capture_output=True)
    command = [sys.executable, "-m", "benchmarks.gpu.run_steps", tmp_path, "--seconds", "0.1"]
    command += ["--only", "ours/sinusoid", "--out", tmp_path / "gpu.json"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "error" not in told.stdout
    assert '"loss_tensorflow"' in told.stdout
