"""Images of one's own: a folder that holds a folder for each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maml_tf.experiments.image_problem import image_problem

if TYPE_CHECKING:
    from maml_tf.experiments.settings import Machine, Training
    from maml_tf.tasks import Episodes

ORDER = 4


def _shape(training: Training) -> tuple[int, int, int]:
    from maml_tf.tasks.images import decoding

    return training.image_size, training.image_size, decoding.CHANNELS[training.color]


def _episodes(data_dir: str | None, split: str, *, download: bool, **options) -> Episodes:
    from maml_tf.tasks import Episodes

    del download
    return Episodes.from_directory(data_dir or "", split=split, **options)


def _require_data(machine: Machine) -> None:
    from maml_tf.tasks.images import folders

    if machine.download:
        raise ValueError("--problem=folder reads your own images; drop --download.")
    if not machine.data_dir:
        raise FileNotFoundError(
            "--problem=folder needs --data_dir=FOLDER, with a folder per class."
        )
    folders.find(machine.data_dir)


PROBLEM = image_problem(
    "folder",
    "Folder of images",
    shape=_shape,
    episodes=_episodes,
    data="Its images: your own.",
    require_data=_require_data,
    reads=("image_size", "color"),
)
