"""Brings what pages link to outside docs/ into the site, so that one link serves both readers.

A page links to a file of the repository by its relative path, as a reader of the repository needs
it. Here such a file becomes `repository/<path>` of the site, a page if it is Markdown, and the link
is changed to that. Code and numbers are kept from breaking where they cannot be read, for tables on
a phone, and pictures lead to themselves in full size.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PLACE = "repository"
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_PRE = re.compile(r"(<pre.*?</pre>)", re.S)
_CODE = re.compile(r"(<code[^>]*>)([^<]+)(</code>)")
_CELL = re.compile(r"(<t[dh][^>]*>)(.*?)(</t[dh]>)", re.S)
_PICTURE = re.compile(r"<p>((?:<img [^>]*>\s*)+)</p>")
_LONGEST = 32
"""Characters of code that stay on one line."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every file outside docs/ that is linked to, from page to page."""
    root, docs = _folders(config)
    own = {docs / file.src_uri: file.content_string for file in files.documentation_pages()}
    pages = [*own, *(root / name for name in _of_nav(config.nav))]
    for page in pages:  # Grows on the way.
        if not page.is_relative_to(docs):
            uri = _uri(page, root, docs)
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(page)))
        if page.suffix == ".md":
            text = own[page] if page in own else page.read_text("utf-8")
            linked = (_target(page, match[2]) for match in _LINK.finditer(text))
            new = (t for t in linked if t and t.is_relative_to(root) and not t.is_relative_to(docs))
            pages += [target for target in new if target not in pages]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Changes links to files of the repository into links to their place in the site."""
    root, docs = _folders(config)
    uri = page.file.src_uri
    inside = not uri.startswith(f"{PLACE}/")
    source = docs / uri if inside else root / uri.removeprefix(f"{PLACE}/")

    def changed(match: re.Match) -> str:
        target = _target(source, match[2])
        if target is None or (inside and target.is_relative_to(docs)):
            return match[0] if match[2][-6:] != ".ipynb" else f"{match[1]}{match[2][:-6]}.md)"
        place = os.path.relpath(_uri(target, root, docs), Path(uri).parent)
        return f"{match[1]}{Path(place).as_posix()}{match[3] or ''}{match[4]}"

    return _LINK.sub(changed, markdown)


def on_page_content(content: str, **_: object) -> str:
    """Says where code and numbers may break, and lets pictures lead to themselves."""
    parts = _PRE.split(content)
    for i in range(0, len(parts), 2):
        part = _CODE.sub(_inside(_breakable), parts[i])
        part = _CELL.sub(_inside(_unbroken), part)
        parts[i] = _PICTURE.sub(lambda m: f'<p class="picture">{_leading(m[1])}</p>', part)
    return "".join(parts)


def _inside(change: Callable[[str], str]) -> Callable[[re.Match], str]:
    """A replacement of a match's second group."""
    return lambda match: match[1] + change(match[2]) + match[3]


def _breakable(code: str) -> str:
    """Code that breaks between words, and within long ones behind a mark."""
    return " ".join(map(_pieces, code.split(" ")))


def _pieces(word: str) -> str:
    cuts = [word] if len(word) <= _LONGEST else re.split(r"(?<=\w[_/=.,])(?=\w)", word)
    return "<wbr>".join(f'<span class="word">{piece}</span>' for piece in cuts)


def _unbroken(cell: str) -> str:
    """A number with its interval, or its thousands, in one piece."""
    return re.sub(r"(?<=\d) (?=\d{3}\b)|(?<=\d) (?=±)|(?<=±) (?=\d)", "&nbsp;", cell)


def _leading(pictures: str) -> str:
    return re.sub(r'(<img [^>]*src="([^"]*)"[^>]*>)', r'<a href="\2">\1</a>', pictures)


def _folders(config: MkDocsConfig) -> tuple[Path, Path]:
    return Path(config.config_file_path).resolve().parent, Path(config.docs_dir).resolve()


def _of_nav(nav) -> list[str]:
    """Paths in the repository of pages that the navigation names."""
    if isinstance(nav, str):
        return [nav.removeprefix(f"{PLACE}/")] if nav.startswith(f"{PLACE}/") else []
    entries = nav.values() if isinstance(nav, dict) else nav or ()
    return [name for entry in entries for name in _of_nav(entry)]


def _uri(target: Path, root: Path, docs: Path) -> str:
    """A file's place in the site's sources."""
    if target.is_relative_to(docs):
        return target.relative_to(docs).as_posix()
    return f"{PLACE}/{target.relative_to(root).as_posix()}"


def _target(source: Path, link: str) -> Path | None:
    """The file that a relative link leads to; of a folder its README."""
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    target = Path(os.path.normpath(source.parent / link))
    if target.is_dir():
        target /= "README.md"
    return target if target.is_file() else None
