import logging
import os
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from maml_tf.tasks import image_cache

ARRAY = np.arange(60_000, dtype=np.uint8).reshape(60, 1000)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name in ("b/2.png", "a/1.png", "a/.DS_Store", "__MACOSX/a/._1.png", ".git/x", "Thumbs.db"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


@pytest.fixture
def archive(tree):
    path = tree.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in tree.rglob("*"):
            archive.write(file, file.relative_to(tree))
    return path


def kept(folder):
    return image_cache.cached_array("x", [folder], pytest.fail)


@pytest.mark.parametrize("source", ["tree", "archive"])
def test_reads_files_in_order_without_junk(source, request):
    files = image_cache.list_files(request.getfixturevalue(source))
    assert list(files.read()) == [("a/1.png", b"a/1.png"), ("b/2.png", b"b/2.png")]


def test_fingerprint_changes_with_contents_names_and_version(tree, archive):
    def fingerprint(path, version=1):
        return image_cache.fingerprint([image_cache.list_files(path)], version)

    found = [fingerprint(tree), fingerprint(archive), fingerprint(tree, 2)]
    assert fingerprint(tree) == found[0]
    (tree / "a/1.png").write_bytes(b"A/1.png")
    os.utime(tree / "a/1.png", (1, 1))
    found.append(fingerprint(tree))
    (tree / "a/1.png").rename(tree / "a/3.png")
    found.append(fingerprint(tree))
    with zipfile.ZipFile(archive, "w") as changed:
        changed.writestr("a/1.png", b"A/1.png")
        changed.writestr("b/2.png", b"b/2.png")
    found.append(fingerprint(archive))
    assert len(set(found)) == 6


def test_a_zip_copied_elsewhere_is_the_same_source(archive, tmp_path):
    copy = tmp_path / "copy.zip"
    copy.write_bytes(archive.read_bytes())
    a, b = ([image_cache.list_files(path)] for path in (archive, copy))
    assert image_cache.fingerprint(a, 1) == image_cache.fingerprint(b, 1)


def test_builds_once(tmp_path):
    built = image_cache.cached_array("x", [tmp_path / "new"], lambda: ARRAY)
    for array in (built, kept(tmp_path / "new")):
        assert isinstance(array, np.memmap) and array.mode == "c"
        np.testing.assert_array_equal(array, ARRAY)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.npy"]


def overwrite(old, new):
    def damage(contents):
        assert contents.count(old) == 1
        return contents.replace(old, new)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda contents: b"",
        lambda contents: b"not a zip",
        lambda contents: contents[:30_000],
        lambda contents: contents[:30_000] + bytes([contents[30_000] ^ 1]) + contents[30_001:],
        overwrite(b"(60, 1000)", b"(50, 1000)"),
        overwrite(b"|u1", b"|i1"),
    ],
    ids=["empty", "text", "truncated", "flipped bit", "smaller shape", "other type"],
)
def test_a_damaged_file_is_built_again(damage, tmp_path, caplog):
    image_cache.cached_array("x", [tmp_path], lambda: ARRAY)
    file = tmp_path / "x.npy"
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        built = image_cache.cached_array("x", [tmp_path], lambda: ARRAY)
    np.testing.assert_array_equal(built, ARRAY)
    assert "x.npy cannot be read" in caplog.text
    np.testing.assert_array_equal(kept(tmp_path), ARRAY)


class Bomb:
    def __reduce__(self):
        return os.abort, ()


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([Bomb()], dtype=object))
    path.write_bytes(path.read_bytes() + zlib.crc32(path.read_bytes()).to_bytes(4, "little"))
    with pytest.raises(ValueError, match="Python objects"):
        image_cache._load(tmp_path / "x.npy")
    np.testing.assert_array_equal(image_cache.cached_array("x", [tmp_path], lambda: ARRAY), ARRAY)


def test_any_program_reads_it(tmp_path):
    image_cache.cached_array("x", [tmp_path], lambda: ARRAY.T)  # Rows are not neighbours.
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), ARRAY.T)


def test_writing_to_the_map_leaves_the_file_alone(tmp_path):
    image_cache.cached_array("x", [tmp_path], lambda: ARRAY)[:] = 7
    np.testing.assert_array_equal(kept(tmp_path), ARRAY)


def test_a_read_only_folder_is_left_alone(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    image_cache.cached_array("x", [closed / "cache", tmp_path / "open"], lambda: ARRAY)
    assert not any(closed.iterdir())
    np.testing.assert_array_equal(kept(tmp_path / "open"), ARRAY)


def test_nowhere_to_write_is_no_error(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert image_cache.cached_array("x", [tmp_path / "file"], lambda: ARRAY) is ARRAY
    assert "No folder to keep" in caplog.text


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        assert len(list(tmp_path.iterdir())) == 1  # Half a file, under another name.
        raise OSError("No space left on device")

    monkeypatch.setattr(zlib, "crc32", full)
    image_cache.cached_array("x", [tmp_path], lambda: ARRAY)
    assert not any(tmp_path.iterdir())


# Loads the module by its path, because importing the package would import TensorFlow.
WRITER = """
import importlib.util, pathlib, sys
import numpy as np
spec = importlib.util.spec_from_file_location("image_cache", sys.argv[1])
image_cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(image_cache)
folder, value = pathlib.Path(sys.argv[2]), int(sys.argv[3])
def build():
    raise SystemExit("read a half-written file")
for _ in range(150):
    image_cache._store(folder / "x.npy", np.full(200_000, value))
    array = image_cache.cached_array("x", [folder], build)
    assert array.shape == (200_000,) and array[0] in (1, 2) and (array == array[0]).all()
"""


def test_two_processes_at_once(tmp_path):
    command = [sys.executable, "-c", WRITER, image_cache.__file__, str(tmp_path)]
    writers = [subprocess.Popen([*command, value], stderr=subprocess.PIPE) for value in "12"]
    errors = [writer.communicate(timeout=60)[1].decode() for writer in writers]
    assert errors == ["", ""]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]


def test_a_truncated_zip(archive):
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ValueError, match="tree.zip is not a whole zip file; get it again"):
        image_cache.list_files(archive)


def test_a_damaged_file_in_a_zip(archive):
    contents = archive.read_bytes()
    at = contents.index(b"b/2.png", contents.index(b"b/2.png") + 1)  # The name, then the contents.
    archive.write_bytes(contents[:at] + b"B" + contents[at + 1 :])
    with pytest.raises(ValueError, match="tree.zip is damaged at b/2.png; get it again"):
        list(image_cache.list_files(archive).read())
