"""Folders of images as people have them."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from maml_tf.tasks import Episodes, folder_images
from maml_tf.tasks.images import folders

ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user"


def picture(color, size=(8, 6), mode="RGB"):
    """Width and height 8 x 6."""
    return Image.new(mode, size, color)


def fill(root, names, count=3, size=(8, 6)):
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for example in range(count):
            picture((10 * number, example, 0), size).save(root / name / f"{example}.png")
    return root


def test_images_come_class_after_class_in_order_of_names(tmp_path):
    root = fill(tmp_path / "data", ["b", "a", "Ω"])
    (root / "a" / "deeper").mkdir()
    picture((10, 200, 0)).save(root / "a" / "deeper" / "9.png")
    images, counts = folder_images(root, classes=["Ω", "a", "b"])
    assert images.shape == (10, 6, 8, 3) and images.dtype == np.uint8
    assert counts == {"a": 4, "b": 3, "Ω": 3}
    np.testing.assert_array_equal(images[:, 0, 0, 0], [10] * 4 + [0] * 3 + [20] * 3)
    np.testing.assert_array_equal(images[:4, 0, 0, 1], [0, 1, 2, 200])


def test_every_kind_of_image_becomes_what_a_person_sees(tmp_path):
    root = tmp_path / "odd" / "one"
    root.mkdir(parents=True)
    turned = picture("red")
    turned.paste((0, 0, 255), (0, 0, 8, 3))  # blue above red
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored lying on its side: shown, blue is on the right
    turned.save(root / "exif.png", exif=exif)
    picture(77, mode="L").save(root / "grey.png")
    picture((0, 0, 0, 0), mode="RGBA").save(root / "clear.png")
    palette = picture((0, 200, 0)).quantize(4)
    palette.save(root / "palette.gif")
    picture(1, mode="1").save(root / "bit.bmp")
    picture((9, 9, 9)).save(root / "photo.JPEG")
    for junk in (".DS_Store", "Thumbs.db"):
        (root / junk).write_bytes(b"x")
    images, _ = folder_images(tmp_path / "odd", classes=["one"], image_size=(8, 8))
    seen = dict(zip(("bit", "clear", "exif", "grey", "palette", "photo"), images, strict=True))
    assert (seen["bit"] == 255).all() and (seen["clear"] == 255).all()
    assert (seen["grey"] == 77).all() and (abs(seen["photo"].astype(int) - 9) <= 2).all()
    assert (seen["palette"][..., 1] > 190).all()
    np.testing.assert_array_equal(seen["exif"][4, 0], [255, 0, 0])
    np.testing.assert_array_equal(seen["exif"][4, -1], [0, 0, 255])
    grey, _ = folder_images(tmp_path / "odd", classes=["one"], image_size=4, color="grey")
    assert grey.shape == (6, 4, 4, 1) and (grey[3] == 77).all()


def test_without_a_size_upright_images_must_agree(tmp_path):
    root = fill(tmp_path / "data", ["a", "b"])
    lying = Image.Exif()
    lying[ORIENTATION] = 6
    picture("red", (6, 8)).save(root / "a" / "lying.png", exif=lying)
    assert folder_images(root, classes=["a", "b"]).images.shape == (7, 6, 8, 3)
    picture("red", (9, 6)).save(root / "b" / "wide.png")
    with pytest.raises(ValueError, match=r"wide.png has 6 x 9 pixels, .*0.png has 6 x 8; give im"):
        folder_images(root, classes=["a", "b"])


def test_all_damaged_files_are_named_at_once(tmp_path):
    root = fill(tmp_path / "data", ["a", "b"])
    (root / "a" / "1.png").write_bytes(b"no image")
    (root / "b" / "2.png").write_bytes((root / "b" / "1.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a/1.png is not an image.* 1 more .*: .*b/2.png\."):
        folder_images(root, classes=["a", "b"], image_size=8)


def test_what_is_no_image_is_left_out_with_a_warning(tmp_path, caplog):
    root = fill(tmp_path / "data", ["a", "b"])
    (root / "a" / "notes.txt").write_text("x")
    assert folder_images(root, classes=["a"]).counts == {"a": 3}
    assert "left out 1 files that are no images by their ending, first notes.txt" in caplog.text


def test_folders_of_splits(tmp_path):
    root = tmp_path / "data"
    for split, names in {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}.items():
        fill(root / split, names)
    found = {split: list(folder_images(root, split).counts) for split in ("train", "val", "test")}
    assert found == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    fill(root / "test", ["a"])
    with pytest.raises(ValueError, match="class a is in the 'train' and the 'test' split"):
        folder_images(root, "val")


def test_a_missing_split_is_named(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / "data" / split, [split + "ed"])
    with pytest.raises(FileNotFoundError, match="has train/, test/ but no val/; make it"):
        folder_images(tmp_path / "data", "val")


def test_lists_of_splits(tmp_path):
    root = fill(tmp_path / "data", ["a", "b", "c", unicodedata.normalize("NFD", "é")])
    (root / "train.txt").write_text("# mine\na\n\nb/\n", "utf-8")
    (root / "val.txt").write_text("\ufeffé\r\n", "utf-8")
    assert list(folder_images(root).counts) == ["a", "b"]
    assert folder_images(root, "val").counts.popitem()[1] == 3
    with pytest.raises(FileNotFoundError, match="has train.txt, val.txt but no test.txt"):
        folder_images(root, "test")
    (root / "test.txt").write_text("z\n")
    with pytest.raises(FileNotFoundError, match="has no folder z; it has 'a, b, c, "):
        folder_images(root, "test")
    (root / "test.txt").write_text("a\n")
    with pytest.raises(ValueError, match="class a is in the 'train' and the 'test' split"):
        folder_images(root, "test")


def test_without_lists_the_classes_are_dealt_once_and_for_all(tmp_path):
    names = [f"class {n:02d}" for n in range(25)]
    root = fill(tmp_path / "data", names, count=2)
    dealt = {s: list(folder_images(root, s).counts) for s in ("train", "val", "test")}
    assert [len(own) for own in dealt.values()] == [16, 4, 5]
    assert sorted(sum(dealt.values(), [])) == names
    assert dealt["test"] == list(folder_images(root, "test").counts)
    two = fill(tmp_path / "two", ["a", "b"])
    with pytest.raises(ValueError, match="has 2 classes, too few for classes of training"):
        folder_images(two)


def test_decoded_images_are_kept_until_one_changes(tmp_path, user_cache, monkeypatch):
    root = fill(tmp_path / "data", ["a"])
    first = np.array(folder_images(root, classes=["a"]).images)
    assert len(list((user_cache / "maml_tf" / "images").glob("*.npy"))) == 1
    assert not list(root.glob("cache*"))
    monkeypatch.setattr(folders.decoding, "decode", lambda *_: 1 / 0)
    np.testing.assert_array_equal(folder_images(root, classes=["a"]).images, first)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache))
    picture("white").save(root / "a" / "0.png")
    assert (folder_images(root, classes=["a"]).images[0] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "a"}, "classes must be a list of names of folders, not 'a'"),
        ({"classes": []}, "holds no folders of classes; put the images of each class into"),
        ({"classes": ["empty"]}, r"folder empty holds no images \(\*.png .*\); put some there"),
        ({"color": "green"}, "color must be rgb or grey, not 'green'"),
        ({"image_size": 0}, "image_size must be 1 or more, not 0"),
        ({"image_size": (1, 2, 3)}, "image_size must be a number or"),
        ({"split": "dev"}, "split is 'dev'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, tmp_path):
    root = fill(tmp_path / "data", ["a"])
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match=message) as info:
        folder_images(root, **arguments)
    assert "\n" not in str(info.value)


def test_a_directory_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; name one"):
        folder_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no folders of classes"):
        folder_images(tmp_path)


def test_episodes_of_a_directory(tmp_path):
    root = fill(tmp_path / "data", list("abcdefghij"), count=4)
    source = Episodes.from_directory(root, 3, (1, 2), 2, image_size=5, seed=3)
    task = source(0, 2)
    assert task.support.x.shape == (2, 6, 5, 5, 3) and task.query.x.shape == (2, 6, 5, 5, 3)
    assert task.support.x.numpy().max() <= 1 and source.num_classes == 6
    assert source.class_names == list(folder_images(root, image_size=5).counts)
    assert Episodes.from_directory(root, 3, 1, image_size=5, color="gray").num_classes == 6
    with pytest.raises(ValueError, match="3-way episodes need 3 classes; the 'val' split has 2"):
        Episodes.from_directory(root, 3, 1, split="val", image_size=5)
    with pytest.raises(ValueError, match="class [a-j] of the 'train' split has 4"):
        Episodes.from_directory(root, 3, 3, image_size=5)


def test_nothing_is_kept_that_shall_not_be(tmp_path):
    root = fill(tmp_path / "data", list("abcdefghij"))
    Episodes.from_directory(root, 3, 1, 1, image_size=5, cache=False)
    assert not (tmp_path / "user").exists()
    with pytest.raises(ValueError, match="cache must be True or False, not 'no'"):
        Episodes.from_directory(root, 3, 1, 1, image_size=5, cache="no")
