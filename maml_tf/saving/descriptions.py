"""What a learner is, as plain data: whether a run may go on, and whether a file's weights fit.

The same code gives the same description in any process: Keras counts up the names of layers,
optimizers and variables, so none of these names is in it. What cannot be read, such as the body of
a function, is left out, and what only one of two descriptions holds is not compared: another
version of Keras or of this package may know more.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

SETTINGS = (
    ("inner_steps", "step_size", "meta_batch_size", "first_order", "clip", "clip_norm")
    + ("query_weight", "metric_name", "lower_is_better", "dropout", "penalty", "pull")
    + ("learn_step_size", "multi_step_loss", "second_order_after", "per_step_normalization")
    + ("running_statistics", "head_initialization", "inner_clip", "imaml_lambda", "cg_steps")
    + ("head", "discount", "gae_lambda", "max_kl", "damping", "curvature", "curvature_share")
    + ("sampling_correction", "epochs", "minibatches", "clip_ratio")
)
"""Attributes of a learner that change what is learned, or which weights are best."""

TASKS = ("seed", "split", "ways", "shots", "queries", "rotations", "scale") + (
    "oracle",
    "half",
    "fixed",
    "batch_size",
    "episodes",
    "horizon",
)
"""Attributes of a task source that say which tasks it draws."""

LONG = 32
"""A list of more values, such as a vocabulary, is described by their hash."""

_NAMES = ("name", "module", "registered_name", "build_config", "dtype", "seed")
_NETWORK = ("layers", "weights")


def describe(learner: Any, tasks: Any = None) -> dict[str, Any]:
    """Describes a learner, and where its tasks come from, in what JSON can hold.

    Args:
      learner: a `Learner`; what it lacks is left out.
      tasks: its source of tasks.

    Returns:
      Nested dictionaries and lists of plain values.
    """
    loss = getattr(learner, "loss", getattr(learner, "inner_loss", None))
    optimizer, model = getattr(learner, "optimizer", None), getattr(learner, "model", None)
    described = {
        "learner": type(learner).__name__,
        **_attributes(learner, SETTINGS),
        "loss": _callable(loss),
        "inner_optimizer": _callable(getattr(learner, "inner_optimizer", None)),
        "optimizer": _object(optimizer) if optimizer is not None else None,
        "adapts": [bool(own) for own in getattr(learner, "adapts", [])],
        "learned_step_sizes": len(getattr(learner, "step_sizes", [])),
        "weights": [_weight(variable) for variable in learner.state],
        "tasks": _attributes(tasks, TASKS),
    }
    if model is not None:
        described["layers"] = [_layer(layer) for layer in _layers(model)]
    return described


def network_of(described: dict[str, Any]) -> dict[str, Any]:
    """What weights must fit, of what `describe` gave: the layers' classes, the weights' shapes."""
    layers = [{"class": layer["class"]} for layer in described.get("layers", [])]
    weights = [f"{w['kind']} {w['shape']}" for w in described["weights"]]
    return {"layers": layers, "weights": weights}


def contradictions(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What `saved` and `now` both say, and say otherwise: each as "name=old, now new"."""
    # The first two decide which weights there are.
    first = ("learn_step_size", "per_step_normalization", "running_statistics", *_NETWORK)
    rest = [key for key in saved if key not in first]
    both = [key for key in (*first, *rest) if key in saved and key in now]
    return [d for key in both for d in _differences(saved[key], now[key], key)]


def of_the_network(contradiction: str) -> bool:
    """Whether it is about the layers or the shapes of the weights."""
    return contradiction.startswith(_NETWORK)


def kind(name: str) -> str:
    """The last word of a variable's name, without Keras' counters: "adam_1_dense_3_bias": "bias".

    It is the same in every process, and tells a kernel from a bias and a momentum from a velocity.
    """
    word = re.sub(r"\W", "_", name.split("/")[-1])
    return re.sub(r"(_\d+)+$", "", word).rsplit("_", 1)[-1]


def _weight(variable: keras.Variable) -> dict[str, Any]:
    return {
        "kind": kind(variable.name),
        "shape": list(variable.shape),
        "dtype": keras.backend.standardize_dtype(variable.dtype),
    }


def _layers(model: keras.Model) -> list[keras.Layer]:
    """All layers at any depth; models, which only hold others, are left out."""
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def _layer(layer: keras.Layer) -> dict[str, Any]:
    return {**_object(layer), "dtype": layer.dtype_policy.name}


def _object(thing: Any) -> dict[str, Any]:
    """Class and settings of what Keras can serialise; a class alone of what it cannot."""
    try:
        config = thing.get_config()
    except Exception:  # A user's class: no `get_config`, or one that fails.
        config = {}
    return {"class": type(thing).__name__, **_plain_items(config)}


def _callable(thing: Any) -> Any:
    thing = getattr(thing, "made_of", thing)  # of an `Objective`: what the user gave
    if thing is None or isinstance(thing, str):
        return thing
    if isinstance(thing, dict):
        return {str(name): _callable(part) for name, part in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_callable(part) for part in thing]
    if callable(thing):
        thing = inspect.unwrap(thing)
    if isinstance(thing, functools.partial):
        return {"class": "partial", "of": _callable(thing.func), **_plain_items(thing.keywords)}
    if hasattr(thing, "get_config"):
        return _object(thing)
    return getattr(thing, "__name__", type(thing).__name__)


def _attributes(thing: Any, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: getattr(thing, name, ...) for name in names}
    return {name: _plain(value) for name, value in found.items() if _is_simple(value)}


def _is_simple(value: Any) -> bool:
    """Whether it is one plain value, or a range of sizes."""
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_simple, value))
    return isinstance(value, (bool, int, float, str, type(None), np.generic))


def _plain_items(config: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _plain(value)
        for key, value in config.items()
        if key not in _NAMES and not str(key).endswith("initializer")
    }


def _plain(value: Any) -> Any:
    """A value of a configuration as JSON: numbers to seven digits, as float32 knows them."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        plain = [_plain(item) for item in value]
        return _hash(plain) if len(plain) > LONG else plain
    if isinstance(value, dict) and "class_name" in value:
        return _serialised(value["class_name"], value.get("config"))
    return _plain_items(value) if isinstance(value, dict) else type(value).__name__


def _serialised(name: str, config: Any) -> Any:
    """What Keras made of a nested object or function; the code of a lambda tells its line, too."""
    if name == "__lambda__":
        return "lambda"
    if isinstance(config, dict):
        return {"class": name, **_plain_items(config)}
    return _plain(config)


def _hash(values: list[Any]) -> str:
    text = json.dumps(values)
    return f"{len(values)} values, {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _differences(saved: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(now, dict):
        # Of two classes the settings mean nothing to each other.
        same = saved.get("class") == now.get("class")
        for key in [key for key in saved if key in now] if same else ["class"]:
            yield from _differences(saved.get(key), now.get(key), f"{path}.{key}")
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for index, pair in enumerate(zip(saved, now, strict=True)):
            yield from _differences(*pair, f"{path}[{index}]")
    elif isinstance(saved, list) and isinstance(now, list) and path in _NETWORK:
        yield f"{path}={len(saved)} of them, now {len(now)}"
    elif saved != now:
        yield f"{path}={saved}, now {now}"
