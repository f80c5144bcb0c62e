"""SavedModels on disk: whole or not at all, with a description beside them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import save_context

from maml_tf import arguments
from maml_tf.system import checksums
from maml_tf.system.files import refuse_pattern, replacing_directory, unwritable, user_path

SAVED_MODEL = "saved_model.pb"
SIDECAR = "maml_tf.json"
_OPTIONS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)


def write(
    place: Path, module: tf.Module, signatures: dict[str, Any], description: dict[str, Any]
) -> None:
    """Writes a module whose functions are made, and beside it `maml_tf.json`.

    Args:
      place: an existing directory, such as `replacing` gives.
      module: what to save.
      signatures: of the SavedModel.
      description: what `maml_tf.json` says.
    """
    tf.saved_model.save(module, str(place), signatures=signatures, options=_OPTIONS)
    _forget_custom_gradients(place / SAVED_MODEL)
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
    if not (place / SAVED_MODEL).is_file():
        raise FileNotFoundError(f"No export in {place}: no {SAVED_MODEL} there.")
    try:
        checksums.verify(place / checksums.SUMS, [SAVED_MODEL, SIDECAR])
        return tf.saved_model.load(str(place))
    except (checksums.Damaged, tf.errors.OpError, OSError, UnicodeDecodeError) as error:
        told = str(error).splitlines()[0]
        raise ValueError(f"{place} cannot be loaded: {told} Export it again.") from error


def tracing_to_save() -> contextlib.AbstractContextManager[None]:
    """Where functions are traced that `write` saves: traced elsewhere they would be once more."""
    return save_context.save_context(_OPTIONS)


def checked_step_size(learner: Any, steps: int, step_size: float | None) -> float:
    """An export's default alpha: the given one, else the learner's own; NaN: the meta-learned.

    Raises:
      ValueError: alpha, or the default number of gradient steps beside it, is out of range.
    """
    arguments.count("steps", steps, 0)
    if step_size is None:
        return math.nan if learner.step_sizes else learner.step_size
    return arguments.positive("step_size", step_size)


def unique_names(paths: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Names of weights that can stand beside the inputs `taken` of a signature: unique ones."""
    names = list(taken)
    for path in paths:
        base = name = re.sub(r"\W+", "_", path).strip("_")
        count = 1
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names[len(taken) :]


def given_or_learned(
    step_size: tf.Tensor, weights: dict[str, Any], learned: dict[str, Any]
) -> tf.Tensor | list[tf.Tensor]:
    """Alpha in a graph: the given one, or where it is NaN the meta-learned ones, if there are any.

    Args:
      step_size: `[]`.
      weights: all weights by name.
      learned: the meta-learned step sizes of those that adapt, by the same names.

    Returns:
      One number, or one tensor a weight.
    """
    if not learned:
        return step_size
    alphas = []
    for name, weight in weights.items():
        given, own = tf.cast(step_size, weight.dtype), learned.get(name)
        alphas.append(given if own is None else tf.where(tf.math.is_nan(step_size), own, given))
    return alphas


@contextlib.contextmanager
def replacing(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a new directory to write in, and moves what is in it to `directory` at the end.

    When the body fails, what was written is removed and `directory` is as it was.

    Raises:
      ValueError: the directory is not local, TensorFlow could not read from it, or it holds
        something else than an export.
      OSError: nothing can be written there.
    """
    given = user_path(directory, "directory")
    refuse_pattern(given)
    place = Path(os.path.realpath(given))
    refuse_pattern(place)
    _check_replaceable(place)
    with replacing_directory(place, SIDECAR, SAVED_MODEL) as staging:
        try:
            yield staging
        except tf.errors.OpError as error:
            raise unwritable(place, error) from error


def _check_replaceable(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise ValueError(f"'{place}' is a file; choose a directory.")
    if place.is_dir() and not (place / SIDECAR).is_file():
        names = os.listdir(place)
        if [name for name in names if not name.startswith(".") and name != "lost+found"]:
            raise ValueError(
                f"'{place}' holds files that are not an export of maml_tf; choose an empty or new "
                "directory."
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
