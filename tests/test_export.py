"""What an export leaves on disk, and what it refuses before anything is there."""

import json
import shutil

import keras
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import losses, networks
from maml_tf.saving.export import export
from maml_tf.saving.saved_models import SIDECAR
from maml_tf.supervised.learner import MetaLearner
from maml_tf.system import checksums


def _learner(**options):
    return MetaLearner(networks.dense_network(1, 1, (3,)), losses.mean_squared_error, **options)


def _description(place):
    return json.loads((place / SIDECAR).read_text())


@pytest.mark.slow
def test_the_sidecar_says_what_was_exported(tmp_path):
    model = networks.dense_network((4, 4), 3, (5,), norm="batch_norm")
    learner = MetaLearner(model, losses.cross_entropy, step_size=0.1, inner_steps=2)
    export(learner, tmp_path / "it")
    assert _description(tmp_path / "it") == {
        "maml_tf": maml_tf.__version__,
        "model": "dense_network",
        "input": {"shape": [4, 4], "dtype": "float32"},
        "target": {"shape": [], "dtype": "int32"},
        "outputs": [3],
        "ways": 3,
        "loss": "cross_entropy",
        "metric": "accuracy",
        "defaults": {"steps": 2, "step_size": 0.1, "transductive": True},
        "weights": ["dense_1_kernel", "dense_1_bias", "norm_1_beta", "head_kernel", "head_bias"],
        "batch_statistics": ["norm_1_mean", "norm_1_variance"],
    }


def test_one_checkpoint_of_weights_and_step_sizes(tmp_path):
    export(_learner(learn_step_size=True), tmp_path / "it", steps=3)
    described = _description(tmp_path / "it")
    assert described["defaults"] == {"steps": 3, "step_size": "meta-learned", "transductive": True}
    assert (described["ways"], described["target"]["shape"]) == (None, [1])
    variables = tf.train.list_variables(str(tmp_path / "it" / "variables" / "variables"))
    saved = {name.split("/.ATTR")[0] for name, _ in variables if "ATTR" in name}
    places = ("initial", "step_sizes")
    assert saved == {f"{of}/{weight}" for of in places for weight in described["weights"]}


def test_an_earlier_export_is_replaced_whole(tmp_path):
    learner, place = _learner(), tmp_path / "deep" / "export"
    export(learner, place)
    (place / "notes.txt").write_text("the user's own")
    learner.model.trainable_variables[-1].assign([7.0])
    export(learner, place)
    model = tf.saved_model.load(str(place))
    assert model.initial_weights()["head_bias"].numpy() == [7.0]
    assert (place / "notes.txt").read_text() == "the user's own"
    assert set(checksums.listed(place / "SHA256SUMS")) | {"SHA256SUMS", "notes.txt"} == {
        p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()
    }
    assert checksums.verify(place / "SHA256SUMS", ["saved_model.pb"]) == 5
    assert list(place.parent.iterdir()) == [place]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An export that can be loaded."""
    place = tmp_path_factory.mktemp("whole") / "export"
    export(_learner(), place)
    assert maml_tf.load_export(place).initial_weights()
    return place


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
@pytest.mark.cases(2)
def test_a_damaged_export_is_refused_where_it_is_loaded(whole, tmp_path, name, damage):
    place = shutil.copytree(whole, tmp_path / "export")
    content = bytearray((place / name).read_bytes())
    if damage == "missing":
        (place / name).unlink()
    else:
        content[len(content) // 2] ^= 2
        cut = len(content) // 3 if damage == "cut" else len(content)
        (place / name).write_bytes(content[:cut])
    if (name, damage) == ("SHA256SUMS", "missing"):  # as of an earlier version
        assert maml_tf.load_export(place).initial_weights()
        return
    with pytest.raises((ValueError, FileNotFoundError), match="export|cannot be loaded") as raised:
        maml_tf.load_export(place)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_failure_leaves_the_earlier_export(tmp_path, monkeypatch):
    learner, place = _learner(), tmp_path / "export"
    place.mkdir()  # an empty directory will do
    export(learner, place)
    before = sorted(place.rglob("*"))
    monkeypatch.setattr(tf.saved_model, "save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(learner, place)
    assert sorted(place.rglob("*")) == before
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("bucket://models/it", ValueError, "not a local directory"),
        ("file", ValueError, "is a file"),
        ("file/below", OSError, "choose another directory"),
        ("others", ValueError, "not an export of maml_tf"),
    ],
)
def test_places_that_are_refused(tmp_path, where, error, message, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.tex").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        export(_learner(), where)
    assert sorted(tmp_path.rglob("*")) == before


def _plain():
    return networks.dense_network(1, 1, (3,))


def _any_size():
    inputs = keras.Input((None, None, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(inputs))
    return keras.Model(inputs, x)


class _TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(1)

    def call(self, inputs):
        return self.head(inputs[0] + inputs[1])


def _two_inputs():
    model = _TwoInputs()
    model([tf.zeros([1, 2]), tf.zeros([1, 2])])
    return model


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (_any_size, {}, "keras.Input of one size"),
        (_two_inputs, {}, "does not say what it takes"),
        (_plain, {"steps": -1}, "steps must be 0 or more"),
        (_plain, {"step_size": 0.0}, "step_size must be positive"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, make, options, message):
    learner = MetaLearner(make(), losses.mean_squared_error)
    with pytest.raises(ValueError, match=message):
        export(learner, tmp_path / "it", **options)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_exported_leaves_no_directory_behind(tmp_path):
    with pytest.raises(ValueError, match="steps must be 0 or more"):
        export(_learner(), tmp_path / "a" / "b" / "c", steps=-1)
    assert not (tmp_path / "a").exists()
