"""A learner's weights as one file: Keras' own weights file, and in it what Keras does not know.

`<name>.weights.h5` is what `model.save_weights` writes, so that `model.load_weights` reads it
without this package. A group `maml_tf` beside the model's holds the rest of the learner's state,
such as meta-learned step sizes, and a description of the network. A release's file has such a group
only for what is meta-learned beside the model's weights; one without is read as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import keras
import numpy as np

from maml_tf.saving.descriptions import contradictions, describe, network_of
from maml_tf.saving.names import ENDING, WEIGHTS_FILE
from maml_tf.system import checksums
from maml_tf.system.files import replacing_file, require_room, unwritable, user_path

_GROUP = "maml_tf"
_OVERHEAD = 4096  # bytes of a group or a data set beside its values, at most


class Stateful(Protocol):
    """What can be kept in such a file."""

    @property
    def model(self) -> keras.Model:
        """Whose weights Keras' own file holds."""
        ...

    @property
    def state(self) -> list[keras.Variable]:
        """All that is kept, the model's among them; in a fixed order."""
        ...


class Saved:
    """A learner with a `model` and a `state` that a file keeps."""

    def save(self: Stateful, path: str | Path) -> None:
        """Writes the model's weights and what else was learned, such as step sizes, as one file.

        Args:
          path: `<name>.weights.h5`, replaced whole or not at all; `model.load_weights` reads it
            too. The optimizer is not kept: to go on training, give `train` its `logdir`.

        Raises:
          ValueError: another ending.
          OSError: nothing can be written there.
        """
        save(self, path)

    def load(self: Stateful, path: str | Path) -> None:
        """Puts what `save` wrote into this learner, made by the same code; in place.

        Args:
          path: `<name>.weights.h5`, or the directory of a release.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is another network's, or cannot be read; the learner is as it was.
        """
        load(self, path)


class Released:
    """What a release keeps of a learner: the model's weights, and what is meta-learned beside."""

    def __init__(self, learner: Any):
        """Looks at a learner; copies nothing."""
        self.model: keras.Model = learner.model
        inner, running = getattr(learner, "inner", None), getattr(learner, "running", None)
        self.beside: Sequence[keras.Variable] = [
            *(inner.beside if inner else ()),
            *(running.variables if running else ()),
        ]

    @property
    def state(self) -> list[keras.Variable]:
        """All that is kept."""
        return [*self.model.variables, *self.beside]


def save(learner: Stateful, path: str | Path) -> None:
    """Writes a learner's weights and what else it learned, whole or not at all.

    Args:
      learner: with a `model` and a `state`; its optimizer is not kept.
      path: a file `<name>.weights.h5`, which is replaced.

    Raises:
      ValueError: another ending.
      OSError: nothing can be written there.
    """
    path = user_path(path, "path")
    if not path.name.endswith(ENDING):
        raise ValueError(f"A learner is kept as a file <name>{ENDING}; write to {path}{ENDING}.")
    with replacing_file(path) as staging:
        beside = sum(np.asarray(v).nbytes for v in _beside_the_model(learner))
        save_model_weights(learner.model, staging, beside)
        with h5py.File(staging, "r+") as file:
            group = file.create_group(_GROUP)
            group["description"] = json.dumps(describe(learner))
            for index, variable in enumerate(_beside_the_model(learner)):
                group[f"state/{index:03d}"] = _storable(np.asarray(variable))
            group.attrs["sha256"] = _digest(file)


def save_release(learner: Any, path: Path) -> None:
    """Writes what a release keeps: Keras' own file, and in it step sizes and others, if learned.

    Args:
      learner: whose weights.
      path: where to.

    Raises:
      OSError: it cannot be written.
    """
    kept = Released(learner)
    if kept.beside:
        save(kept, path)
    else:
        save_model_weights(kept.model, path)


def load_release(learner: Any, path: Path, *, begins: bool) -> None:
    """Puts a release's weights into a learner, and what is learned beside them if both have such.

    Args:
      learner: whose weights are replaced.
      path: the release's file.
      begins: whether a training begins there, which may leave out step sizes and others; to
        evaluate the release takes them all.

    Raises:
      ValueError: they are another network's, or of another kind of step sizes.
      Exception: Keras and h5py name no types for what may be wrong with a file.
    """
    if _read(path)[1] and (Released(learner).beside or not begins):
        load(learner, path)
    else:
        learner.model.load_weights(path)
        learner.inner.begin_anew()
        if getattr(learner, "running", None):
            learner.running.begin_anew()


def save_model_weights(model: keras.Model, path: Path, size: int = 0) -> None:
    """Writes Keras' own weights file.

    Args:
      model: whose weights.
      path: where to.
      size: bytes that will be added to it.

    Raises:
      OSError: there is no room. It is asked for first: HDF5 fails in the middle, and again whenever
        one of its objects goes.
    """
    variables = model.variables
    size += sum(np.asarray(v).nbytes for v in variables) + _OVERHEAD * (len(variables) + 8)
    require_room(path, size)
    try:
        model.save_weights(path)
    except (OSError, RuntimeError) as error:
        raise unwritable(path, error) from error


def load(learner: Stateful, path: str | Path) -> None:
    """Puts what `save` wrote, or a release's weights, into a learner made by the same code.

    The optimizer stays as it is.

    Args:
      learner: whose weights and step sizes are replaced.
      path: a file `<name>.weights.h5`, or a release's directory.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it cannot be read, or is another network's; the learner is as it was.
    """
    path = user_path(path, "path")
    path = path / WEIGHTS_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"No weights in {path}; `learner.save` writes them.")
    try:
        if path.name == WEIGHTS_FILE:
            checksums.verify(path.with_name(checksums.SUMS), [WEIGHTS_FILE])
        described, values = _read(path)
    except Exception as error:  # h5py names no types for what may be wrong with a file
        raise ValueError(f"{path} cannot be read ({_in_a_line(error)}); save it again.") from error
    learner = Released(learner) if path.name == WEIGHTS_FILE else learner
    beside = _beside_the_model(learner)
    _check(path, learner, described, beside, values)
    before = [np.asarray(variable) for variable in learner.state]
    try:
        learner.model.load_weights(path)
        for variable, value in zip(beside, values, strict=True):
            variable.assign(value)
    except Exception as error:  # Keras names no types for what may be wrong with a file.
        for variable, kept in zip(learner.state, before, strict=True):
            variable.assign(kept)
        raise ValueError(
            f"{path} does not fit this network ({_in_a_line(error)}); make the learner by the "
            "code that saved it."
        ) from error


def _read(path: Path) -> tuple[dict[str, Any] | None, list[np.ndarray]]:
    """The description, if there is one, and the values that are not the model's."""
    with h5py.File(path, "r") as file:
        if _GROUP not in file:
            return None, []
        group = file[_GROUP]
        if "sha256" in group.attrs and group.attrs["sha256"] != _digest(file):
            raise ValueError("its contents are not as they were written")
        stored = group.get("state", {})
        described = json.loads(group["description"].asstr()[()])
        return described, [stored[name][()] for name in sorted(stored)]


def _digest(file: h5py.File) -> str:
    """SHA-256 of all that an opened file holds, whatever the order in which it lies there."""
    digest = hashlib.sha256()
    names: list[str] = []
    file.visit(names.append)
    for name in sorted(names):
        digest.update(name.encode())
        if isinstance(item := file[name], h5py.Dataset):
            value = item.asstr()[()].encode() if item.dtype.kind == "O" else item[()].tobytes()
            digest.update(f"{item.dtype} {item.shape}".encode() + value)
    return digest.hexdigest()


def _check(
    path: Path,
    learner: Stateful,
    described: dict[str, Any] | None,
    beside: Sequence[keras.Variable],
    values: Sequence[np.ndarray],
) -> None:
    if len(values) != len(beside):
        raise ValueError(
            f"{path} holds {len(values)} arrays beside the model's weights and this learner "
            f"{len(beside)} (meta-learned step sizes, for one); make the learner with the options "
            "of the one that was saved, such as learn_step_size, per_step_normalization and "
            "running_statistics."
        )
    mine = network_of(describe(learner))
    others = contradictions(network_of(described), mine) if described else []
    shapes = [(value.shape, tuple(v.shape)) for value, v in zip(values, beside, strict=True)]
    different = [f"{there}, and here {here}" for there, here in shapes if there != here]
    if different and len(others) == len(different):  # the networks are the same
        raise ValueError(
            f"{path} holds other arrays beside the model's weights than this learner: of shape "
            f"{different[0]}; make the learner with the learn_step_size, per_step_normalization, "
            "running_statistics and inner_steps of the one that was saved."
        )
    if others:
        raise ValueError(
            f"{path} holds another network: {'; '.join(others[:3])}. Make the learner by the code "
            "that saved it."
        )


def _beside_the_model(learner: Stateful) -> list[keras.Variable]:
    """What the learner's state holds and a weights file of its model does not."""
    stored = {id(variable) for variable in learner.model.variables}
    return [variable for variable in learner.state if id(variable) not in stored]


def _storable(value: np.ndarray) -> np.ndarray:
    # HDF5 has no bfloat16.
    return value.astype(np.float32) if value.dtype.kind == "V" else value


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
