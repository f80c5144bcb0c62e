"""What tells one run from another: its name, and its settings as the text of a flagfile."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from maml_tf.experiments.settings import Config
from maml_tf.tasks.images.files import is_junk

_SHORT_NAMES = {
    "mbs": "meta_batch_size",
    "ubs": "update_batch_size",
    "numstep": "num_updates",
    "updatelr": "update_lr",
}
"""As the original wrote them in its own directory names."""

LONGEST_NAME = 240
"""Bytes of a run's name at most. File systems take 255, and `.old1` and others are added to it."""

QUOTED = re.compile(r"""(["'])((?:(?!\1).)*)\1""")
"""A text in quotes, as a flagfile's value may be."""

_TO_QUOTE = re.compile(r"^[\s\"']|\s$|\s[#/-]|\s\w+\s*=")
_SET_ASIDE = re.compile(r"\.old\d+$")


def identity(config: Config) -> dict[str, Any]:
    """Every setting that changes what is learned."""
    own = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata["names_run"] and config.datasource in field.metadata["of"]
    }
    if config.pretrain_iterations and config.metatrain_iterations:
        own["pretrain_iterations"] = config.pretrain_iterations
    if config.init:
        own["init"] = Path(config.init).name
    if config.joint:
        own["classes"] = "all"
    return {"method": config.method, **own}


def directory_name(config: Config) -> str:
    """The run's directory: no two runs that learn otherwise share one.

    Raises:
      ValueError: `run_name` is not the name of a directory, or one that is overlooked.
    """
    if config.run_name:
        return _shortened(_checked(config.run_name))
    name = _made_of_settings(config)  # It may end in the name of a release.
    return _shortened(f"{name}_" if is_overlooked(name) else name)


def is_overlooked(name: str) -> bool:
    """Whether a folder of this name counts as a run set aside, hidden, or the system's."""
    return bool(_SET_ASIDE.search(name)) or is_junk(name)


def _checked(name: str) -> str:
    if name in (".", "..") or "/" in name or os.sep in name:
        raise ValueError(
            f"--run_name={name} is not a name for a directory in --logdir; drop the dots and "
            "slashes, or put them into --logdir."
        )
    if is_overlooked(name):
        raise ValueError(
            f"A run called {name} would be overlooked like hidden folders and runs that were set "
            "aside; choose another --run_name."
        )
    return name


def _shortened(name: str) -> str:
    """A name that is too long for a file system, cut, with what tells it from another such."""
    encoded = name.encode()
    if len(encoded) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return encoded[: LONGEST_NAME - 13].decode(errors="ignore") + "." + digest


def _made_of_settings(config: Config) -> str:
    settings = identity(config)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    head = [config.experiment, config.method]
    told = ["datasource", "stop_grad", "method", "environment"]
    told += ["baseline"] if config.method == "oracle" else []
    told += ["num_classes"] if config.classification else []
    told += [] if config.reinforcement else ["update_batch_size"]
    for name in told:
        settings.pop(name, None)
    for short, name in _SHORT_NAMES.items():
        if name in settings:
            head.append(f"{short}_{_text(settings.pop(name))}")
    rest = [f"{n}_{_text(v)}" for n, v in settings.items() if v != defaults.get(n)]
    return ".".join(head + rest)


def contradictions(saved: Config, config: Config) -> list[str]:
    """Settings of a trained run that `config` would change, each as "--name=old, now new"."""
    before, now = identity(saved), identity(config)
    return [
        f"--{name}={before.get(name)}, now {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def to_flags(config: Config) -> str:
    """Every setting as the text of a flagfile."""
    return "".join(
        f"--{field.name}={_quoted(str(getattr(config, field.name)))}\n"
        for field in dataclasses.fields(config)
    )


def _quoted(text: str) -> str:
    """Puts a value into quotes which a flagfile's reader would cut or refuse."""
    if not _TO_QUOTE.search(text):
        return text
    quote = "'" if '"' in text else '"'
    return text if quote in text else f"{quote}{text}{quote}"


def from_flags(text: str) -> Config:
    """Reads what `to_flags` wrote; settings of other versions are left out.

    Raises:
      ValueError: a setting has no value of its type.
    """
    types: dict[str, type] = {f.name: type(f.default) for f in dataclasses.fields(Config)}
    values: dict[str, Any] = {}
    for line in text.removeprefix("\ufeff").splitlines():
        name, _, value = line.removeprefix("--").partition("=")
        if name in types:
            values[name] = _value(types[name], name, value)
    return Config(**values)


def _value(kind: type, name: str, text: str) -> Any:
    """One setting from its text."""
    if kind is bool:
        if text not in ("True", "False"):
            raise ValueError(f"--{name}={text} is neither True nor False; mend the flags.")
        return text == "True"
    if kind is str:
        match = QUOTED.fullmatch(text)
        return match[2] if match else text
    try:
        return kind(text)
    except ValueError as error:
        wanted = "whole number" if kind is int else "number"
        raise ValueError(f"--{name}={text} is no {wanted}; mend the flags.") from error


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
