"""Exports on disk: whole or not at all, with a description beside them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import save_context

from maml_tf.system import checksums
from maml_tf.system.files import (
    refuse_pattern,
    replacing_directory,
    replacing_file,
    unwritable,
    user_path,
)

SAVED_MODEL = "saved_model.pb"
LITERT = "model.tflite"
STABLEHLO = "adapt.jax"
FORMATS = {"saved_model": SAVED_MODEL, "litert": LITERT, "stablehlo": STABLEHLO}
"""What is exported, and the file by which it is known."""
SUFFIX = ".tflite"
"""Of a path that names a file for LiteRT, not a directory."""
SIDECAR = "maml_tf.json"
_OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)


def write(
    place: Path,
    module: tf.Module,
    signatures: Mapping[str, Callable],
    description: Mapping[str, Any],
) -> None:
    """Writes a module whose functions are made, and beside it `maml_tf.json`.

    Args:
      place: an existing directory, such as `replacing` gives.
      module: what to save.
      signatures: of the SavedModel.
      description: what `maml_tf.json` says.
    """
    save(place, module, signatures)
    describe(place, description)


def save(place: Path, module: tf.Module, signatures: Mapping[str, Callable]) -> None:
    """Writes a SavedModel alone into an existing directory."""
    with _without_notices():
        tf.saved_model.save(module, str(place), signatures=signatures, options=_OPTIONS)
    _forget_custom_gradients(place / SAVED_MODEL)


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """While TensorFlow would tell where it writes: a directory that is moved from there."""
    logger = tf.get_logger()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def describe(place: Path, description: Mapping[str, Any]) -> None:
    """Writes `maml_tf.json` into an export."""
    text = json.dumps(description, indent=2, allow_nan=False) + "\n"
    (place / SIDECAR).write_text(text, encoding="utf-8")


def load_export(directory: str | os.PathLike[str]) -> Any:
    """Loads an export whose files are as they were written.

    It is `tf.saved_model.load` after a comparison of checksums, for where this package is at hand.
    Elsewhere `sha256sum --check SHA256SUMS` compares them.

    Args:
      directory: that `export` wrote.

    Returns:
      The loaded model, with `adapt`, `predict` and the others that `export` describes.

    Raises:
      FileNotFoundError: there is no export.
      ValueError: one of its files is not as it was written, or TensorFlow could not read there.
    """
    place = user_path(directory, "directory")
    refuse_pattern(place)
    if (place / LITERT).is_file():
        raise ValueError(f"{place} holds a file for LiteRT; load it by LiteRT's interpreter.")
    if not (place / SAVED_MODEL).is_file():
        raise FileNotFoundError(f"No export in {place}: no {SAVED_MODEL} there.")
    try:
        checksums.verify(place / checksums.SUMS, [SAVED_MODEL, SIDECAR])
        return tf.saved_model.load(str(place))
    except (checksums.Damaged, tf.errors.OpError, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{place} cannot be loaded: {reason} Export it again.") from error


def tracing_to_save() -> contextlib.AbstractContextManager[None]:
    """Where functions are traced that `write` saves: traced elsewhere they would be once more."""
    return save_context.save_context(_OPTIONS)


@contextlib.contextmanager
def replacing(directory: str | os.PathLike[str], model: str = SAVED_MODEL) -> Iterator[Path]:
    """Gives a new directory to write in, and moves what is in it to `directory` at the end.

    When the body fails, what was written is removed, and `directory` and its parents are as they
    were.

    Args:
      directory: the place. One that ends in `.tflite` is a file's, if that is what is written, and
        what is given is a path to write that file to.
      model: the file without which the directory is no export of its format.

    Raises:
      ValueError: the directory is not local, TensorFlow could not read from it, or it holds
        something else than an export of this format.
      OSError: nothing can be written there.
    """
    given = user_path(directory, "directory")
    refuse_pattern(given)
    place = Path(os.path.realpath(given))
    refuse_pattern(place)
    alone = model == LITERT and place.suffix == SUFFIX and not place.is_dir()
    if not alone:
        _check_replaceable(place, model)
    missing = [parent for parent in place.parents if not parent.exists()]
    try:
        written = replacing_file(place) if alone else replacing_directory(place, SIDECAR, model)
        with written as staging:
            yield staging
    except Exception as error:
        for parent in missing:
            with contextlib.suppress(OSError):  # It holds what somebody else wrote meanwhile.
                parent.rmdir()
        if isinstance(error, tf.errors.OpError):
            raise unwritable(place, error) from error
        raise


def _check_replaceable(place: Path, model: str) -> None:
    if place.exists() and not place.is_dir():
        raise ValueError(f"'{place}' is a file; choose a directory.")
    if not place.is_dir():
        return
    if not (place / SIDECAR).is_file():
        names = os.listdir(place)
        if [name for name in names if not name.startswith(".") and name != "lost+found"]:
            raise ValueError(
                f"'{place}' holds files that are not an export of maml_tf; choose an empty or new "
                "directory."
            )
    for name, file in FORMATS.items():
        if file != model and (place / file).is_file():
            raise ValueError(
                f"'{place}' holds an export of the format {name}; choose another directory."
            )


def _forget_custom_gradients(path: Path) -> None:
    """Removes the names of custom gradients, which live in this process alone.

    They are not needed: the inner loop's gradients are in the graph. Left in, TensorFlow warns of
    each when it loads the model, and a derivative through it fails.
    """
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta_graph in saved.meta_graphs:
        for function in meta_graph.graph_def.library.function:
            for node in function.node_def:
                node.attr.pop("_gradient_op_type", None)
    path.write_bytes(saved.SerializeToString(deterministic=True))
