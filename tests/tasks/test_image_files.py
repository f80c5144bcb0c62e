import os
import zipfile

import pytest

from maml_tf.tasks import image_files


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
