import io
import logging
import os
import pathlib
import re
import time
import tracemalloc
import zipfile
import zlib

import pytest
from PIL import Image

from maml_tf.tasks.images import files as image_files


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


@pytest.mark.parametrize("source", ["tree", "archive"])
def test_reads_files_in_order_without_junk(source, request):
    files = image_files.list_files(request.getfixturevalue(source))
    assert list(files.read()) == [("a/1.png", b"a/1.png"), ("b/2.png", b"b/2.png")]


def test_fingerprint_changes_with_contents_names_and_version(tree, archive):
    def fingerprint(path, version=1):
        return image_files.fingerprint([image_files.list_files(path)], version)

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
    a, b = ([image_files.list_files(path)] for path in (archive, copy))
    assert image_files.fingerprint(a, 1) == image_files.fingerprint(b, 1)


def test_a_truncated_zip(archive):
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ValueError, match="tree.zip is not a whole zip file; get it again"):
        image_files.list_files(archive)


def test_a_damaged_file_in_a_zip(archive):
    contents = archive.read_bytes()
    at = contents.index(b"b/2.png", contents.index(b"b/2.png") + 1)  # The name, then the contents.
    archive.write_bytes(contents[:at] + b"B" + contents[at + 1 :])
    with pytest.raises(ValueError, match="tree.zip is damaged at b/2.png; get it again"):
        list(image_files.list_files(archive).read())


# --- links ---


def names(path):
    return list(image_files.list_files(path).stamps)


def test_links_to_files_and_folders_are_followed(tree, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(tree / "a")
    (linked / "c").mkdir()
    (linked / "c" / "3.png").symlink_to(tree / "b" / "2.png")
    assert list(image_files.list_files(linked).read()) == [
        ("a/1.png", b"a/1.png"),
        ("c/3.png", b"b/2.png"),
    ]
    assert [f.name for f in image_files.list_folders(linked)] == ["a", "c"]
    before = image_files.fingerprint([image_files.list_files(linked)], 1)
    (tree / "a" / "1.png").write_bytes(b"changed!")
    assert image_files.fingerprint([image_files.list_files(linked)], 1) != before


def test_a_folder_within_itself_is_entered_once(tree):
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "b" / "self").symlink_to(tree / "b")
    assert names(tree) == ["a/1.png", "b/2.png"]


def test_one_folder_under_two_names_is_named(tree):
    (tree / "c").symlink_to(tree / "b")
    with pytest.raises(ValueError, match="is the same folder as .*; remove the link"):
        names(tree)


def test_many_links_to_each_other_end_at_once(tmp_path):
    """2^30 ways lead from the first folder to the last."""
    for number in range(30):
        (tmp_path / f"d{number}").mkdir()
        for link in ("x", "y"):
            (tmp_path / f"d{number}" / link).symlink_to(tmp_path / f"d{number + 1}")
    (tmp_path / "d30").mkdir()
    with pytest.raises(ValueError, match="is the same folder as"):
        names(tmp_path / "d0")


def test_a_deep_folder(tmp_path):
    here = tmp_path
    for _ in range(1200):
        here = here / "d"
        os.mkdir(here)
    assert names(tmp_path) == []
    os.removedirs(here)  # Python's own removal of a tree does not come so deep.


# --- what is no file ---


def socket_at(path):
    import socket

    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(path))
    server.close()


NO_FILES = {
    "fifo": os.mkfifo,
    "socket": socket_at,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "nothing": lambda path: path.symlink_to(path.with_name("nowhere")),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_regular_file_is_named_and_not_opened(make, tree, monkeypatch):
    monkeypatch.chdir(tree)
    make(tree / "a" / "0.png")
    with pytest.raises(ValueError, match="a/0.png is (no regular file|a link to nothing); remove"):
        names(tree)
    with pytest.raises(ValueError, match="a/0.png is (no regular file|a link to nothing); remove"):
        image_files.read_file(tree / "a" / "0.png")
    if not (tree / "a" / "0.png").is_symlink():
        (tree / "a" / "0.png").rename(tree / "a" / ".0.png")
        assert names(tree) == ["a/1.png", "b/2.png"]  # as a hidden file it is nobody's concern


def test_a_fifo_in_place_of_a_zip(tmp_path):
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(ValueError, match="x.zip is no regular file; remove it"):
        image_files.list_files(tmp_path / "x.zip")


# --- what others leave there ---

JUNK = ["thumbs.db", "Thumbs.DB", "ehthumbs.db", "ehthumbs_vista.db", "Desktop.ini", "Icon\r"]
JUNK += ["._1.png", ".DS_Store", ".directory", "1.png~", "~$1.png", "1.png:Zone.Identifier"]
JUNK += ["@eaDir/1.png/SYNOPHOTO.jpg", "__MACOSX/1.png", "#recycle/1.png", "$RECYCLE.BIN/1.png"]
JUNK += ["System Volume Information/x", "lost+found/1.png", "@Recycle/1.png", "$Recycle.Bin/x"]
JUNK += [".ipynb_checkpoints/1.png", ".git/HEAD", ".Trash-1000/files/1.png"]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("place", ["", "a/"])
def test_junk_is_ignored_without_a_word(junk, place, tree, tmp_path, caplog):
    path = tree / f"{place}{junk}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    zipped = tmp_path / "junk.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in ("a/1.png", "b/2.png", f"{place}{junk}"):
            archive.writestr(name, name)
    for source in (tree, zipped):
        assert names(source) == ["a/1.png", "b/2.png"]
    assert image_files.list_names(tree)[:2] == ["a", "b"] and not caplog.records


COPIES = ["{} copy{}", "{} copy 2{}", "{} (1){}", "{}(1){}", "{} - Copy{}", "{} - Copy (2){}"]
COPIES += ["Copy of {}{}", "{} (copy){}", "{} (another copy){}", "{} (3rd copy){}", "{} - Kopie{}"]
COPIES += ["{} (Anna's conflicted copy 2026-01-02){}", "{} (conflicted copy 2026-01-02 112233){}"]
COPIES += [
    "{}.sync-conflict-20260102-112233-ABCDEFG{}",
    "{} conflicted copy{}",
    "{} (case conflict){}",
]
COPIES += ["{}_Server_Conflict{}", "{} - copie{}"]
COPIES += [
    "{} (Kopie){}",
    "{} (copie){}",
    "{} (copia){}",
    "{} (weitere Kopie){}",
    "{} (3. Kopie){}",
]
COPIES += ["Kopie von {}{}", "Copia de {}{}", "Copie de {}{}", "Cópia de {}{}", "Copia di {}{}"]
COPIES += ["Kopie van {}{}", "Copy (2) of {}{}", "Копия {}{}", "复件 {}{}"]
COPIES += ["{} – Kopie{}", "{} — копия{}", "{} - копия (2){}", "{} - Cópia{}", "{} - Co\u0301pia{}"]
COPIES += [
    "{} - 副本{}",
    "{} 副本{}",
    "{} 的副本{}",
    "{} - コピー{}",
    "{}のコピー{}",
    "{} - 복사본{}",
]
COPIES += ["{} Kopie{}", "{} - Kopi{}", "{} - kopio{}", "{} - Másolat{}", "{} - Kopya{}"]
COPIES += ["{} [Conflict]{}", "{} [conflicted 2026-01-02]{}", "{}[Conflict]{}"]
COPIES += ["{} (Annas in Konflikt stehende Kopie 2026-01-02){}", "{} (Copie en conflit d'Anna){}"]


@pytest.mark.parametrize("pattern", COPIES)
def test_a_copy_beside_its_original_is_ignored_and_named(pattern, tree, tmp_path, caplog):
    file, folder = f"a/{pattern.format('1', '.png')}", f"{pattern.format('b', '')}/2.png"
    for name in (file, folder):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"")
    zipped = tmp_path / "copies.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in ("a/1.png", "b/2.png", file, folder):
            archive.writestr(name, name)
    for source in (tree, zipped):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert names(source) == ["a/1.png", "b/2.png"]
        (record,) = caplog.records
        assert record.message.startswith(f"Ignored {source}/")
        assert " and 1 more copies: the original is beside it." in record.message
    assert image_files.list_names(tree) == ["a", "b"]
    assert [folder.name for folder in image_files.list_folders(tree)] == ["a", "b"]


@pytest.mark.parametrize("pattern", COPIES)
def test_without_an_original_it_is_none(pattern, tree, caplog):
    (tree / "a" / "1.png").rename(tree / "a" / pattern.format("1", ".png"))
    assert len(names(tree)) == 2 and not caplog.records


@pytest.mark.parametrize(
    "name",
    [
        *("Japanese_(katakana)", "character01", "n01532829_28.JPEG", "x (y)", "x [y]", "副本"),
        *(
            "x 副",
            "x (hard copy)",
            "copy x",
            "x copying",
            "x-DESKTOP-4F2A",
            "x 2",
            "x_2",
            "photocopy",
        ),
    ],
)
def test_names_that_are_no_copies(name):
    assert not image_files.is_copy(name, {"Japanese", "character", "n01532829.JPEG", "x", name})


PERHAPS = ["{}-DESKTOP-4F2A{}", "{} 2{}", "{} 13{}", "{}-2{}", "{}-Annas-MacBook{}"]


def written(folder, files):
    for name, contents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)
    zipped = folder.with_suffix(".zip")
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, contents in files.items():
            archive.writestr(name, contents)
    return folder, zipped


@pytest.mark.parametrize("pattern", PERHAPS)
def test_what_may_be_a_copy_is_one_if_its_contents_are_the_original_s(pattern, tmp_path, caplog):
    own = {"dog/1.png": b"x", "dog/more/2.png": b"yy", "cat.v1/3.png": b"z"}
    copy = pattern.format("dog", "")
    copied = {f"{copy}/1.png": b"x", f"{copy}/more/2.png": b"yy"}
    copied |= {f"{pattern.format('cat.v1', '')}/3.png": b"z"}
    copied |= {f"dog/{pattern.format('1', '.png')}": b"x"}
    copied |= {f"{copy}/{pattern.format('1', '.png')}": b"x"}
    for source in written(tmp_path / "a", own | copied):
        caplog.clear()
        assert names(source) == sorted(own)
        (record,) = caplog.records
        assert " more copies: the original is beside it." in record.message
    assert image_files.list_names(tmp_path / "a") == ["cat.v1", "dog"]
    assert [f.name for f in image_files.list_folders(tmp_path / "a")] == ["cat.v1", "dog"]
    assert image_files.list_names(tmp_path / "a" / "dog") == ["1.png", "more"]


OTHER = [
    {"1.png": b"y", "2.png": b"yy"},  # names and sizes are the same
    {"1.png": b"x"},
    {"1.png": b"x", "2.png": b"yy", "3.png": b"z"},
    {"1.png": b"x", "3.png": b"yy"},
    {"1.png": b"xx", "2.png": b"yy"},
    {"more/1.png": b"x", "2.png": b"yy"},
]


@pytest.mark.parametrize("pattern", PERHAPS)
@pytest.mark.parametrize("other", OTHER)
def test_what_may_be_a_copy_is_a_class_of_its_own_else(pattern, other, tmp_path, caplog):
    copy = pattern.format("dog", "")
    files = {"dog/1.png": b"x", "dog/2.png": b"yy"}
    files |= {f"{copy}/{name}": contents for name, contents in other.items()}
    files |= {f"dog/{pattern.format('1', '.png')}": b"z"}
    for source in written(tmp_path / "a", files):
        assert names(source) == sorted(files) and not caplog.records
    assert image_files.list_names(tmp_path / "a") == sorted(["dog", copy])


def test_what_may_be_a_copy_is_not_opened_if_it_is_no_file(tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    os.mkfifo(tmp_path / "1-2.png")
    (tmp_path / "1").mkdir()
    (tmp_path / "1-2").symlink_to("nowhere")
    (tmp_path / "1 2").mkdir()
    (tmp_path / "1 2" / "loop").symlink_to(tmp_path)
    (tmp_path / "1 2" / ".DS_Store").write_bytes(b"")
    assert image_files.list_names(tmp_path) == ["1", "1-2", "1-2.png", "1.png"]
    (tmp_path / "1 2" / "2.png").write_bytes(b"")
    assert "1 2" in image_files.list_names(tmp_path)


def test_a_long_name_takes_no_time():
    began = time.perf_counter()
    assert not image_files.is_copy("a (" * 20_000, {"a"})
    assert not image_files.is_copy("a (" * 80, {"a"})
    assert not image_files.is_copy("copy of " * 30, {"a"})
    assert not image_files.is_copy("a [conflict" * 20, {"a"})
    assert time.perf_counter() - began < 0.5


# --- zips ---


def write_zip(path, name="a/1.png", contents=b"x", **changes):
    """A zip of one file, with other values in its headers than are true."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, contents)
    fields = {"flags": (8, 6, 2), "method": (10, 8, 2), "size": (24, 22, 4)}
    data = bytearray(path.read_bytes())
    central, local = data.index(b"PK\x01\x02"), 0
    for key, value in changes.items():
        in_central, in_local, length = fields[key]
        for at in (central + in_central, local + in_local):
            data[at : at + length] = value.to_bytes(length, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"method": 97}, "a/1.png is compressed by method 97, which Python cannot read; make"),
        ({"method": 9}, "is compressed by method 9, which Python cannot read"),
        ({"flags": 1}, "a/1.png is encrypted; make the zip without a password"),
        ({"size": 2**31}, "unpacks to more than an image of 64 MiB; get it again"),
        ({"name": "../../etc/1.png"}, "leaves the folder of the zip; get it again"),
        ({"name": "/etc/a/1.png"}, "leaves the folder of the zip; get it again"),
        ({"name": "a/" * 1000 + "1.png"}, "leaves the folder of the zip; get it again"),
    ],
)
def test_a_zip_that_is_refused_before_it_is_read(changes, told, tmp_path):
    path = write_zip(tmp_path / "x.zip", **changes)
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        image_files.list_files(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 500
    assert [file.name for file in tmp_path.iterdir()] == ["x.zip"]


def test_a_zip_of_many_large_files(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "LARGEST_ZIP", 100)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(11):
            archive.writestr(f"a/{number}.png", b"0" * 10)
    with pytest.raises(ValueError, match="x.zip unpacks to more than 0 GiB; get it again"):
        image_files.list_files(tmp_path / "x.zip")


def test_a_bomb_that_says_that_it_is_small_is_not_unpacked(tmp_path):
    path = write_zip(tmp_path / "x.zip", contents=bytes(300 * 2**20), size=100)
    tracemalloc.start()
    with pytest.raises(ValueError, match="x.zip is damaged at a/1.png; get it again"):
        list(image_files.list_files(path).read())
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


def test_any_flipped_byte_of_a_zip_is_one_line_or_none(archive):
    contents = archive.read_bytes()
    for at in range(0, len(contents), 2):
        archive.write_bytes(contents[:at] + bytes([contents[at] ^ 255]) + contents[at + 1 :])
        try:
            list(image_files.list_files(archive).read())
        except ValueError as error:
            assert str(archive) in str(error) and "\n" not in str(error)


# --- pictures ---


def png_that_says(width, height):
    """A PNG of 1 x 1 whose header says otherwise."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("size", [(15000, 12000), (10000, 9000), (8000, 7000), (2**31 - 1,) * 2])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(size, recwarn):
    with pytest.raises(ValueError, match="x has more than 50 million pixels; make it smaller"):
        image_files.open_image(png_that_says(*size), "x")
    assert not recwarn.list


def test_a_file_of_too_many_bytes(tmp_path):
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(image_files.LARGEST_FILE + 1)
    with pytest.raises(ValueError, match="x.png is larger than 64 MiB; make it smaller"):
        image_files.read_file(tmp_path / "x.png")


def test_a_program_is_no_picture():
    """Pillow would hand PostScript to another program."""
    for contents in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", b"<svg/>", b"GIF89a"):
        with pytest.raises(ValueError, match="x is not an image; get the data again"):
            image_files.open_image(contents, "x")


# --- the data folder ---


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MAML_TF_DATA", "~/sets")
    assert image_files.data_folder(None) == tmp_path / "sets"
    assert image_files.data_folder("~/x y") == tmp_path / "x y"
    assert image_files.data_folder("x/~") == pathlib.Path("x/~")
    with pytest.raises(ValueError, match="not a local directory"):
        image_files.data_folder("gs://bucket/data")
