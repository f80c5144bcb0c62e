"""Text files as editors, spreadsheets and other systems leave them."""

from __future__ import annotations

import codecs

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by a file's first bytes; the longer mark before its beginning."""


def decode(contents: bytes, place: str) -> str:
    """Decodes UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
      contents: of a text file.
      place: its name, for messages.

    Returns:
      The text, without the mark; line ends as they are.

    Raises:
      ValueError: it is something else; names the line.
    """
    encoding = next((e for mark, e in _MARKS.items() if contents.startswith(mark)), "utf-8")
    try:
        text = contents.decode(encoding)
    except UnicodeDecodeError as error:
        number = contents[: error.start].count(b"\n") + 1
        raise ValueError(f"{place}, line {number} is not UTF-8; save the file as UTF-8.") from error
    if "\0" in text:
        number = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{place}, line {number} is not plain text; save the file as UTF-8.")
    return text
