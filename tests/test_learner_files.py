"""A learner as a file: saved, loaded into one made by the same code, and read by Keras alone."""

import json
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

from maml_tf import MetaLearner, MultitaskLearner, evaluate, losses, networks
from maml_tf.saving.weights import load, save
from maml_tf.tasks import Sinusoid

TASKS = Sinusoid(shots=5)


def network(units=6, norm=True, activation="relu"):
    middle = [keras.layers.BatchNormalization()] if norm else [keras.layers.Dense(units)]
    return keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(units, activation=activation),
            *middle,
            keras.layers.Dense(1),
        ]
    )


def make_learner(model=None, seed=0, **options):
    keras.utils.set_random_seed(seed)
    options = {"meta_batch_size": 4, "learn_step_size": True, **options}
    return MetaLearner(model or network(), losses.mean_squared_error, **options)


def values(learner):
    return [np.array(np.asarray(v)) for v in learner.state]


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A learner, which no test changes, and its file."""
    learner = make_learner()
    learner.meta_steps(TASKS, 0, 5)
    path = tmp_path_factory.mktemp("files") / "deep" / "sine.weights.h5"
    learner.save(path)
    return learner, path


@pytest.mark.slow
def test_weights_and_step_sizes_come_back_and_work(trained):
    learner, path = trained
    assert np.ptp(learner.step_sizes[0]) > 0  # moved from their common beginning
    again = make_learner(seed=1)
    again.meta_steps(TASKS, 0, 1)  # compiled with the weights before
    assert any((a != b).any() for a, b in zip(values(again), values(learner), strict=True))
    again.load(path)
    assert_equal(values(again), values(learner))
    assert len(again.step_sizes) == 4
    measured = [evaluate(x, TASKS, num_tasks=24, steps=2).mean for x in (learner, again)]
    np.testing.assert_array_equal(*measured)
    adapted = [x.adapt(np.ones([5, 1]), np.ones([5, 1])).get_weights() for x in (learner, again)]
    assert_equal(*adapted)


def test_it_is_a_weights_file_of_keras(trained):
    learner, path = trained
    plain = network()
    plain.load_weights(path)
    assert_equal(plain.get_weights(), learner.model.get_weights())
    assert [p.name for p in path.parent.iterdir()] == ["sine.weights.h5"]


def test_a_weights_file_of_keras_fits_a_learner_without_step_sizes(tmp_path):
    model = network()
    model.save_weights(tmp_path / "plain.weights.h5")
    learner = make_learner(seed=1, learn_step_size=False)
    learner.load(tmp_path / "plain.weights.h5")
    assert_equal(learner.model.get_weights(), model.get_weights())
    with pytest.raises(ValueError, match="0 arrays beside .* this learner 4 .* learn_step_size"):
        make_learner().load(tmp_path / "plain.weights.h5")


def test_a_release_is_loaded_by_its_directory(tmp_path):
    learner = make_learner(learn_step_size=False)
    learner.model.save_weights(tmp_path / "initial.weights.h5")
    again = make_learner(seed=1, learn_step_size=False)
    again.load(tmp_path)
    assert_equal(values(again), values(learner))


@pytest.mark.slow
def test_another_process_reads_it(trained, tmp_path):
    learner, path = trained
    script = f"""
import sys
sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
import numpy as np, test_learner_files as t
learner = t.make_learner(t.network(), seed=3)
learner.load({str(path)!r})
np.savez({str(tmp_path / "values.npz")!r}, *t.values(learner))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    with np.load(tmp_path / "values.npz", allow_pickle=False) as read:
        assert_equal([read[name] for name in read.files], values(learner))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"learn_step_size": False}, "4 arrays beside .* this learner 0 .*learn_step_size"),
        ({"adapts": lambda v: v.name == "kernel"}, "4 arrays .* this learner 2 "),
        (
            {"model": network(7)},
            r"another network: weights\[0\]=kernel \[1, 6\], now kernel \[1, 7",
        ),
        (
            {
                "model": network(norm=False),
                "adapts": lambda v: v.name == "kernel" or v.shape == (1,),
            },
            r"another network: layers\[2\].class=BatchNormalization, now Dense",
        ),
    ],
    ids=["no step sizes", "fewer", "wider", "another layer"],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(trained, options, told):
    learner = make_learner(seed=1, **options)
    before = values(learner)
    with pytest.raises(ValueError, match=told):
        learner.load(trained[1])
    assert_equal(values(learner), before)


def test_another_class_of_layer_with_the_same_shapes(tmp_path):
    one, other = (
        keras.Sequential([keras.Input((4, 4, 2)), layer, keras.layers.Flatten()])
        for layer in (keras.layers.Dense(3), keras.layers.EinsumDense("bhwc,cd->bhwd", (4, 4, 3)))
    )
    learners = [MetaLearner(m, losses.mean_squared_error, meta_batch_size=4) for m in (one, other)]
    learners[0].save(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="another network: .*class=Dense, now EinsumDense"):
        learners[1].load(tmp_path / "a.weights.h5")


def test_a_file_that_keras_refuses_half_way_changes_nothing(tmp_path):
    other = keras.Sequential([keras.Input((1,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")  # the first layer fits, the second does not
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(6), keras.layers.Dense(1)])
    learner = make_learner(model, learn_step_size=False)
    before = values(learner)
    with pytest.raises(ValueError, match="does not fit this network .* by the code that saved it"):
        learner.load(tmp_path / "other.weights.h5")
    assert_equal(values(learner), before)


def test_files_that_are_none(tmp_path):
    learner = make_learner()
    with pytest.raises(ValueError, match="a file <name>.weights.h5; write to .*sine.weights.h5"):
        learner.save(tmp_path / "sine")
    with pytest.raises(FileNotFoundError, match="`learner.save` writes them"):
        learner.load(tmp_path / "sine.weights.h5")
    (tmp_path / "sine.weights.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="sine.weights.h5 cannot be read"):
        learner.load(tmp_path / "sine.weights.h5")


def test_a_failed_save_leaves_the_old_file(trained, monkeypatch):
    learner, path = trained
    before = path.read_bytes()

    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(learner.model, "save_weights", fail)
    with pytest.raises(OSError, match="disk full"):
        learner.save(path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_the_description_says_what_was_saved(trained):
    with h5py.File(trained[1], "r") as file:
        described = json.loads(file["maml_tf/description"].asstr()[()])
    assert described["inner_steps"] == 1 and described["loss"] == "mean_squared_error"
    assert described["optimizer"]["class"] == "Adam"
    classes = [layer["class"] for layer in described["layers"]]
    assert classes == ["InputLayer", "Dense", "BatchNormalization", "Dense"]


def test_regressors_of_the_multitask_baseline_come_back(tmp_path):
    def multitask(seed):
        model = networks.dense_network(1, 1, (6,), seed=seed)
        return MultitaskLearner(model, losses.mean_squared_error, meta_batch_size=3)

    learner, again = multitask(1), multitask(2)
    learner.meta_steps(TASKS, 0, 2)
    learner.save(tmp_path / "m.weights.h5")
    again.load(tmp_path / "m.weights.h5")
    assert_equal(values(again), values(learner))
    assert len(again.regressors) == 4


def test_a_subclassed_model_with_weights_of_its_own(tmp_path):
    class Scaled(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
            self.scale = self.add_weight(shape=(), initializer="ones")

        def call(self, x):
            return self.scale * self.blocks[1](self.blocks[0](x))

    def built(seed):
        keras.utils.set_random_seed(seed)
        model = Scaled()
        model(np.ones([1, 1]))
        for variable in model.variables:
            variable.assign(seed + 1 + np.asarray(variable))
        return model

    class Bare:
        """What `save` asks of a learner."""

        def __init__(self, model):
            self.model, self.state = model, list(model.variables)

    one, other = Bare(built(1)), Bare(built(2))
    save(one, tmp_path / "s.weights.h5")
    load(other, tmp_path / "s.weights.h5")
    assert_equal(values(other), values(one))


def test_no_flipped_bit_loads_other_weights_or_traces_back(trained, tmp_path):
    learner, path = trained
    whole, right = path.read_bytes(), values(learner)
    chance = np.random.default_rng(0)
    again = make_learner(seed=5)
    before, refused = values(again), 0
    for place in chance.integers(len(whole), size=40):
        content = bytearray(whole)
        content[place] ^= 1 << int(chance.integers(8))
        damaged = tmp_path / "damaged.weights.h5"
        damaged.write_bytes(content)
        try:
            again.load(damaged)
        except ValueError as error:
            assert "\n" not in str(error)
            assert_equal(values(again), before)
            refused += 1
        else:
            assert_equal(values(again), right)
            again = make_learner(seed=5)
    assert refused > 5
