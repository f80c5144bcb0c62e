"""CIFAR-FS and FC100, on archives of the official layout with a few images of each class."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from maml_tf.tasks import cifar100_images, cifar_fs_episodes, fc100_episodes
from maml_tf.tasks.images import cifar100

PER_CLASS = {"train": 3, "test": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar100, "EXAMPLES", sum(PER_CLASS.values()))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("MAML_TF_DATA", raising=False)


def records(part):
    """Images as planes [n, 3072], and classes [n], in random order."""
    chance = np.random.default_rng(len(part))
    labels = chance.permutation(np.repeat(np.arange(100), PER_CLASS[part]))
    planes = chance.integers(0, 256, (len(labels), 3, 32, 32), np.uint8)
    planes[:, 0, 0, 0] = labels  # red, top left
    planes[:, 1, 0, 1] = 7  # green, one to the right
    return planes.reshape(-1, 3072), labels


def binary(part):
    planes, labels = records(part)
    coarse = np.zeros_like(labels)
    return np.column_stack([coarse, labels, planes]).astype(np.uint8).tobytes()


def python(part, **changes):
    planes, labels = records(part)
    held = {b"data": planes, b"fine_labels": labels.tolist(), b"filenames": [b"a.png"]}
    return pickle.dumps(held | changes, protocol=2)


def write(folder, version, contents=None, archive=True):
    made = {"binary": ("{}.bin", binary), "python": ("{}", python)}
    ending, build = made[version]
    files = {ending.format(part): (contents or build)(part) for part in PER_CLASS}
    folder.mkdir(parents=True, exist_ok=True)
    if not archive:
        (folder / f"cifar-100-{version}").mkdir()
        for name, content in files.items():
            (folder / f"cifar-100-{version}" / name).write_bytes(content)
        return
    with tarfile.open(folder / f"cifar-100-{version}.tar.gz", "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-100-{version}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def test_the_published_splits_are_of_the_published_sizes():
    for name, sizes in (("cifar_fs", (64, 16, 20)), ("fc100", (60, 20, 20))):
        split = cifar100.SPLITS[name]
        assert tuple(map(len, split.values())) == sizes
        assert sorted(sum(split.values(), [])) == cifar100.CLASSES
    superclass = {c: s for s, names in cifar100.SUPERCLASSES.items() for c in names.split()}
    of_fc100 = {s: {superclass[c] for c in own} for s, own in cifar100.SPLITS["fc100"].items()}
    assert [len(own) for own in of_fc100.values()] == [12, 4, 4]
    assert set().union(*of_fc100.values()) == set(cifar100.SUPERCLASSES)


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("archive", [True, False])
def test_both_versions_hold_the_same_images(version, archive, tmp_path):
    write(tmp_path / "cifar100", version, archive=archive)
    images, counts = cifar100_images(tmp_path)
    assert images.shape == (500, 32, 32, 3) and images.dtype == np.uint8
    assert list(counts) == cifar100.CLASSES and set(counts.values()) == {5}
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.repeat(np.arange(100), 5))
    assert (images[:, 0, 1, 1] == 7).all()
    for part, own in (("train", slice(0, 3)), ("test", slice(3, 5))):
        planes, labels = records(part)
        first = planes[labels == 42].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(images.reshape(100, 5, 32, 32, 3)[42, own], first)


def test_episodes_are_of_the_classes_of_their_split(tmp_path):
    write(tmp_path / "cifar100", "binary")
    for make, name in ((cifar_fs_episodes, "cifar_fs"), (fc100_episodes, "fc100")):
        for split, classes in cifar100.SPLITS[name].items():
            source = make(tmp_path, split, ways=5, shots=2, queries=3, seed=4)
            assert source.num_classes == len(classes) and source.seed == 4
            x = source(0, 50).query.x.numpy()
            seen = np.unique(np.round(x[..., 0, 0, 0] * 255).astype(int))
            assert {cifar100.CLASSES[number] for number in seen} <= set(classes)
            assert x.max() <= 1


def test_what_keras_downloaded_is_found(tmp_path):
    write(tmp_path / "keras" / "datasets" / "cifar-100-python-target", "python", archive=False)
    assert len(cifar100_images(tmp_path).images) == 500


def test_an_array_is_kept_and_used(tmp_path, monkeypatch):
    write(tmp_path / "cifar100", "binary")
    before = np.array(cifar100_images(tmp_path, ["baby"]).images)
    monkeypatch.setattr(cifar100, "_binary", None)
    np.testing.assert_array_equal(cifar100_images(tmp_path, ["baby"]).images, before)


class Runs:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (lambda part: python(part, data=Runs()), "not a whole CIFAR-100"),
        (lambda part: python(part)[:999], "not a whole CIFAR-100"),
        (lambda part: pickle.dumps([1]), "not a whole CIFAR-100"),
        (lambda part: python("train"), "has 600 images of 100 classes; CIFAR-100 has 5 of each"),
    ],
)
def test_what_is_damaged_or_would_run_code_is_refused(contents, message, tmp_path):
    write(tmp_path / "cifar100", "python", contents)
    with pytest.raises(ValueError, match=message):
        cifar100_images(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar100 has no .*data/cifar100/README.md"):
        cifar_fs_episodes(tmp_path, ways=5, shots=1, queries=1)
    (tmp_path / "cifar100" / "cifar-100-binary").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="train.bin is missing"):
        fc100_episodes(tmp_path, ways=5, shots=1, queries=1)
    with pytest.raises(
        ValueError, match="2 support and 15 query examples need 17 examples a class"
    ):
        cifar_fs_episodes(tmp_path, ways=5, shots=2)
    with pytest.raises(
        ValueError, match="70-way episodes need 70 classes; the 'train' split has 64"
    ):
        cifar_fs_episodes(tmp_path, ways=70, shots=1, queries=1)


def test_the_library_gives_the_same_classes(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs maml-tf[tfds]")
    planes, labels = zip(*(records(part) for part in PER_CLASS), strict=True)
    images = np.concatenate(planes).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = np.concatenate(labels)
    version = tfds.builder_cls("cifar100").VERSION
    with tfds.core.registered.skip_registration():

        class Cifar100(tfds.core.GeneratorBasedBuilder):
            VERSION = version

            def _info(self):
                names = list(reversed(cifar100.CLASSES))  # The library's numbers are its own.
                features = {
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(names=names),
                    "coarse_label": np.int64,
                    "id": tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {part: self._generate_examples(part) for part in PER_CLASS}

            def _generate_examples(self, part):
                own = slice(0, 300) if part == "train" else slice(300, 500)
                for number, (image, label) in enumerate(zip(images[own], labels[own], strict=True)):
                    example = {"image": image, "label": cifar100.CLASSES[label]}
                    yield number, {**example, "coarse_label": 0, "id": str(number)}

    place = tmp_path / "cifar100" / "cache" / "tfds"
    Cifar100(data_dir=str(place)).download_and_prepare()
    found = cifar100_images(tmp_path, ["apple", "worm"], download=True).images
    np.testing.assert_array_equal(found[:, 0, 0, 0], np.repeat([0, 99], 5))
