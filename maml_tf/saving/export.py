"""Exports any learner as a SavedModel, which runs on TensorFlow alone."""

from __future__ import annotations

import os
from typing import Any

from maml_tf import arguments
from maml_tf.saving.saved_models import replacing, tracing_to_save, write
from maml_tf.types import Learner


def export(learner: Learner[Any], directory: str | os.PathLike[str], **options: Any) -> None:
    """Writes `learner` as a SavedModel, and beside it `maml_tf.json`, which says what it is.

    The directory appears whole or not at all: it is written beside its place and moved there. An
    earlier export in that place is replaced; anything else is left alone.

    Args:
      learner: what to export, with its weights as they are now.
      directory: where to; it and its parents are created.
      **options: those of `learner.servable`: `steps` and `step_size`, defaults of the exported
        model, and others.

    Raises:
      ValueError: `learner` is no learner, an option is out of range, or the directory holds
        something else than an export.
      OSError: nothing can be written there.
    """
    arguments.learner(learner, ("servable",))
    with replacing(directory) as place:
        with tracing_to_save():
            module, signatures, description = learner.servable(**options)
        write(place, module, signatures, description)
