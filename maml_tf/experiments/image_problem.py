"""Problems of N-way classification of images: what they share, so that a new one is a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    shape: tuple[int, int, int],
    episodes: Callable[..., Episodes],
    dense: bool = True,
    defaults: Mapping[str, SettingValue] | None = None,
    require_data: Callable[[Machine], None] | None = None,
    prepared: Callable[[Machine], list[Path | None]] | None = None,
    cache_folders: Callable[[Machine], list[Path]] | None = None,
) -> Problem:
    """Makes the record of a data set of images.

    Args:
      name: value of --problem, and the beginning of its experiments' names.
      title: how figures, tables and messages call it.
      shape: `[height, width, channels]` of an image.
      episodes: `(data_dir, split, *, ways, shots, queries, seed, download) -> Episodes`; `data_dir`
        is None where the user names none.
      dense: whether --conv=False is allowed: the paper's dense network.
      defaults: of derived settings, where they are not those of classification.
      require_data: see `Problem`.
      prepared: see `Problem`.
      cache_folders: see `Problem`.
    """

    def network(training: Training, classes: int) -> keras.Model:
        from maml_tf import networks

        if not training.conv:
            return networks.dense_network(shape, classes, (256, 128, 64, 64), **_common(training))
        return networks.conv_network(
            shape,
            classes,
            filters=training.filters,
            max_pool=training.max_pool,
            **_common(training),
        )

    def tasks(settings: Settings, split: str) -> Episodes:
        from maml_tf.experiments.settings import query_shots

        training, machine = settings.training, settings.machine
        shots = training.shots if split == "train" else settings.evaluation.shots
        return episodes(
            machine.data_dir or None,
            split,
            ways=training.ways,
            shots=shots,
            queries=query_shots(settings, shots),
            seed=training.seed,
            download=machine.download,
        )

    def check(training: Training) -> None:
        if not training.conv and not dense:
            raise ValueError(f"{title}'s network is convolutional; drop --conv=False.")

    return Problem(
        name=name,
        title=title,
        kind=Kind.CLASSIFICATION,
        reads=supervised.SHARED
        | {"ways", "classes", "loss_reduction", "filters", "conv", "max_pool"},
        defaults=defaults or {},
        experiment=lambda training: f"{name}_{training.ways}way_{training.shots}shot",
        check=check,
        network=network,
        tasks=tasks,
        require_data=require_data,
        prepared=prepared,
        cache_folders=cache_folders,
    )


def _common(training: Training) -> dict:
    return {
        "norm": training.norm,
        "context": METHODS[training.method].adapts == "context",
        "head_stddev": training.head_stddev,
        "seed": training.seed,
    }
