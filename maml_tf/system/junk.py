"""Files that systems, editors and file managers leave beside one's own."""

from __future__ import annotations

_JUNK = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"),
    *("system volume information", "icon\r", "__macosx", "lost+found", "@eadir", "@tmp"),
    *("#recycle", "#snapshot", "@recycle", "@__thumb"),
}


def is_junk(name: str) -> bool:
    """Whether a file or a folder of this name is the system's, an editor's or a file manager's."""
    own = name.casefold()
    hidden = own.startswith((".", "~$")) or own.endswith(("~", ":zone.identifier"))
    return hidden or own in _JUNK
