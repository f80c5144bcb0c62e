"""`maml-tf figures`."""

from __future__ import annotations

import logging
from typing import Any

from maml_tf import figures
from maml_tf.cli import runs

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Draws the results of each run; by the flags where no directory is named."""
    for directory in runs.find(words) if words else [runs.locate(given, [])[0]]:
        for path in figures.draw_run(directory):
            _LOG.info("Wrote %s", path)
    return 0
