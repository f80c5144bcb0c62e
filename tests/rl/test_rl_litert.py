"""A policy as a file for LiteRT, against the learner itself."""

import json

import numpy as np
import pytest
import tensorflow as tf
from learners import make_learner

import maml_tf
from maml_tf.cli.main import run
from maml_tf.saving import litert


@pytest.mark.slow
def test_a_policy_acts_as_the_learner_does(tmp_path):
    module = pytest.importorskip("ai_edge_litert.interpreter", reason="pip install ai-edge-litert")
    learner, path = make_learner(), tmp_path / "it"
    maml_tf.export(learner, path, format="litert", query_examples=3)
    assert json.loads((path / "maml_tf.json").read_text())["select"] == []
    model = module.Interpreter(model_path=str(path / "model.tflite"), num_threads=1)
    assert set(model.get_signature_list()) == {"initial_weights", "act"}
    weights = model.get_signature_runner("initial_weights")()
    draw = np.random.default_rng(0)
    seen, noise = (draw.normal(size=(3, 2)).astype("float32") for _ in range(2))
    got = model.get_signature_runner("act")(observations=seen, noise=noise, **weights)
    want = learner.policy(learner.inner.initial_weights(), tf.constant(seen)[None])
    np.testing.assert_allclose(got["means"], want.means[0], rtol=1e-5, atol=1e-6)
    drawn = want.means[0] + noise * np.exp(got["log_stds"])
    np.testing.assert_allclose(got["actions"], drawn, rtol=1e-5, atol=1e-6)


def test_adaptation_is_there_with_episodes_of_a_size(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(litert, "convert", lambda servable: made.append(servable) or (b"TFL3", []))
    release = ["export", "--init=models/navigation_2d", "--format=litert"]
    flags = ["--support_examples=3", "--horizon=7", f"--to={tmp_path / 'it.tflite'}"]
    assert run([*release, *flags]) == 0
    adapt = made[0].signatures["adapt"]
    shapes = {spec.name: spec.shape for spec in adapt.structured_input_signature[0][:4]}
    assert shapes == {"observations": (3, 7, 2), "actions": (3, 7, 2)} | dict.fromkeys(
        ("rewards", "mask"), (3, 7)
    )


@pytest.mark.parametrize("half", [{"support_examples": 3}, {"horizon": 7}])
def test_half_of_a_size_is_refused(half, tmp_path):
    with pytest.raises(ValueError, match="give both, or neither"):
        maml_tf.export(make_learner(), tmp_path / "it", format="litert", **half)
