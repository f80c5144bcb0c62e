"""Exports any learner: a SavedModel, a file for LiteRT, or programs for JAX."""

from __future__ import annotations

import logging
import os
from typing import Any

from maml_tf import arguments
from maml_tf.engine.workers import Workers
from maml_tf.saving import litert, stablehlo
from maml_tf.saving.saved_models import (
    FORMATS,
    LITERT,
    SAVED_MODEL,
    STABLEHLO,
    SUFFIX,
    describe,
    replacing,
    tracing_to_save,
    write,
)
from maml_tf.types import Learner

_LOG = logging.getLogger(__name__)


def export(
    learner: Learner[Any],
    directory: str | os.PathLike[str],
    *,
    format: str = "saved_model",  # noqa: A002
    **options: Any,
) -> None:
    """Writes `learner` to be used elsewhere, and beside it `maml_tf.json`, which says what it is.

    "saved_model" runs on TensorFlow alone, and takes sets of any size. "litert" is one file,
    `model.tflite`, for LiteRT (TensorFlow Lite) on phones and boards, with the same signatures for
    sets of the sizes that are given here; `maml_tf.json` says which of its operations need
    TensorFlow Select, if any. "stablehlo" is for JAX, which then runs, on any processor that it
    knows, `meta_step.jax` too; see docs/stablehlo.md.

    The directory appears whole or not at all: it is written beside its place and moved there. An
    earlier export in that place is replaced; anything else is left alone. Of several workers, which
    all have to call this, the chief writes.

    Args:
      learner: what to export, with its weights as they are now.
      directory: where to; it and its parents are created. For LiteRT a name that ends in `.tflite`
        is that of the file, which is then written alone.
      format: "saved_model", "litert" or "stablehlo".
      **options: those of `learner.servable`, or for the others of `learner.portable`: `steps` and
        `step_size`, of a SavedModel only defaults; for the others `support_examples`,
        `query_examples`, `transductive`; and more.

    Raises:
      ValueError: `learner` is no learner, or of a kind that has not this format; an option is out
        of range; an operation cannot be converted; JAX, for "stablehlo", is not installed; or the
        directory holds something else than an export.
      OSError: nothing can be written there.
    """
    if format not in FORMATS:
        known = " or ".join(map(repr, FORMATS))
        raise ValueError(f"format must be {known}; not {arguments.shown(format)}.")
    workers = Workers(getattr(learner, "strategy", None))
    workers.by_chief(lambda: _export(learner, directory, format, options))


def _export(
    learner: Learner[Any], directory: str | os.PathLike[str], format: str, options: dict[str, Any]
) -> None:
    if format == "saved_model":
        arguments.learner(learner, ("servable",))
        with replacing(directory, SAVED_MODEL) as place:
            with tracing_to_save():
                module, signatures, description = learner.servable(**options)
            write(place, module, signatures, description)
        return
    if format == "stablehlo":
        if not hasattr(learner, "programs"):
            raise ValueError(
                f"{type(learner).__name__} has no programs for JAX, MetaLearner has; export a "
                "SavedModel."
            )
        stablehlo.require_jax()
        with replacing(directory, STABLEHLO) as place:
            stablehlo.write(place, learner.programs(**options))
        return
    arguments.learner(learner, ("portable",))
    with replacing(directory, LITERT) as place:
        with tracing_to_save():
            servable = learner.portable(**options)  # type: ignore[attr-defined]  # just asked
        converted, select = litert.convert(servable)
        if place.suffix == SUFFIX:
            place.write_bytes(converted)
        else:
            (place / LITERT).write_bytes(converted)
            describe(place, {**servable.description, "select": select})
    if select:
        _LOG.warning("The file needs TensorFlow Select, for %s.", ", ".join(select))
