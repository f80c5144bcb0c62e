"""Problems of N-way classification of images: what they share, so that a new one is a few lines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from maml_tf.experiments import supervised
from maml_tf.experiments.methods import METHODS
from maml_tf.experiments.records import Kind, Problem, SettingValue

if TYPE_CHECKING:
    import keras

    from maml_tf.experiments.settings import Machine, Settings, Training
    from maml_tf.tasks import Episodes


def image_problem(
    name: str,
    title: str,
    *,
    shape: tuple[int, int, int] | Callable[[Training], tuple[int, int, int]],
    episodes: Callable[..., Episodes],
    dense: bool = True,
    data: str = "",
    defaults: Mapping[str, SettingValue] | None = None,
    require_data: Callable[[Machine], None] | None = None,
    prepared: Callable[[Machine], list[Path | None]] | None = None,
    cache_folders: Callable[[Machine], list[Path]] | None = None,
    reads: Iterable[str] = (),
    check: Callable[[Training], None] | None = None,
) -> Problem:
    """Makes the record of a data set of images.

    Args:
      name: value of --problem, and the beginning of its experiments' names.
      title: how figures, tables and messages call it.
      shape: `(height, width, channels)` of an image, or from the settings to that.
      episodes: `(data_dir, split, *, ways, shots, queries, seed, download) -> Episodes`; `data_dir`
        is None where the user names none, and `shots` of a training may be (low, high).
      dense: whether --conv=False is allowed: the paper's dense network.
      data: see `Problem`.
      defaults: of derived settings, where they are not those of classification.
      require_data: see `Problem`.
      prepared: see `Problem`.
      cache_folders: see `Problem`.
      reads: training settings of its own, which `episodes` is given by name.
      check: see `Problem`.
    """
    own = frozenset(reads)

    def tasks(settings: Settings, split: str) -> Episodes:
        from maml_tf.experiments.settings import query_shots

        training, machine = settings.training, settings.machine
        ways, shots = training.ways, training.shots
        if split != "train":
            ways, shots = settings.evaluation.ways, settings.evaluation.shots
        return episodes(
            machine.data_dir or None,
            split,
            ways=ways,
            shots=shots,
            queries=query_shots(settings, shots),
            seed=training.seed,
            download=machine.download,
            **{name: getattr(training, name) for name in own},
        )

    def check_all(training: Training) -> None:
        if not training.conv and not dense:
            raise ValueError(f"{title}'s network is convolutional; drop --conv=False.")
        if check is not None:
            check(training)

    return Problem(
        name=name,
        title=title,
        kind=Kind.CLASSIFICATION,
        reads=supervised.SHARED
        | {"ways", "classes", "loss_reduction", "filters", "conv", "max_pool", "test_ways"}
        | {"head_initialization"}
        | own,
        data=data,
        defaults=defaults or {},
        experiment=lambda training: f"{name}_{training.ways}way_{training.shots}shot",
        check=check_all,
        network=functools.partial(_network, shape),
        tasks=tasks,
        require_data=require_data,
        prepared=prepared,
        cache_folders=cache_folders,
    )


def _network(shape, training: Training, classes: int) -> keras.Model:
    from maml_tf import networks

    size = shape(training) if callable(shape) else shape
    if not training.conv:
        return networks.dense_network(size, classes, (256, 128, 64, 64), **_common(training))
    return networks.conv_network(
        size,
        classes,
        filters=training.filters,
        max_pool=training.max_pool,
        **_common(training),
    )


def _common(training: Training) -> dict:
    return {
        "norm": training.norm,
        "context": METHODS[training.method].adapts == "context",
        "head_stddev": training.head_stddev,
        "seed": training.seed,
    }
