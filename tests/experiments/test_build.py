import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_settings

from maml_tf import ImplicitMAML, MetaLearner, MultitaskLearner, Reptile
from maml_tf.experiments import machine, settings
from maml_tf.experiments.build import make_learner, make_tasks
from maml_tf.experiments.methods import METHODS

PENALTIES = {m.name: m.penalty for m in METHODS.values() if m.penalty is not None}
SMALL = {"meta_batch_size": 2, "filters": 2}
DENSE = {"problem": "omniglot", "conv": False}


@pytest.mark.parametrize("method", [m for m in METHODS if m != "nearest_neighbour"])  # of images
def test_a_method_makes_its_learner(method):
    learner = make_learner(make_settings(method=method, **SMALL))
    own = {"reptile": Reptile, "imaml": ImplicitMAML} | dict.fromkeys(PENALTIES, MultitaskLearner)
    assert type(learner) is own.get(method, MetaLearner)
    assert learner.first_order == (method in ("fomaml", "reptile"))
    adapting = ("maml", "fomaml", "reptile", "imaml", "context")
    assert learner.inner_steps == (1 if method in adapting else 0)
    inputs = learner.model.input_shape[-1]
    assert inputs == (3 if method == "oracle" else 1)


def test_the_multitask_baselines_differ_in_their_pull():
    made = [make_learner(make_settings(method=method, **SMALL)) for method in PENALTIES]
    assert [learner.penalty for learner in made] == list(PENALTIES.values())
    assert made[0].penalty == 0 and [made[1].pull, made[2].pull] == ["zero", "mean"]


@pytest.mark.parametrize("data", [{}, {"problem": "omniglot"}, DENSE])
def test_only_the_context_adapts_whatever_the_network(data):
    learner = make_learner(make_settings(method="context", **SMALL, **data))
    moving = [
        v.path
        for v, own in zip(learner.model.trainable_variables, learner.adapts, strict=True)
        if own
    ]
    assert len(moving) == 1 and moving[0].endswith("context/vector")


@pytest.mark.parametrize("data", [{}, {"problem": "omniglot"}, DENSE])
def test_the_spread_of_the_head_reaches_the_network_whatever_it_is(data):
    small, usual = (
        make_learner(make_settings(head_stddev=s, **data)).model.weights for s in (1e-4, None)
    )
    assert 0 < np.std(small[-2]) < 1e-3 < np.std(usual[-2])


def test_only_the_training_tasks_of_the_multitask_baseline_are_fixed():
    config = make_settings(method="multitask")
    assert make_tasks(config, "train").fixed and not make_tasks(config, "val").fixed
    assert not make_tasks(make_settings(), "train").fixed


def test_half_of_the_inputs_is_for_held_out_tasks():
    config = make_settings(inputs="half")
    assert make_tasks(config, "test").half and make_tasks(config, "val").half
    assert np.min(make_tasks(config, "train")(0, 20).support.x) < 0


def test_bfloat16_is_of_the_layers_alone():
    before = keras.config.dtype_policy()
    chosen = {"problem": "omniglot", "ways": 3, "filters": 4, "precision": "bfloat16"}
    learner = make_learner(settings.make(chosen))
    assert learner.model.layers[0].compute_dtype == "bfloat16"
    assert {v.dtype for v in learner.model.variables} == {"float32"}
    assert keras.config.dtype_policy() == before
    with pytest.raises(ValueError, match="--precision=bfloat16 is too coarse for the curvature of"):
        settings.make({"problem": "navigation_2d", "precision": "bfloat16"})


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_products_of_full_precision_unless_asked_for(precision):
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        machine.set_up(settings.make({"problem": "sinusoid", "precision": precision}).machine)
        enabled = tf.config.experimental.tensor_float_32_execution_enabled()
        assert enabled == (precision == "tf32")
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
