"""What a learner is, as plain data that is the same in every process."""

import functools
import json

import keras
import numpy as np
import pytest

from maml_tf import MetaLearner, losses
from maml_tf.saving.descriptions import contradictions, describe, kind
from maml_tf.tasks import Episodes


@pytest.mark.parametrize(
    "name, last",
    [
        ("kernel", "kernel"),
        ("sequential_3/dense_12/kernel", "kernel"),
        ("adam_1_dense_3_bias_momentum", "momentum"),
        ("step_size_dense_7_kernel", "kernel"),
        ("variable_12", "variable"),
        ("moving_mean", "mean"),
        ("log_std", "std"),
    ],
)
def test_the_kind_of_a_variable_has_no_counters(name, last):
    assert kind(name) == last


def learner(layers, loss=losses.mean_squared_error, **options):
    model = keras.Sequential([keras.Input((4,)), *layers])
    return MetaLearner(model, loss, meta_batch_size=4, **options)


def typical(units=3, rate=0.5, trainable=True):
    return [
        keras.layers.Dense(units, kernel_initializer=keras.initializers.Ones()),
        keras.layers.BatchNormalization(trainable=trainable),
        keras.layers.Dropout(rate, seed=units),
        keras.layers.Dense(2, activation=keras.activations.tanh),
    ]


def test_the_same_code_gives_the_same_description_and_json_keeps_it():
    first, second = describe(learner(typical())), describe(learner(typical()))
    assert first == second == json.loads(json.dumps(first))
    assert "dense_" not in json.dumps(first) and "adam_" not in json.dumps(first)
    layers = {layer["class"]: layer for layer in first["layers"]}
    assert layers["Dropout"]["rate"] == 0.5 and layers["Dense"]["activation"] == "tanh"
    assert first["weights"][0] == {"kind": "kernel", "shape": [4, 3], "dtype": "float32"}


@pytest.mark.parametrize(
    "changed, told",
    [
        (typical(units=5), "weights[0].shape[1]=3, now 5"),
        (typical(rate=0.25), "layers[3].rate=0.5, now 0.25"),
        (typical(trainable=False), "layers[2].trainable=True, now False"),
        (typical()[:2] + typical()[3:], "layers=5 of them, now 4"),
    ],
    ids=["units", "rate", "frozen", "fewer"],
)
def test_what_differs_is_named(changed, told):
    before, now = describe(learner(typical())), describe(learner(changed))
    assert told in contradictions(before, now)


def test_what_only_one_of_them_says_is_not_compared():
    now = describe(learner(typical()))
    before = json.loads(json.dumps(now))
    del before["layers"][1]["bias_constraint"], before["query_weight"]
    before["optimizer"]["of_a_later_keras"] = 3
    assert contradictions(before, now) == []


def weighted(outputs, y, factor):
    return factor * losses.mean_squared_error(outputs, y)


class Weighted:
    """A loss that is an object of its own class."""

    def __call__(self, outputs, y):
        return weighted(outputs, y, 2.0)


@pytest.mark.parametrize(
    "loss, said",
    [
        (losses.mean_squared_error, "mean_squared_error"),
        (Weighted(), "Weighted"),
        (
            functools.partial(weighted, factor=0.5),
            {"class": "partial", "of": "weighted", "factor": 0.5},
        ),
        (functools.wraps(weighted)(lambda o, y: weighted(o, y, 3.0)), "weighted"),
    ],
    ids=["function", "object", "partial", "wrapped"],
)
def test_a_loss_by_what_it_is_called(loss, said):
    assert describe(learner(typical(), loss))["loss"] == said


def test_optimizers_with_a_schedule_and_with_scaled_losses():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    described = describe(learner(typical(), optimizer=keras.optimizers.SGD(schedule)))
    rate = described["optimizer"]["learning_rate"]
    assert rate["class"] == "CosineDecay" and rate["decay_steps"] == 100
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    inner = describe(learner(typical(), optimizer=scaled))["optimizer"]["inner_optimizer"]
    assert inner["class"] == "Adam" and inner["learning_rate"] == 0.01


def test_layers_that_cannot_be_described_have_a_class():
    class Odd(keras.layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, x):
            return self.function(x)

    described = describe(learner([keras.layers.Dense(2), keras.layers.Lambda(lambda x: 2 * x)]))
    assert described["layers"][2]["function"] == "lambda"
    model = keras.Sequential([keras.Input((4,)), Odd(abs), keras.layers.Dense(1)])

    class Bare:
        state = model.variables

    Bare.model = model
    assert describe(Bare())["layers"][1]["class"] == "Odd"


def test_long_lists_are_hashed():
    class Bare:
        state = []

    def vocabulary(last):
        words = [f"word{i}" for i in range(100)] + [last]
        Bare.model = keras.Sequential([keras.layers.StringLookup(vocabulary=words)])
        return describe(Bare())["layers"][0]["vocabulary"]

    assert vocabulary("a") == vocabulary("a") != vocabulary("b")
    assert vocabulary("a").startswith("101 values, ")


def test_what_a_source_of_tasks_draws():
    images = np.zeros((5, 4, 8, 8, 1), np.float32)
    episodes = Episodes(images, ways=3, shots=1, queries=2, seed=7, rotations=True)
    described = describe(learner(typical()), episodes)["tasks"]
    expected = {"seed": 7, "split": "train", "ways": 3, "shots": 1, "queries": 2, "rotations": True}
    assert described == expected | {"scale": None}
    drawn = Episodes(images, ways=3, shots=(1, 2), queries=2)
    assert describe(learner(typical()), drawn)["tasks"]["shots"] == [1, 2]
    assert describe(learner(typical()), lambda index, num_tasks: None)["tasks"] == {}
