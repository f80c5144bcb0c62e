"""Omniglot: handwritten characters (paper section 5.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maml_tf.experiments.image_problem import image_problem

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Machine
    from maml_tf.tasks import Episodes

ORDER = 1


def _episodes(data_dir: str | None, split: str, **options) -> Episodes:
    from maml_tf.tasks import omniglot_episodes

    return omniglot_episodes(data_dir, split, **options)


def _require_data(machine: Machine) -> None:
    from maml_tf.tasks.images import omniglot

    omniglot.require(machine.data_dir or None, download=machine.download)


def _prepared(machine: Machine) -> list[Path | None]:
    from maml_tf.tasks.images import cache, omniglot

    images = omniglot.omniglot_images(machine.data_dir, download=machine.download)
    return [cache.file_of(images)]


def _cache_folders(machine: Machine) -> list[Path]:
    from maml_tf.tasks.images import omniglot

    return list(omniglot.cache_folders(machine.data_dir))


PROBLEM = image_problem(
    "omniglot",
    "Omniglot",
    shape=(28, 28, 1),
    episodes=_episodes,
    data="Its drawings: Lake, Salakhutdinov & Tenenbaum 2015, MIT.",
    require_data=_require_data,
    prepared=_prepared,
    cache_folders=_cache_folders,
)
