import importlib
import io
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import generated_images
from maml_tf.tasks import miniimagenet_episodes, miniimagenet_images
from maml_tf.tasks.images import arrays as array_files
from maml_tf.tasks.images import miniimagenet

ROOT = Path(__file__).parents[2]
BUILDER = ROOT / "data" / "miniimagenet" / "mini_imagenet"
CLASSES, EXAMPLES = (3, 2, 2), 4
FIRST = {"train": 0, "val": 3, "test": 5}  # class numbers begin here


def expected(split):
    classes = CLASSES[list(FIRST).index(split)]
    numbers = range(FIRST[split], FIRST[split] + classes)
    return np.concatenate([generated_images.class_images(n, EXAMPLES) for n in numbers])


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for layout in generated_images.LAYOUTS:
        generated_images.write(root / layout / "miniimagenet", layout, CLASSES, EXAMPLES)
    return root


@pytest.fixture
def data(originals, tmp_path):
    """Copies one layout; returns its data_dir."""
    return lambda layout: shutil.copytree(originals / layout, tmp_path / layout)


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("MAML_TF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "maml_tf" / "miniimagenet"


def refuse(*_):
    raise AssertionError("decoded again")


@pytest.mark.parametrize("layout", generated_images.LAYOUTS)
@pytest.mark.parametrize("split", FIRST)
def test_every_layout_holds_the_same_images(layout, split, data):
    images, counts = miniimagenet_images(data(layout), split)
    assert images.dtype == np.uint8 and images.shape[1:] == (84, 84, 3)
    assert list(counts.values()) == [EXAMPLES] * len(counts)
    if layout in ("folders", "csv", "ilsvrc"):
        assert list(counts)[0] == generated_images.class_name(FIRST[split])
    if layout == "ilsvrc":  # JPEG: the images are recognisable, not equal.
        pairs = np.float32(images)[:, None] - expected(split)[None]
        distances = np.abs(pairs).mean(axis=(2, 3, 4))
        assert distances.argmin(axis=1).tolist() == list(range(len(images)))
    else:
        np.testing.assert_array_equal(images, expected(split))


def test_the_folder_itself_and_the_environment(data, tmp_path, monkeypatch):
    root = data("folders")
    assert len(miniimagenet_images(root / "miniimagenet").images) == 12
    monkeypatch.setenv("MAML_TF_DATA", str(root))
    assert len(miniimagenet_images().images) == 12


@pytest.mark.parametrize("layout", ["folders", "csv", "npz"])
def test_reads_once_and_maps_what_it_kept(layout, data, monkeypatch):
    root = data(layout)
    first = miniimagenet_images(root).images
    monkeypatch.setattr(miniimagenet, "_decode", refuse)
    monkeypatch.setattr(miniimagenet, "_load_images", refuse)
    second = miniimagenet_images(root).images
    for images in (first, second):
        assert isinstance(images, np.memmap)
        np.testing.assert_array_equal(images, expected("train"))
    assert len(list((root / "miniimagenet" / "cache").iterdir())) == 1


def test_an_array_file_is_its_own_cache(data):
    root = data("npy")
    assert isinstance(miniimagenet_images(root).images, np.memmap)
    assert not (root / "miniimagenet" / "cache").exists()


def test_no_cache(data, user_cache):
    root = data("folders")
    miniimagenet_images(root, cache=False)
    assert not (root / "miniimagenet" / "cache").exists() and not user_cache.exists()


def some_file(root):
    return sorted((root / "miniimagenet" / "train").rglob("*.png"))[5]


def test_a_changed_image_is_read_again(data):
    root = data("folders")
    miniimagenet_images(root)
    Image.new("RGB", (84, 84), (1, 2, 3)).save(some_file(root))
    assert (miniimagenet_images(root).images[5] == [1, 2, 3]).all()


def test_another_size_is_resampled_whole(data, caplog):
    root = data("folders")
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    Image.fromarray(noise).save(some_file(root))
    with caplog.at_level(logging.INFO):
        image = miniimagenet_images(root).images[5]
    assert "Resized 1 of 12 images to 84 x 84" in caplog.text
    wanted = Image.fromarray(noise).resize((84, 84), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(image, np.asarray(wanted))


@pytest.mark.parametrize("mode, ending", [("L", "png"), ("P", "png"), ("CMYK", "jpg")])
def test_another_mode_is_converted(mode, ending, data):
    root = data("folders")
    file = some_file(root)
    file.unlink()
    Image.new("RGB", (84, 84), (102, 102, 102)).convert(mode).save(file.with_suffix(f".{ending}"))
    image = miniimagenet_images(root).images[5]
    np.testing.assert_allclose(image.astype(int), 102, atol=2)


def test_episodes(data):
    root = data("npz")
    tasks = miniimagenet_episodes(root, "test", ways=2, shots=1, queries=3, seed=1)
    task = tasks(0, 5)
    assert task.support.x.shape == (5, 2, 84, 84, 3) and task.query.x.shape == (5, 6, 84, 84, 3)
    served = np.rint(task.query.x.numpy().reshape(-1, 84 * 84 * 3) * 255)
    known = {image.tobytes() for image in expected("test")}
    assert {image.astype(np.uint8).tobytes() for image in served} <= known  # Nothing is turned.


def test_fifteen_queries_unless_told(tmp_path):
    generated_images.write(tmp_path, "npy", (2, 1, 1), 16)
    task = miniimagenet_episodes(tmp_path, ways=2, shots=1)(0, 1)
    assert task.query.x.shape == (1, 30, 84, 84, 3)


def test_classes_of_different_size_keep_all_their_images(data, caplog):
    root = data("folders")
    some_file(root).unlink()
    images, counts = miniimagenet_images(root)
    assert list(counts.values()) == [4, 3, 4]
    np.testing.assert_array_equal(images, np.delete(expected("train"), 5, axis=0))
    miniimagenet_episodes(root, ways=3, shots=1, queries=2)(0, 1)
    assert "Classes of the 'train' split have 3 (n00000002) to 4 images." in caplog.text


# --- bad input: one line, the fault and the remedy, before anything is decoded ---


def error_of(root, split="train", **options):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        miniimagenet_episodes(root, split, **{"ways": 2, "shots": 1, "queries": 3, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_there(tmp_path):
    message = error_of(tmp_path)
    assert "miniimagenet has no train.npy, train.npz, train/ or train.csv" in message
    assert "data/miniimagenet/README.md" in message


@pytest.mark.parametrize(
    "layout, name", [("folders", "val"), ("csv", "val.csv"), ("npz", "val.npz")]
)
def test_a_missing_split(layout, name, data):
    root = data(layout)
    path = root / "miniimagenet" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert f"but no {name}; data/miniimagenet/README.md says" in error_of(root)


def test_an_empty_folder(data):
    root = data("folders")
    for folder in (root / "miniimagenet" / "val").iterdir():
        shutil.rmtree(folder)
    assert "val holds no images; data/miniimagenet" in error_of(root, "val")


def test_too_few_images_or_classes(data, monkeypatch):
    monkeypatch.setattr(miniimagenet, "_decode", refuse)
    root = data("folders")
    assert "3-way episodes need 3 classes; the 'val' split has 2" in error_of(root, "val", ways=3)
    some_file(root).unlink()
    message = error_of(root, queries=3)
    assert "need 4 examples a class; class n00000002 of the 'train' split has 3" in message


@pytest.mark.parametrize("name", ["notes.txt", "n00000002/notes.txt", "n00000002/deep/1.png"])
def test_a_stray_file(name, data):
    root = data("folders")
    path = root / "miniimagenet" / "train" / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    message = f"train: {name} is not an image <class>/*.jpg or *.jpeg or *.png; remove it"
    assert message in error_of(root)


@pytest.mark.parametrize("contents", [b"", b"text", None])
def test_a_file_that_is_no_image(contents, data):
    root = data("folders")
    file = some_file(root)
    file.write_bytes(file.read_bytes()[:2000] if contents is None else contents)
    assert f"{file} is not an image; get the data again" in error_of(root)
    assert not (root / "miniimagenet" / "cache").exists()


def test_an_image_of_16_bits(data):
    root = data("folders")
    Image.fromarray(np.full((84, 84), 30_000, np.uint16)).save(some_file(root))
    assert "has pixels of more than 8 bits; save it as 8-bit RGB" in error_of(root)


@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_a_class_in_two_splits(layout, data):
    root = data(layout)
    name = generated_images.class_name(0)
    if layout == "folders":
        shutil.copytree(*(root / "miniimagenet" / split / name for split in ("train", "test")))
    else:
        with open(root / "miniimagenet" / "test.csv", "a") as file:
            file.write(f"{name}00000001.png,{name}\n")
    message = f"class {name} is in the 'train' and the 'test' split; remove it from one"
    assert message in error_of(root, "val")


def test_split_files_of_absent_images(data):
    root = data("csv")
    images = sorted((root / "miniimagenet" / "images").iterdir())
    images[1].unlink(), images[2].unlink()
    message = error_of(root)
    assert "train.csv names 2 of 12 images that" in message
    assert f"first {images[1].name}; put them there as <filename> or <label>" in message
    shutil.rmtree(root / "miniimagenet" / "images")
    message = error_of(root)
    assert "images nor" in message and "ILSVRC2012_img_train; data/miniimagenet" in message


def test_an_incomplete_class_of_the_original_images(data):
    root = data("ilsvrc")
    folder = root / "miniimagenet" / "ILSVRC2012_img_train" / "n00000002"
    (folder / "n00000002_28.JPEG").unlink()
    assert "names 1 of 12 images" in error_of(root)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "train.csv does not begin with the line filename,label; add it"),
        ("n1.png,n1\n", "train.csv does not begin with the line filename,label; add it"),
        ("filename,label\n", "train.csv names no images; get it again"),
        ("filename,label\nn1.png\n", "train.csv, line 2 has no filename and label; remove it"),
        ("filename,label\na,n1\na,n1\n", "train.csv names a twice; remove a line"),
        ("filename,label\n\udcff,n1\n", "train.csv, line 2 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_bad_split_file(text, message, data):
    root = data("csv")
    path = root / "miniimagenet" / "train.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert message in error_of(root, "val")


# --- what file managers, spreadsheets and other systems leave ---


def test_links_junk_and_copies(data, tmp_path, caplog):
    root = data("folders")
    for split in FIRST:
        folder = root / "miniimagenet" / split
        for junk in ("@eaDir", "__MACOSX", ".cache"):
            (folder / junk).mkdir()
            (folder / junk / "x.png").touch()
        (folder / "Thumbs.db").touch()
    first = root / "miniimagenet" / "train" / generated_images.class_name(0)
    first.rename(tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere")
    shutil.copytree(first, f"{first} - Copy")
    np.testing.assert_array_equal(miniimagenet_images(root).images, expected("train"))
    assert f"Ignored {first} - Copy: the original is beside it." in caplog.text


def test_a_link_to_a_class_of_another_split(data):
    root = data("folders")
    name = generated_images.class_name(0)
    (root / "miniimagenet" / "test" / "other").symlink_to(root / "miniimagenet" / "train" / name)
    message = error_of(root, "val")
    assert f"{name} is in the 'train' and the 'test' split" in message


def rewrite(root, change, encoding="utf-8"):
    """Writes the split file of the training anew, from its rows (filename, label)."""
    path = root / "miniimagenet" / "train.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_bytes("\n".join(change(rows)).encode(encoding))


SPELLINGS = {
    "mark": (lambda rows: [",".join(r) for r in rows], "utf-8-sig"),
    "UTF-16": (lambda rows: [",".join(r) for r in rows], "utf-16"),
    "Windows": (lambda rows: [",".join(r) + "\r" for r in rows], "utf-8"),
    "quotes": (lambda rows: ['"' + '","'.join(r) + '"' for r in rows], "utf-8-sig"),
    "semicolons": (lambda rows: [";".join(r) for r in rows], "utf-8"),
    "sep": (lambda rows: ["sep=;", *('"' + '";"'.join(r) + '"' for r in rows)], "utf-16"),
    "tabs": (lambda rows: ["\t".join(r) for r in rows], "utf-8"),
    "spaces": (lambda rows: [" " + " , ".join(r) + " " for r in rows], "utf-8"),
    "quotes and spaces": (lambda rows: ['"' + '", "'.join(r) + '"' for r in rows], "utf-8"),
    "order": (lambda rows: [",".join(("1", *r[::-1])) for r in rows], "utf-8"),
    "capitals": (lambda rows: ["Filename,LABEL", *(",".join(r) for r in rows[1:])], "utf-8"),
    "blank lines": (lambda rows: [",".join(r) + "\n" for r in rows], "utf-8"),
}
PLACES = {
    "images/": "images/{}",
    "backslashes": "images\\{}",
    "dot": "./images/{}",
    "absolute": "/home/somebody/mini-imagenet/images/{}",
    "Windows": "C:\\data\\images\\{}",
    "share": "\\\\server\\data\\{}",
    "address": "file:///data/{}",
}


@pytest.mark.parametrize("change, encoding", SPELLINGS.values(), ids=SPELLINGS)
def test_a_split_file_in_other_spellings(change, encoding, data):
    root = data("csv")
    rewrite(root, change, encoding)
    np.testing.assert_array_equal(miniimagenet_images(root).images, expected("train"))


@pytest.mark.parametrize("pattern", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("delimiter", ",;")
def test_a_split_file_with_folders(pattern, delimiter, data):
    root = data("csv")
    named = lambda rows: [(pattern.format(name), label) for name, label in rows]  # noqa: E731
    rewrite(root, lambda r: [delimiter.join(row) for row in [r[0], *named(r[1:])]])
    np.testing.assert_array_equal(miniimagenet_images(root).images, expected("train"))


@pytest.mark.parametrize(
    "name, label",
    [
        ("../secret.png", "n00000001"),
        ("images/../../secret.png", "n00000001"),
        ("..\\secret.png", "n00000001"),
        ("secret.png", ".."),
        ("secret.png", "../x"),
        ("/", "n00000001"),
        ("a.png", "."),
    ],
)
def test_a_split_file_that_leaves_its_folder(name, label, data):
    root = data("csv")
    rewrite(root, lambda rows: [*(",".join(r) for r in rows), f"{name},{label}"])
    assert "train.csv, line 14 names no file in the folder of the images; correct" in error_of(root)


def test_one_image_under_two_names(data):
    root = data("csv")
    rewrite(root, lambda rows: [*(",".join(r) for r in rows), f"images/{rows[1][0]},{rows[1][1]}"])
    assert "train.csv names " in (message := error_of(root)) and "twice; remove a line" in message


def test_copies_do_not_shift_the_positions_of_the_original_images(data):
    root = data("ilsvrc")
    images = miniimagenet_images(root, cache=False).images
    for folder in (root / "miniimagenet" / "ILSVRC2012_img_train").iterdir():
        first = min(folder.iterdir())
        shutil.copy(first, folder / f"Copy of {first.name}")
        shutil.copy(first, folder / f"._{first.name}")
    np.testing.assert_array_equal(miniimagenet_images(root, cache=False).images, images)


@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_an_image_that_is_a_fifo_or_too_large(layout, data):
    root = data(layout)
    file = some_file(root) if layout == "folders" else min((root / "miniimagenet/images").iterdir())
    file.unlink()
    os.mkfifo(file)
    message = error_of(root)
    assert file.name in message and ("no regular file" in message or "does not have" in message)
    file.unlink()
    Image.new("1", (8000, 7000)).save(file)
    assert f"{file} has more than 50 million pixels; make it smaller" in error_of(root)


PIXELS = np.zeros((2, 4, 84, 84, 3), np.uint8)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": PIXELS}, "train.npz holds no array 'images', but x; make it again"),
        ({"images": PIXELS[:, :, :32]}, "an image is uint8 [32, 84, 3]; resize and convert"),
        ({"images": PIXELS / 255}, "an image is float64 [84, 84, 3]; resize and convert"),
        ({"images": PIXELS[0]}, "an image is uint8 [84, 3]; resize and convert"),
        ({"images": PIXELS[0], "labels": np.zeros(3)}, "labels [3] for images [4, 84, 84, 3]"),
        (
            {"images": PIXELS[0], "labels": np.array([None] * 4)},
            "cannot be read (Object arrays cannot be loaded when allow_pickle=False); make it",
        ),
        ({"images": np.array([[None]])}, "an image is object []; resize and convert"),
    ],
    ids=["name", "size", "type", "no classes", "labels", "pickled labels", "pickle"],
)
def test_a_bad_archive(arrays, message, data):
    root = data("npz")
    np.savez(root / "miniimagenet" / "train.npz", **arrays)
    assert message in error_of(root)


def header_of(shape, dtype="|u1"):
    file = io.BytesIO()
    described = {"shape": shape, "fortran_order": False, "descr": dtype}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


HEADERS = {
    "huge": header_of((10**6, 10**6, 84, 84, 3)),
    "beyond 64 bits": header_of((10**20, 10**20, 84, 84, 3)),
    "negative": header_of((-1, 4, 84, 84, 3)),
    "no array": b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
    "deep": b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"[" * 9000,
    "long": b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b" " * 100,
    "of the future": b"\x93NUMPY\x09\x00" + b" " * 100,
    "too short": b"\x93NUMP",
}


@pytest.mark.parametrize("contents", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("name", ["train.npy", "images.npy", "labels.npy"])
def test_a_header_that_lies(name, contents, data):
    root = data("npz" if name != "train.npy" else "npy")
    contents += bytes(84 * 84 * 3)
    if name == "train.npy":
        (root / "miniimagenet" / name).write_bytes(contents)
    else:
        with zipfile.ZipFile(root / "miniimagenet" / "train.npz", "w") as archive:
            if name == "labels.npy":
                file = io.BytesIO()
                np.save(file, PIXELS[0])
                archive.writestr("images.npy", file.getvalue())
            archive.writestr(name, contents)
    message = error_of(root)
    assert "train.np" in message and "make it again" in message and len(message) < 600


def test_an_array_that_is_an_archive(data):
    root = data("npy")
    np.savez(root / "train.npz", images=PIXELS)
    (root / "train.npz").rename(root / "miniimagenet" / "train.npy")
    assert "train.npy is not a whole array" in error_of(root)


@pytest.mark.parametrize("member", ["images", "labels"])
@pytest.mark.parametrize(
    "field, value, told",
    [
        ((10, 8, 2), 97, "is compressed by method 97, which Python cannot read"),
        ((8, 6, 2), 1, "is encrypted; make the zip without a password"),
        ((24, 22, 4), 2**32 - 2, "unpacks to more than an array of "),
        ((24, 22, 4), 100, "make it again"),
    ],
    ids=["method", "encrypted", "bomb", "small"],
)
def test_an_archive_that_cannot_be_unpacked(member, field, value, told, data, monkeypatch):
    monkeypatch.setattr(array_files, "LARGEST", 2**30)
    root = data("npz")
    path = root / "miniimagenet" / "train.npz"
    arrays = {"images": PIXELS[0], "labels": np.arange(4)}
    order = [member, *(name for name in arrays if name != member)]
    np.savez_compressed(path, **{name: arrays[name] for name in order})
    contents = bytearray(path.read_bytes())
    central, local, length = field
    for at in (contents.index(b"PK\x01\x02") + central, local):
        contents[at : at + length] = value.to_bytes(length, "little")
    path.write_bytes(contents)
    message = error_of(root)
    assert str(path) in message and told in message


@pytest.mark.parametrize("layout", ["npz", "npy"])
@pytest.mark.parametrize("contents", [b"", b"text", None])
def test_a_damaged_array(layout, contents, data):
    root = data(layout)
    path = root / "miniimagenet" / f"train.{layout}"
    path.write_bytes(path.read_bytes()[:5000] if contents is None else contents)
    assert f"train.{layout}" in (message := error_of(root)) and "make it again" in message


def test_an_archive_with_a_flipped_bit(data):
    root = data("npz")
    path = root / "miniimagenet" / "train.npz"
    contents = bytearray(path.read_bytes())
    contents[50_000] ^= 1
    path.write_bytes(contents)
    assert "train.npz is damaged (Bad CRC-32" in (message := error_of(root))
    assert "make it again" in message


def test_an_unknown_split(data):
    assert "split is 'dev'" in error_of(data("npy"), "dev")


# --- TensorFlow Datasets ---


def test_without_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    message = error_of(tmp_path, download=True)
    assert "pip install 'maml-tf[tfds]'; or data/miniimagenet/README.md says" in message


def test_the_builder_passes_the_librarys_own_test():
    pytest.importorskip("tensorflow_datasets", reason="needs maml-tf[tfds]")
    pytest.importorskip("dill", reason="TensorFlow Datasets' own tests need dill")
    # In a process of its own: the library's test changes `np.load` and does not change it back.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(BUILDER)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:]


def test_what_tensorflow_datasets_has_built(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs maml-tf[tfds]")
    assert "build it, or data/miniimagenet/README.md" in error_of(tmp_path, download=True)
    monkeypatch.syspath_prepend(BUILDER.parent)
    module = importlib.import_module("mini_imagenet.mini_imagenet_dataset_builder")
    labels = [generated_images.class_name(n) for n in range(sum(CLASSES))]
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    monkeypatch.setattr(module, "_LABELS", tmp_path / "labels.txt")
    generated_images.write(tmp_path / "manual", "csv", CLASSES, EXAMPLES)
    builder = module.Builder(data_dir=tmp_path / "miniimagenet" / "tfds")
    manual = tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
    builder.download_and_prepare(download_config=manual)
    for _ in range(2):  # Built, then kept.
        images, counts = miniimagenet_images(tmp_path, "val", download=True)
        assert list(counts) == labels[3:5]
        np.testing.assert_array_equal(images, expected("val"))
