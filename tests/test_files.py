"""Files on disk: whole or not at all, checked, and never those of another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maml_tf.system import checksums
from maml_tf.system.files import (
    lock_directory,
    refuse_pattern,
    replacing_directory,
    replacing_file,
    staging,
    sweep,
    user_path,
    write_atomically,
)
from maml_tf.system.locks import LOCK_FILE, run_lock

HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY if os.path.isdir(sys.argv[1]) else os.O_RDWR)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held_by_another():
    """Locks a path in another process, until the test ends or `kill` is called."""
    processes = []

    def hold(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.wait()


# --- paths ---


def test_home_directories_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/logs") == tmp_path / "logs"
    assert user_path(Path("~")) == tmp_path
    assert user_path("a/~b/c d") == Path("a/~b/c d")


@pytest.mark.parametrize(
    "path, told",
    [
        ("gs://bucket/logs", "not a local directory"),
        ("~nobody_of_that_name/logs", "no home directory ~nobody_of_that_name"),
        ("logs\n--seed=1", "cannot be printed"),
        ("logs\0", "cannot be printed"),
        ("logs\udcff", "cannot be printed"),
        (b"logs", "must be a path"),
        (5, "must be a path"),
        ("", "is empty"),
        (["logs"], "must be a path"),
    ],
)
def test_paths_that_are_none(path, told):
    with pytest.raises(ValueError, match=told) as raised:
        user_path(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", ["a[1]", "a*", "what?/b", "a\\b"])
def test_patterns_are_refused(path):
    with pytest.raises(ValueError, match="takes for a pattern"):
        refuse_pattern(path)
    refuse_pattern("a b/{c}-(d),e~")


# --- whole or not at all ---


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "file.txt"
    write_atomically(file, "± one")
    with pytest.raises(ZeroDivisionError), replacing_file(file) as place:
        place.write_text("half")
        1 / 0  # noqa: B018
    assert file.read_text(encoding="utf-8") == "± one"
    assert os.listdir(file.parent) == ["file.txt"]
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    before = os.umask(0)
    os.umask(before)
    return before


@pytest.mark.parametrize("name", ["file", "file/below", "directory"])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    if name == "file":
        write_atomically(tmp_path / name, "fine")
        return
    with pytest.raises(OSError, match="Cannot write to .*; choose another") as raised:
        write_atomically(tmp_path / name, "text")
    assert "\n" not in str(raised.value)
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]


def test_a_directory_appears_whole_with_checksums(tmp_path):
    place = tmp_path / "it"
    with replacing_directory(place, "a", "key") as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "a").write_text("1")
        (directory / "key").write_text("2")
        assert not place.exists()
    assert checksums.verify(place / "SHA256SUMS", ["key", "sub/a"]) == 2
    assert os.listdir(tmp_path) == ["it"]


def test_a_directory_that_is_there_keeps_what_is_not_ours(tmp_path):
    place = tmp_path / "it"
    for content in ("old", "new"):
        with replacing_directory(place, "a", "key") as directory:
            (directory / "key").write_text(content)
            (directory / content).write_text(content)
        (place / "mine").write_text("mine")
    assert sorted(os.listdir(place)) == ["SHA256SUMS", "key", "mine", "new", "old"]
    assert (place / "key").read_text() == "new"
    with pytest.raises(ZeroDivisionError), replacing_directory(place, "a", "key") as directory:
        (directory / "key").write_text("half")
        1 / 0  # noqa: B018
    assert (place / "key").read_text() == "new" and len(os.listdir(place)) == 5


def test_what_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    place, real = tmp_path / "it", os.replace

    def write(content):
        with replacing_directory(place, "a", "key") as directory:
            (directory / "sub").mkdir()
            for name in ("a", "sub/b", "key"):
                (directory / name).write_text(content)

    write("old")
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    for fatal in range(9):
        count = iter(range(100))

        def refusing(*arguments, count=count, fatal=fatal):
            if next(count) == fatal:
                raise PermissionError(13, "Permission denied")
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refusing)
            try:
                write("new")
                break
            except OSError as error:
                assert "Permission denied" in str(error)
        assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before
    assert fatal == 8  # eight moves: four files, each with the one before it


def test_a_list_of_checksums_is_no_list_of_what_may_be_removed(tmp_path):
    place = tmp_path / "it"
    place.mkdir()
    for name in ("thesis.tex", "../precious"):
        (place / name).write_text("years")
    (place / "SHA256SUMS").write_text(f"{'0' * 64}  thesis.tex\n{'0' * 64}  ../precious\n")
    with replacing_directory(place, "a", "key") as directory:
        (directory / "key").write_text("1")
    assert (place / "thesis.tex").exists() and (tmp_path / "precious").exists()


def test_two_processes_do_not_mix_what_they_write(tmp_path, held_by_another):
    place = tmp_path / "it"
    place.mkdir()
    held_by_another(place)
    told = "another process is writing there"
    with pytest.raises(OSError, match=told), replacing_directory(place, "a", "key") as directory:
        (directory / "key").write_text("1")
    assert not os.listdir(place)


def test_the_first_file_of_a_new_directory_tells_what_it_will_be(tmp_path, monkeypatch):
    place, real, seen = tmp_path / "it", os.replace, []
    place.mkdir()

    def watching(source, target):
        seen.append(os.path.basename(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", watching)
    with replacing_directory(place, "m", "key") as directory:
        for name in ("a", "key", "m", "z"):
            (directory / name).write_text("1")
    assert seen[0] == "m" and seen[-1] == "key"


@pytest.mark.parametrize("operation", ["replace", "mkdir", "rename", "unlink"])
@pytest.mark.parametrize("existed", [False, True])
def test_a_death_at_any_moment_is_never_half_of_each(tmp_path, existed, operation, monkeypatch):
    """Without the key file it is no directory of its kind; with it, it is one of the two."""

    class Killed(BaseException):
        pass

    real = getattr(os, operation)

    def write(place, content):
        with replacing_directory(place, "a", "key") as directory:
            for name in ("a", "b", "key"):
                (directory / name).write_text(content)

    for fatal in range(8):
        place = tmp_path / str(fatal) / "it"
        if existed:
            write(place, "old")
        count = iter(range(100))

        def dying(*arguments, count=count, fatal=fatal, **options):
            if next(count) == fatal:
                raise Killed
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, operation, dying)
            try:
                write(place, "new")
            except Killed:
                pass
        if (place / "key").exists():
            contents = {(place / name).read_text() for name in ("a", "b", "key")}
            assert contents in ({"old"}, {"new"})
        write(place, "after")
        assert sorted(os.listdir(place)) == ["SHA256SUMS", "a", "b", "key"]
        assert os.listdir(place.parent) == ["it"]


def test_what_a_killed_process_left_is_swept_and_what_one_is_at_is_not(tmp_path, held_by_another):
    for name in (".a.00000000.part", ".b.00000000.part", "c.part", ".d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    (tmp_path / ".link.00000000.part").symlink_to(tmp_path / ".d", target_is_directory=True)
    other = held_by_another(tmp_path / ".a.00000000.part")
    with staging(tmp_path / "mine") as ours:
        sweep(tmp_path, "another")
        assert (tmp_path / ".b.00000000.part").exists()
        sweep(tmp_path)
        left = {".a.00000000.part", "c.part", ".d", ".link.00000000.part", ours.name}
        assert set(os.listdir(tmp_path)) == left
    other.kill()
    other.wait()
    sweep(tmp_path)
    assert set(os.listdir(tmp_path)) == left - {".a.00000000.part", ours.name}
    assert os.listdir(tmp_path / ".d") == ["half"]


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    lock = lock_directory(tmp_path)
    with pytest.raises(BlockingIOError):
        lock_directory(tmp_path)
    os.close(lock)
    os.close(lock_directory(tmp_path))


# --- checksums ---


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "missing", "sums", "line"])
def test_damage_is_noticed_and_the_file_is_named(tmp_path, damage):
    (tmp_path / "sub").mkdir()
    file, sums = tmp_path / "sub" / "a file", tmp_path / "SHA256SUMS"
    file.write_bytes(bytes(range(200)))
    sums.write_text(checksums.text(tmp_path))
    assert checksums.verify(sums, ["sub/a file"]) == 1
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[77] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "longer":
        file.write_bytes(content + b"x")
    elif damage == "missing":
        file.unlink()
    elif damage == "sums":
        sums.write_text("")
    else:
        sums.write_text(sums.read_text().replace("sub/a", "sub/b"))
    with pytest.raises(checksums.Damaged, match="a file|SHA256SUMS"):
        checksums.verify(sums, ["sub/a file"])


def test_checksums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "a").write_text("abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksums.text(tmp_path) == f"{known}  a\n"
    assert checksums.verify(tmp_path / "SHA256SUMS") == 0  # of an earlier version


# --- one process a run ---


def test_a_run_is_held_for_this_process_and_any_number_of_times(tmp_path):
    directory = tmp_path / "run"
    with run_lock(directory):
        with run_lock(directory):
            assert str(os.getpid()) in (directory / LOCK_FILE).read_text()
        assert (directory / LOCK_FILE).exists()
        directory.rename(tmp_path / "aside")
        with run_lock(directory):
            assert (directory / LOCK_FILE).exists()
        assert (tmp_path / "aside" / LOCK_FILE).exists()
    assert not list(tmp_path.rglob(LOCK_FILE))


def test_another_process_is_named_and_its_death_frees_the_run(tmp_path, held_by_another):
    lock = tmp_path / LOCK_FILE
    lock.write_text("process 4711 on moon since noon (maml-tf train)\n")
    other = held_by_another(lock)
    told = "is in use by process 4711 on moon since noon .*another --logdir"
    with pytest.raises(ValueError, match=told), run_lock(tmp_path):
        pass
    other.kill()
    other.wait()
    with run_lock(tmp_path):
        assert "4711" not in lock.read_text()
    assert not lock.exists()


def test_a_run_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="Cannot write to .*--logdir"),
        run_lock(tmp_path / "file/run"),
    ):
        pass
