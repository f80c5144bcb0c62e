"""The original program's flags, and those of earlier versions of this one, in today's words.

`cbfinn/maml` called the shots `update_batch_size`, the ways `num_classes`, and so on. Its command
lines run unchanged, as do flagfiles and runs of earlier versions; its vocabulary ends here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from maml_tf.experiments import problems, settings
from maml_tf.experiments.identity import QUOTED
from maml_tf.experiments.records import Kind, SettingValue
from maml_tf.experiments.settings import SETTINGS, Settings

RENAMED = {
    "datasource": "problem",
    "num_classes": "ways",
    "update_batch_size": "shots",
    "update_lr": "step_size",
    "num_updates": "inner_steps",
    "metatrain_iterations": "iterations",
    "meta_lr": "meta_step_size",
    "num_filters": "filters",
    "test_iter": "test_iteration",
    "num_test_tasks": "test_tasks",
    "task_chunks": "pieces",
}
"""Flags that are called otherwise now."""


class Replaced(NamedTuple):
    """A flag for which several of today's, or a command, stand."""

    default: str | int | float | bool
    today: str  # what says the same
    named_for: str = ""  # the flag of today in whose place messages name it


REPLACED = {
    "stop_grad": Replaced(False, "--method=fomaml"),
    "baseline": Replaced(
        "None",
        "where it says oracle, --oracle, or --method=oracle without meta-training",
        named_for="oracle",
    ),
    "train": Replaced(True, "where it says False, the command evaluate"),
    "test_set": Replaced(False, "--split=test"),
    "train_update_batch_size": Replaced(
        -1, "--shots, with --test_shots for that of the evaluation"
    ),
    "train_update_lr": Replaced(
        -1.0, "--step_size, with --test_step_size for that of the evaluation"
    ),
}
"""Flags that are no mere renaming of one of today's."""


def translate(
    given: Mapping[str, SettingValue], *, run_named: bool = False
) -> dict[str, SettingValue]:
    """Says in today's flags what may be said in earlier ones.

    Args:
      given: values by flag; -1 meant "derived" for numbers, and "auto" for a method.
      run_named: whether the directory of a run is given, whose training is known.

    Raises:
      ValueError: two flags contradict each other.
    """
    said = {name: value for name, value in given.items() if name in REPLACED}
    today: dict[str, SettingValue] = {}
    for name, value in given.items():
        if name in REPLACED:
            continue
        new = RENAMED.get(name, name)
        today[new] = _derived(new, value)
    if not run_named:
        _evaluation_of_another_training(said, today)
    if said.get("test_set"):
        today["split"] = "test"
    _method(said, today)
    if today.get("norm") == "None":
        today["norm"] = "none"
    return today


def _derived(name: str, value: SettingValue) -> SettingValue:
    """None for what meant "derived"."""
    each = SETTINGS.get(name)
    if each and each.optional and not isinstance(value, bool) and value in (-1, "auto"):
        return None
    return None if name == "method" and value == "auto" else value


def _evaluation_of_another_training(
    said: Mapping[str, SettingValue], today: dict[str, SettingValue]
) -> None:
    """The original's `train_*` named the training's value where the evaluation's was another.

    What is not said of the evaluation is the default, not the training's value.
    """
    for old, name, own in (
        ("train_update_batch_size", "shots", "test_shots"),
        ("train_update_lr", "step_size", "test_step_size"),
    ):
        trained = said.get(old, -1)
        if trained == -1:
            continue
        within = SETTINGS[name].within
        if within is not None and float(str(trained or 0)) not in within:
            raise ValueError(f"--{old} must be {within}, or -1 for the same; got {trained}.")
        today.setdefault(own, today.get(name, SETTINGS[name].default))
        today[name] = trained


def _method(said: Mapping[str, SettingValue], today: dict[str, SettingValue]) -> None:
    """The original's flags that say the method; refuses two that differ."""
    before, iterations = today.get("pretrain_iterations"), today.get("iterations", 1)
    oracle = said.get("baseline", "None") == "oracle"
    implied, words = None, ""
    if before and not iterations:
        implied = "oracle" if oracle else "pretrained"
        words = "--pretrain_iterations with --metatrain_iterations=0"
    elif said.get("stop_grad"):
        implied, words = "fomaml", "--stop_grad"
    own = today.get("method")
    if implied and own is not None and own != implied:
        raise ValueError(
            f"--method={own} contradicts {words}, which is {implied}; drop one of them."
        )
    if implied:
        today["method"] = implied
    if before and not iterations:
        today["iterations"] = today.pop("pretrain_iterations")
        problem = problems.find(str(today.get("problem", SETTINGS["problem"].default)))
        if implied == "pretrained" and problem.kind is Kind.CLASSIFICATION:
            today["classes"] = "task"
    if oracle and today.get("method") != "oracle":
        today["oracle"] = True


def in_the_words_of(earlier: Mapping[str, str], message: str) -> str:
    """Says a message in the flags that somebody used: earlier names by today's."""
    for old, new in earlier.items():
        message = re.sub(rf"--{new}\b", f"--{old}", message)
    return message


def from_flags(text: str) -> Settings:
    """Reads the flags of a run, of this or an earlier version; unknown ones are left out.

    Raises:
      ValueError: a setting has no value of its type, or they contradict each other.
    """
    given: dict[str, SettingValue] = {}
    for line in text.removeprefix("\ufeff").splitlines():
        name, _, value = line.removeprefix("--").partition("=")
        kind = kind_of(name)
        if kind is not None:
            given[name] = _value(kind, name, value)
    return settings.make(translate(given))


def kind_of(name: str) -> type | None:
    """The type of a flag's value, of today or of the original; None if there is no such flag."""
    if name in REPLACED:
        return type(REPLACED[name].default)
    each = SETTINGS.get(RENAMED.get(name, name))
    return each.kind if each else None


def _value(kind: type, name: str, text: str) -> SettingValue:
    """One setting from its text."""
    if kind is bool:
        if text == "auto":  # of earlier versions, where a value was derived
            return None
        if text not in ("True", "False"):
            raise ValueError(f"--{name}={text} is neither True nor False; correct the flags.")
        return text == "True"
    if kind is str:
        match = QUOTED.fullmatch(text)
        return match[2] if match else text
    if ".." in text and name not in REPLACED:  # a range, which `make` reads
        return text
    try:
        return kind(text)
    except ValueError as error:
        wanted = "whole number" if kind is int else "number"
        raise ValueError(f"--{name}={text} is not a {wanted}; correct the flags.") from error
