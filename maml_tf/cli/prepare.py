"""`maml-tf prepare`."""

from __future__ import annotations

import logging
from typing import Any

from maml_tf.config import Config
from maml_tf.experiment import make_tasks

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Reads a data set once, so that later runs start from its cache."""
    del words  # There are none.
    config = Config(**given)
    if not config.classification:
        _LOG.info("%s needs no data.", config.datasource)
        return 0
    for split in ("train", "val", "test"):
        make_tasks(config, split)
    _LOG.info("%s is ready.", config.datasource)
    return 0
