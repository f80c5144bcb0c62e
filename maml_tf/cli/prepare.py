"""`maml-tf prepare`."""

from __future__ import annotations

import logging

from maml_tf.cli import flags as settings
from maml_tf.experiment import make_tasks

_LOG = logging.getLogger(__name__)


def run(paths: list[str]) -> int:
    """Reads a data set once, so that later runs start from its cache."""
    del paths
    config = settings.read()
    if config.datasource == "sinusoid":
        _LOG.info("The sinusoid needs no data.")
        return 0
    for split in ("train", "val", "test"):
        make_tasks(config, split)
    _LOG.info("%s is ready.", config.datasource)
    return 0
