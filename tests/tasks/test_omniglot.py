import io
import os
import pathlib
import shutil
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from maml_tf.tasks import omniglot_episodes, omniglot_images, omniglot_splits
from maml_tf.tasks.images import omniglot

# In the order of (alphabet, character), which is not the order of the two parts.
CHARACTERS = [("Ahom", 1), ("Blin", 1), ("Blin", 2), ("Cham", 1)]
PARTS = {"images_background": [1, 2, 3], "images_evaluation": [0]}


def drawing(character, drawer):
    """Black ink in the lower `21 * character` rows and the left `5 * drawer` columns."""
    white = np.ones((105, 105), bool)
    white[105 - 21 * character :] = False
    white[:, : 5 * drawer] = False
    return Image.fromarray(white)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_tree(root):
    for part, characters in PARTS.items():
        for c in characters:
            alphabet, number = CHARACTERS[c]
            folder = root / "omniglot" / part / alphabet / f"character{number:02d}"
            folder.mkdir(parents=True)
            for drawer in range(20):
                # File numbers run over the whole data set, in an order of their own.
                file = folder / f"{900 - c:04d}_{drawer + 1:02d}.png"
                file.write_bytes(png(drawing(c, drawer)))


def zip_part(root, part):
    """Replaces an extracted folder by a zip like the official one."""
    folder = root / "omniglot" / part
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder.parent))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_tree(root)
    return root


@pytest.fixture
def folders(original, tmp_path):
    return pathlib.Path(shutil.copytree(original, tmp_path / "folders"))


@pytest.fixture
def zips(original, tmp_path):
    root = pathlib.Path(shutil.copytree(original, tmp_path / "zips"))
    for part in PARTS:
        zip_part(root, part)
    return root


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("MAML_TF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "maml_tf" / "omniglot"


def check(images):
    """Compares with the original's preparation, `1 - lanczos(drawing) / 255`."""
    assert images.shape == (4, 20, 28, 28, 1)
    assert images.dtype == np.uint8
    for c in range(4):
        for drawer in range(20):
            grey = drawing(c, drawer).convert("L").resize((28, 28), Image.LANCZOS)
            expected = 1 - np.asarray(grey, np.float32) / 255
            np.testing.assert_allclose(images[c, drawer, ..., 0] / 255, expected, atol=1e-6)


def test_reads_zips(zips):
    check(omniglot_images(zips))


def test_reads_folders(folders):
    check(omniglot_images(folders))


def test_reads_one_of_each(folders):
    zip_part(folders, "images_evaluation")
    check(omniglot_images(folders))


def test_ink_is_bright_and_edges_are_grey(folders):
    # Character 2, first drawing: the lower 42 of 105 rows, 11.2 of 28, are ink.
    rows = omniglot_images(folders)[2, 0, :, 14, 0]
    assert (rows[:14] == 0).all()
    assert (rows[20:] == 255).all()
    # Row 16 is 0.2 ink. Nearest neighbour would give 0 or 255, box averaging 51.
    assert 20 < rows[16] < 80


def test_ignores_junk(folders):
    part = folders / "omniglot" / "images_background"
    (part / ".DS_Store").touch()
    (part / "Blin" / "character01" / "._0899_01.png").touch()
    (part / "__MACOSX").mkdir()
    (part / "__MACOSX" / "0899_01.png").touch()
    check(omniglot_images(folders))


def test_linked_folders_are_read_and_copies_are_not(folders, tmp_path, caplog):
    part = folders / "omniglot" / "images_background"
    (part / "Blin").rename(tmp_path / "elsewhere")
    (part / "Blin").symlink_to(tmp_path / "elsewhere")
    for copy in ("Cham copy", "Cham (1)"):
        shutil.copytree(part / "Cham", part / copy)
    drawing = min((part / "Cham").glob("*/*.png"))
    shutil.copy(drawing, drawing.with_name(f"{drawing.stem} (conflicted copy).png"))
    (part / "@eaDir").mkdir()
    (part / "@eaDir" / "thumbs.db").touch()
    check(omniglot_images(folders))
    assert "41 more" not in caplog.text
    assert f"Ignored {part}/Cham (1) and 2 more copies: the original is beside it." in caplog.text


def test_a_drawing_that_would_never_end(folders):
    file = min((folders / "omniglot" / "images_background" / "Blin").rglob("*.png"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=f"{file} is no regular file; remove it"):
        omniglot_images(folders)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=f"{file} is no regular file; remove it"):
        omniglot_images(folders)


def test_default_folders(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(folders)
    check(omniglot_images())
    monkeypatch.setenv("MAML_TF_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="nothing/omniglot has no"):
        omniglot_images()
    monkeypatch.setenv("MAML_TF_DATA", str(folders))
    check(omniglot_images())


def refuse(*_):
    raise AssertionError("decoded again")


@pytest.mark.parametrize("source", ["zips", "folders"])
def test_decodes_once(source, request, monkeypatch):
    root = request.getfixturevalue(source)
    omniglot_images(root)
    assert len(list((root / "omniglot" / "cache").iterdir())) == 1
    monkeypatch.setattr(omniglot, "_decode", refuse)
    check(omniglot_images(root))


def test_keeps_the_array_with_the_user_where_the_data_is_read_only(zips, user_cache, monkeypatch):
    (zips / "omniglot").chmod(0o555)
    omniglot_images(zips)
    assert len(list(user_cache.iterdir())) == 1
    monkeypatch.setattr(omniglot, "_decode", refuse)
    check(omniglot_images(zips))
    (zips / "omniglot").chmod(0o755)
    assert not (zips / "omniglot" / "cache").exists()


def test_a_changed_source_is_decoded_again(folders):
    omniglot_images(folders)
    file = next((folders / "omniglot").glob("*/Ahom/character01/*_01.png"))
    file.write_bytes(png(drawing(5, 0)))
    assert omniglot_images(folders)[0, 0].min() == 255


def test_a_changed_decoder_decodes_again(folders, monkeypatch):
    omniglot_images(folders)
    monkeypatch.setattr(omniglot, "_VERSION", omniglot._VERSION + 1)
    monkeypatch.setattr(omniglot, "_decode", refuse)
    with pytest.raises(AssertionError, match="decoded again"):
        omniglot_images(folders)


def test_a_damaged_cache_is_decoded_again(folders):
    omniglot_images(folders)
    (file,) = (folders / "omniglot" / "cache").iterdir()
    contents = bytearray(file.read_bytes())
    contents[40_000] ^= 255
    file.write_bytes(contents)
    check(omniglot_images(folders))
    check(omniglot_images(folders))


def test_no_cache(folders, user_cache):
    check(omniglot_images(folders, cache=False))
    assert not (folders / "omniglot" / "cache").exists()
    assert not user_cache.exists()


def test_no_data(tmp_path):
    message = "omniglot has no images_background.zip and no images_evaluation.zip; download .*/omni"
    with pytest.raises(FileNotFoundError, match=message):
        omniglot_images(tmp_path)


@pytest.mark.parametrize("part", PARTS)
def test_half_of_the_data(part, zips):
    (zips / "omniglot" / f"{part}.zip").unlink()
    for download in (False, True):
        with pytest.raises(FileNotFoundError, match=f"omniglot has no {part}.zip; download"):
            omniglot_images(zips, download=download)


def test_a_truncated_zip(zips):
    file = zips / "omniglot" / "images_background.zip"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="images_background.zip is not a whole zip file"):
        omniglot_images(zips)


def test_an_empty_zip(zips):
    zipfile.ZipFile(zips / "omniglot" / "images_background.zip", "w").close()
    with pytest.raises(ValueError, match="images_background.zip holds no drawings"):
        omniglot_images(zips)


def test_one_zip_under_both_names(zips):
    folder = zips / "omniglot"
    shutil.copy(folder / "images_background.zip", folder / "images_evaluation.zip")
    with pytest.raises(ValueError, match="Blin/character01 has 40 drawings"):
        omniglot_images(zips)


@pytest.mark.parametrize("name", ["notes.txt", "Blin/0899_01.png", "Blin/character01/notes.txt"])
def test_a_stray_file(name, folders):
    (folders / "omniglot" / "images_background" / name).touch()
    with pytest.raises(ValueError, match=f"images_background: {name} is not a drawing"):
        omniglot_images(folders)


def damage(folders, contents):
    name = "Blin/character02/0898_07.png"
    (folders / "omniglot" / "images_background" / name).write_bytes(contents)
    return f"images_background: {name}"


@pytest.mark.parametrize(
    "contents", [b"", b"text", png(drawing(1, 1))[:60], png(drawing(1, 1))[:-40]]
)
def test_a_file_that_is_no_image(contents, folders):
    name = damage(folders, contents)
    with pytest.raises(ValueError, match=f"{name} is not an image; get the data again"):
        omniglot_images(folders)


def test_an_image_of_another_size(folders):
    name = damage(folders, png(Image.new("1", (28, 30))))
    with pytest.raises(ValueError, match=f"{name} has 28 x 30 pixels, not 105 x 105"):
        omniglot_images(folders)


def test_a_missing_drawing(folders):
    (folders / "omniglot/images_background/Blin/character02/0898_07.png").unlink()
    with pytest.raises(ValueError, match="Blin/character02 has 19 drawings; every .* has 20"):
        omniglot_images(folders)


def test_splits_share_no_character():
    splits = omniglot_splits(np.arange(1623))
    assert {name: len(split) for name, split in splits.items()} == omniglot.SPLIT_SIZES
    assert sorted(np.concatenate(list(splits.values()))) == list(range(1623))


def test_splits_are_the_same_on_every_machine_and_release():
    # Changing these characters makes results incomparable with those of earlier releases.
    splits = omniglot_splits(np.arange(1623))
    assert splits["train"][:4].tolist() == [1229, 854, 493, 864]
    assert splits["test"][:4].tolist() == [0, 1595, 65, 1336]


def test_another_shuffle():
    a, b = (omniglot_splits(np.arange(1623), seed)["test"] for seed in (0, 1))
    assert set(a) != set(b)


def test_splits_need_enough_characters():
    with pytest.raises(ValueError, match="1100/100/423 need 1623 characters; there are 40"):
        omniglot_splits(np.arange(40))
    splits = omniglot_splits(np.arange(40), sizes={"train": 20, "val": 5, "test": 10})
    assert [len(split) for split in splits.values()] == [20, 5, 10]


def test_episodes_of_a_split(folders, monkeypatch):
    monkeypatch.setattr(omniglot, "SPLIT_SIZES", {"train": 1, "val": 1, "test": 2})
    expected = omniglot_splits(omniglot_images(folders))["test"]
    # Ink says which character it is, whatever the turn and the drawer: the last has none of it.
    known = {int(image.sum()) for image in expected.reshape(40, -1)}
    for seed in (0, 1):
        tasks = omniglot_episodes(folders, "test", ways=2, shots=3, queries=4, seed=seed)
        assert (tasks.num_classes, tasks.seed, tasks.split) == (2, seed, "test")
        assert tasks.rotations
        task = tasks(0, 5)
        assert task.support.x.shape == (5, 6, 28, 28, 1)
        assert task.query.x.shape == (5, 8, 28, 28, 1)
        served = np.rint(task.support.x.numpy().reshape(30, -1) * 255).sum(axis=1)
        assert {int(total) for total in served} <= known
    with pytest.raises(ValueError, match="3-way episodes need 3 classes; the 'test' split has 2"):
        omniglot_episodes(folders, "test", ways=3, shots=1)
    with pytest.raises(ValueError, match="split is 'dev'"):
        omniglot_episodes(folders, "dev", ways=2, shots=1)


@pytest.fixture
def built(tmp_path):
    """The library, and a small Omniglot that it has built in `tmp_path`, as if downloaded."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs maml-tf[tfds]")
    names = [f"{alphabet}_{number - 1}" for alphabet, number in reversed(CHARACTERS)]

    of_the_library = tfds.builder_cls("omniglot").VERSION
    with tfds.core.registered.skip_registration():  # The library has one of this name.

        class Omniglot(tfds.core.GeneratorBasedBuilder):
            VERSION = of_the_library

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(105, 105, 3), encoding_format="png"),
                    "alphabet": tfds.features.ClassLabel(names=["Ahom", "Blin", "Cham"]),
                    "alphabet_char_id": np.int64,
                    "label": tfds.features.ClassLabel(names=names),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {
                    "train": self._generate_examples(1, 2, 3),
                    "test": self._generate_examples(0),
                }

            def _generate_examples(self, *characters):
                for drawer in range(20):
                    for c in characters:
                        grey = np.asarray(drawing(c, drawer).convert("L"))
                        image = np.repeat(grey[..., None], 3, axis=-1)
                        alphabet, number = CHARACTERS[c]
                        label = len(CHARACTERS) - 1 - c
                        example = {"image": image, "label": label, "alphabet": alphabet}
                        yield f"{c} {drawer}", {**example, "alphabet_char_id": number - 1}

    place = tmp_path / "omniglot" / "cache" / "tfds"
    Omniglot(data_dir=place).download_and_prepare()
    return tfds


def test_what_tensorflow_datasets_has_downloaded(tmp_path, built, monkeypatch):
    def in_order(images):  # The library shuffles; each drawer uses more ink than the one before.
        ink = images.reshape(*images.shape[:2], -1).sum(axis=2, dtype=int)
        return np.take_along_axis(images, ink.argsort(axis=1)[..., None, None, None], axis=1)

    with pytest.raises(FileNotFoundError):
        omniglot_images(tmp_path)
    first = omniglot_images(tmp_path, download=True)
    check(in_order(first))
    monkeypatch.setattr(built, "as_numpy", refuse)  # Now from what was kept.
    np.testing.assert_array_equal(omniglot_images(tmp_path, download=True), first)


def test_a_download_that_fails(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs maml-tf[tfds]")

    def fail(*_, **__):
        raise tfds.download.DownloadError("Failed to get url\nhttps://x, HTTP code: 404")

    monkeypatch.setattr(tfds, "load", fail)
    told = "cannot give Omniglot .Failed to get url https://x, HTTP code: 404.; download images_b"
    with pytest.raises(ValueError, match=told):
        omniglot_images(tmp_path, download=True)


def test_downloads_nothing_that_is_there(zips, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    check(omniglot_images(zips, download=True))


def test_downloading_needs_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'maml-tf\[tfds\]'; or download images_back"):
        omniglot_images(tmp_path, download=True)


def find_real_data():
    shared = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
    for root in (os.environ.get("MAML_TF_DATA"), shared):
        if root and (pathlib.Path(root) / "omniglot" / "images_background.zip").exists():
            return pathlib.Path(root) / "omniglot"
    return None


REAL = find_real_data()


@pytest.mark.skipif(REAL is None, reason="no Omniglot zips in $MAML_TF_DATA or ../shared/data")
def test_the_real_data(tmp_path):
    # Links, so that the test decodes the data and leaves nothing beside it.
    (tmp_path / "omniglot").mkdir()
    for part in PARTS:
        (tmp_path / "omniglot" / f"{part}.zip").symlink_to(REAL / f"{part}.zip")
    images = omniglot_images(tmp_path)
    assert images.shape == (1623, 20, 28, 28, 1)
    assert images.dtype == np.uint8
    # No drawing is empty, none repeats another, and 8.4 % of the paper is ink.
    assert images.reshape(-1, 784).max(axis=1).min() > 100
    assert len({image.tobytes() for image in images.reshape(-1, 784)}) > 32_400
    assert images.mean() / 255 == pytest.approx(0.0840, abs=0.0003)
    tasks = omniglot_episodes(tmp_path, "test", ways=20, shots=1)
    assert tasks.num_classes == 423
    assert tasks(0, 2).query.x.shape == (2, 20, 28, 28, 1)
