import logging
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest

from maml_tf.tasks.images import cache as image_cache

ARRAY = np.arange(60_000, dtype=np.uint8).reshape(60, 1000)


def kept(folder):
    return image_cache.cached_array("x", [folder], pytest.fail)


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
    errors = [writer.communicate(timeout=180)[1].decode() for writer in writers]
    assert not any("Traceback" in error for error in errors)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]
