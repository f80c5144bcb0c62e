"""`maml-tf prepare`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from maml_tf.experiments.build import make_tasks
from maml_tf.experiments.settings import Config
from maml_tf.tasks import miniimagenet_images, omniglot_images
from maml_tf.tasks.images import miniimagenet, omniglot

_LOG = logging.getLogger(__name__)


def run(given: dict[str, Any], words: list[str]) -> int:
    """Reads a data set once, so that later runs start from its cache.

    Raises:
      ValueError: the data set is damaged, or nothing could be kept.
    """
    del words  # There are none.
    config = Config(**given)
    if not config.classification:
        _LOG.info("%s needs no data.", config.datasource)
        return 0
    kept = {}
    for split in ("train", "val", "test"):
        make_tasks(config, split)
        kept[_kept(config, split)] = split
    _LOG.info("%s is ready, in %s.", config.datasource, ", ".join(map(str, kept)))
    return 0


def _kept(config: Config, split: str) -> Path:
    """The file that holds the decoded images of a split.

    Raises:
      ValueError: there is none; names the folders that could have one.
    """
    if config.datasource == "omniglot":
        images = omniglot_images(config.data_dir, download=config.download)
    else:
        images = miniimagenet_images(config.data_dir, split, download=config.download).images
    file = getattr(images, "filename", None) if isinstance(images, np.memmap) else None
    if file is None:
        source = omniglot if config.datasource == "omniglot" else miniimagenet
        folders = [str(folder.absolute()) for folder in source.cache_folders(config.data_dir)]
        raise ValueError(
            f"Nothing could be kept, so that every start would decode {config.datasource} again: "
            f"make {' or '.join(folders)} writable, or name another folder by XDG_CACHE_HOME."
        )
    return Path(file).absolute()
