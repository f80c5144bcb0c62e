"""CIFAR-FS and FC100: CIFAR-100 by classes, in the two published ways."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from maml_tf.experiments.image_problem import image_problem

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Machine
    from maml_tf.tasks import Episodes

ORDER = 3


def _episodes(maker: str, data_dir: str | None, split: str, **options) -> Episodes:
    from maml_tf import tasks

    return getattr(tasks, maker)(data_dir, split, **options)


def _require_data(machine: Machine) -> None:
    from maml_tf.tasks.images import cifar100

    cifar100.require(machine.data_dir or None, download=machine.download)


def _prepared(machine: Machine) -> list[Path | None]:
    from maml_tf.tasks.images import cache, cifar100

    images, _ = cifar100.cifar100_images(machine.data_dir or None, download=machine.download)
    return [cache.file_of(images)]


def _cache_folders(machine: Machine) -> list[Path]:
    from maml_tf.tasks.images import cifar100

    return cifar100.cache_folders(machine.data_dir or None)


PROBLEMS = tuple(
    image_problem(
        name,
        title,
        shape=(32, 32, 3),
        episodes=functools.partial(_episodes, f"{name}_episodes"),
        data="Its images: Krizhevsky 2009, who states no licence.",
        defaults={"queries": 15, "clip": 10.0},
        require_data=_require_data,
        prepared=_prepared,
        cache_folders=_cache_folders,
    )
    for name, title in (("cifar_fs", "CIFAR-FS"), ("fc100", "FC100"))
)
