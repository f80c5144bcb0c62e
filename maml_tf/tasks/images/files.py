"""Lists and reads image files of a folder or a zip.

Data sets pass through file managers, network drives and spreadsheets: what those leave is ignored,
and so is a copy beside its original, with a warning. What is no regular file is never opened, and
nothing is decoded that its header says is larger than any photograph.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import filecmp
import functools
import hashlib
import io
import logging
import os
import re
import stat
import threading
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from maml_tf.system.files import user_path
from maml_tf.system.junk import is_junk

_LOG = logging.getLogger(__name__)

LARGEST_FILE = 64 * 2**20
"""Bytes of an image file."""

LARGEST_ZIP = 4 * 2**30
"""Bytes of all files in a zip, unpacked."""

LARGEST_IMAGE = 50_000_000
"""Pixels."""

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 1
_LONGEST_NAME = 1000

_COPY = (
    "(?:cop(?:y|ie|ia)|c(?:ó|o\u0301)pia|kopi[aeo]?|kopya|másolat|копия|копія|副本|拷贝|コピー"
    "|사본|복사본)"
)
_ANOTHER = r"(?:another|weitere|autre|otra|altra|\d+\w{0,2}\.?)"
_CONFLICT = "[ck]onfli[ck]?t"
_COPIES = [
    re.compile(pattern + r"(\.\w+)?", re.IGNORECASE)
    for pattern in (
        rf"{_COPY}(?: \(\d+\))? (?:of|von|van|de|di|da|av|af) (.+?)",
        r"(?:kopia|копия|копія|复件) (.+?)",
        rf"(.+?)(?: [-–—] | ?的| ?の| ){_COPY}(?: ?\d+| ?\(\d+\))?",
        rf"(.+?) ?\((?:(?:{_ANOTHER} )?{_COPY}|\d+)\)",
        rf"(.+?) ?\([^()]*{_CONFLICT}[^()]*\)",
        rf"(.+?) ?\[[^\[\]]*{_CONFLICT}[^\[\]]*\]",
        rf"(.+?)[ _-](?:\w+_)?{_CONFLICT}[^.()]*",
        r"(.+?)\.sync-conflict-[\w-]+",
    )
]
_SIGNS = re.compile("[ ([]|onfli|[^\x00-\x7f]", re.IGNORECASE)
_PERHAPS = re.compile(r"-(?=.)| (?=\d+$)")
"""Where the name of a copy may go on: `Greek-DESKTOP-4F2A`, `Greek 2`. So may a class's own."""


class ImageFiles(NamedTuple):
    """Files below a folder or in a zip."""

    path: Path
    stamps: dict[str, str]
    """What shows that a file has changed, by name relative to `path`, in order of names."""

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yields each file's name and contents.

        Raises:
          ValueError: if the zip is damaged, or a file is too large or none.
        """
        if self.path.is_dir():
            for name in self.stamps:
                yield name, read_file(self.path / name)
            return
        with zipfile.ZipFile(self.path) as archive:
            for name in self.stamps:
                with damage(f"{self.path} is damaged at {name}; get it again."):
                    with archive.open(name) as file:  # Not more than the zip says, whatever comes.
                        contents = file.read(archive.getinfo(name).file_size)
                yield name, contents


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of the data sets: `data_dir`, else $MAML_TF_DATA, else "data"."""
    return user_path(data_dir or os.environ.get("MAML_TF_DATA") or "data")


def stamp(file: Path) -> str:
    """What shows that a file has changed, without reading it."""
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def list_files(path: Path) -> ImageFiles:
    """Lists the files below a folder or in a zip, without those of the system and without copies.

    Links to files and to folders are followed; a folder within itself is not entered again.

    Raises:
      OSError: if a folder cannot be read.
      ValueError: if `path` is a file but not a whole zip of reasonable size, or there is
        something else than files and folders.
    """
    copies: list[str] = []
    if path.is_dir():
        names = _walk(path, copies)
        stamps = {name: stamp(path / name) for name in names}
    else:
        entries = _entries(path)
        stamps = {name: f"{entry.file_size} {entry.CRC}" for name, entry in entries.items()}
        stamps = {name: stamps[name] for name in _without_copies(stamps, copies)}
    if copies:
        more = f" and {len(copies) - 1} more copies" if len(copies) > 1 else ""
        _LOG.warning("Ignored %s%s: the original is beside it.", path / min(copies), more)
    return ImageFiles(path, dict(sorted(stamps.items())))


def list_folders(path: Path) -> list[Path]:
    """Folders in a folder, and links to some, without those of the system and without copies."""
    return [path / name for name in list_names(path) if (path / name).is_dir()]


def list_names(path: Path) -> list[str]:
    """What is in a folder, if there is one, without what is the system's and without copies."""
    names = {name for name in os.listdir(path) if not is_junk(name)} if path.is_dir() else set()
    return sorted(names - _copies(names, functools.partial(_same, path)))


def fingerprint(sources: Sequence[ImageFiles], version: int) -> str:
    """Names what would be decoded from these sources by this version of the decoder."""
    digest = hashlib.sha256(str(version).encode())
    for source in sources:
        for item in source.stamps.items():
            digest.update(repr(item).encode())
    return digest.hexdigest()[:16]


def read_file(path: Path) -> bytes:
    """Reads a regular file of a size that an image has.

    Raises:
      ValueError: if it is something else, or larger.
    """
    _check_regular(path)
    with open(path, "rb") as file:
        contents = file.read(LARGEST_FILE + 1)
    if len(contents) > LARGEST_FILE:
        raise ValueError(
            f"{path} is larger than {LARGEST_FILE >> 20} MiB; make it smaller, or get it again."
        )
    return contents


_FILTERS = threading.Lock()


def open_image(contents: bytes, place: str) -> Image.Image:
    """Decodes an image file.

    Raises:
      ValueError: if it is none, or damaged, or has too many pixels; says so of `place`.
    """
    try:
        # Python's list of warnings is one for all threads. Pillow warns of what is refused below.
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(contents), formats=_FORMATS)
        pixels = opened.width * opened.height
        if pixels <= LARGEST_IMAGE:
            with opened as image:
                image.load()
    except Image.DecompressionBombError:
        pixels = LARGEST_IMAGE + 1
    except Exception as error:  # Pillow raises SyntaxError, too, for a broken PNG.
        raise ValueError(f"{place} is not an image; get the data again.") from error
    if pixels > LARGEST_IMAGE:
        raise ValueError(
            f"{place} has more than {LARGEST_IMAGE // 10**6} million pixels; make it smaller."
        )
    return image


def is_copy(name: str, beside: Collection[str]) -> bool:
    """Whether a name is that of a copy, and its original is among the names beside it."""
    if len(name) > 255 or not _SIGNS.search(name):
        return False  # Quick for nearly all.
    matches = (pattern.fullmatch(name) for pattern in _COPIES)
    return any("".join(part or "" for part in m.groups()) in beside for m in matches if m)


def _copies(names: Collection[str], same: Callable[[str, str], bool]) -> set[str]:
    """Those of the names beside each other that are copies.

    Args:
      names: of files and folders in one place.
      same: whether two of them have the same contents; decides where a name leaves it open.
    """
    return {
        name
        for name in names
        if is_copy(name, names)
        or any(own in names and same(own, name) for own in _perhaps_originals(name))
    }


def _perhaps_originals(name: str) -> list[str]:
    """Names of which this may be a copy's, though as well one's own."""
    if len(name) > 255:
        return []
    stem, ending = os.path.splitext(name)
    found = [stem[: match.start()] + ending for match in _PERHAPS.finditer(stem)]
    return found + ([name[: match.start()] for match in _PERHAPS.finditer(name)] if ending else [])


def _same(place: Path, name: str, another: str) -> bool:
    """Whether two files, or two folders, in one place have the same contents."""
    one, other = place / name, place / another
    if not (one.is_dir() and other.is_dir()):
        return _same_file(one, other)
    sizes = _sizes(one)
    return sizes == _sizes(other) and all(_same_file(one / n, other / n) for n in sizes)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)  # False for what is no regular file.
    except OSError:  # Who reads it says so.
        return False


def _sizes(folder: Path) -> dict[str, int]:
    """Sizes of the files below a folder; links to folders are not entered."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_junk(name)]
        for name in files:
            if not is_junk(name):
                path = Path(place, name)
                found[path.relative_to(folder).as_posix()] = path.lstat().st_size
    return found


@contextlib.contextmanager
def damage(fault: str) -> Iterator[None]:
    """Turns whatever a damaged file makes a library raise into ValueError(`fault`)."""
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # What the system says is no damage.
            raise
        raise ValueError(fault) from error
    except Exception as error:  # Zip files, compressions and headers have errors of their own.
        raise ValueError(fault) from error


def _walk(root: Path, copies: list[str]) -> list[str]:
    """Names of the files below a folder; adds those of copies to `copies`."""
    found: list[str] = []
    entered: dict[tuple[int, int], str] = {}
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while waiting:
        folder, around = waiting.pop()
        own = _identity(root / folder)
        if own in around:  # A link to a folder that it lies in.
            continue
        if entered.setdefault(own, folder) != folder:
            raise ValueError(
                f"{root / folder} is the same folder as {root / entered[own]}; remove the link."
            )
        with os.scandir(root / folder) as scan:
            entries = [entry for entry in scan if not is_junk(entry.name)]
        same = functools.partial(_same, root / folder)
        own_copies = _copies({entry.name for entry in entries}, same)
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name in own_copies:
                copies.append(name)
            elif entry.is_dir():
                waiting.append((name, (*around, own)))
            else:
                _check_regular(root / name)
                found.append(name)
    return found


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _check_regular(path: Path) -> None:
    """Refuses what is not a file, without opening it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ValueError(f"{path} is a link to nothing; remove it.") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is no regular file; remove it.")


def _entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip, by name."""
    _check_regular(path)
    with damage(f"{path} is not a whole zip file; get it again."):
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    kept = {}
    for entry in entries:
        parts, place = entry.filename.split("/"), f"{path}: {entry.filename[:100]}"
        if ".." in parts or not parts[0] or len(entry.filename) > _LONGEST_NAME:
            raise ValueError(f"{place} leaves the folder of the zip; get it again.")
        if any(map(is_junk, parts)):
            continue
        kept[entry.filename] = entry
        check_entry(entry, place, LARGEST_FILE, "image")
    if sum(entry.file_size for entry in kept.values()) > LARGEST_ZIP:
        raise ValueError(f"{path} unpacks to more than {LARGEST_ZIP >> 30} GiB; get it again.")
    return kept


def check_entry(entry: zipfile.ZipInfo, place: str, largest: int, what: str) -> None:
    """Refuses a file in a zip that cannot be read, or says that it is larger than such a file.

    Raises:
      ValueError: says so of `place`.
    """
    if entry.flag_bits & _ENCRYPTED:
        raise ValueError(f"{place} is encrypted; make the zip without a password.")
    if entry.compress_type not in _METHODS:
        raise ValueError(
            f"{place} is compressed by method {entry.compress_type}, which Python cannot read; "
            "make the zip with the usual one, deflate."
        )
    if entry.file_size > largest:
        raise ValueError(
            f"{place} unpacks to more than an {what} of {largest >> 20} MiB; get it again."
        )


def _without_copies(stamps: Mapping[str, str], copies: list[str]) -> list[str]:
    """Names of a zip's files that are no copies, nor in one; adds the others to `copies`."""
    beside: dict[str, set[str]] = {}
    for name in stamps:
        while name:
            folder, _, own = name.rpartition("/")
            beside.setdefault(folder, set()).add(own)
            name = folder
    same, found = functools.partial(_same_in_zip, stamps, sorted(stamps)), set()
    for folder, names in beside.items():
        start = f"{folder}/" if folder else ""
        found |= {start + own for own in _copies(names, functools.partial(same, start))}
    kept: list[str] = []
    for name in stamps:
        parts = name.split("/")
        around = ("/".join(parts[: depth + 1]) for depth in range(len(parts)))
        (copies if any(place in found for place in around) else kept).append(name)
    return kept


def _same_in_zip(
    stamps: Mapping[str, str], ordered: Sequence[str], start: str, one: str, other: str
) -> bool:
    """Whether two files, or two folders, have the same contents, by their sizes and checksums."""

    def below(place: str) -> dict[str, str]:
        first, last = (bisect.bisect_left(ordered, place + end) for end in ("/", "0"))
        inside = [*ordered[first:last], *([place] if place in stamps else [])]
        return {name[len(place) :]: stamps[name] for name in inside}

    return below(start + one) == below(start + other)
