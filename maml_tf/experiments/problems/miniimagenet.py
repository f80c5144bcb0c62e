"""MiniImagenet (paper section 5.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maml_tf.experiments.image_problem import image_problem

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Machine
    from maml_tf.tasks import Episodes

ORDER = 2


def _episodes(data_dir: str | None, split: str, **options) -> Episodes:
    from maml_tf.tasks import miniimagenet_episodes

    return miniimagenet_episodes(data_dir, split, **options)


def _require_data(machine: Machine) -> None:
    from maml_tf.tasks.images import miniimagenet

    miniimagenet.require(machine.data_dir or None, download=machine.download)


def _prepared(machine: Machine) -> list[Path | None]:
    from maml_tf.tasks.images import cache, miniimagenet

    splits = (
        miniimagenet.miniimagenet_images(machine.data_dir, split, download=machine.download)
        for split in ("train", "val", "test")
    )
    return [cache.file_of(split.images) for split in splits]


def _cache_folders(machine: Machine) -> list[Path]:
    from maml_tf.tasks.images import miniimagenet

    return list(miniimagenet.cache_folders(machine.data_dir))


PROBLEM = image_problem(
    "miniimagenet",
    "MiniImagenet",
    shape=(84, 84, 3),
    episodes=_episodes,
    data="Its images: ImageNet's, for research that is not commercial.",
    dense=False,
    defaults={"queries": 15, "clip": 10.0},
    require_data=_require_data,
    prepared=_prepared,
    cache_folders=_cache_folders,
)
