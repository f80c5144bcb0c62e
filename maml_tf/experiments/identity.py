"""What tells one run from another: its settings, and the name that they give its directory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from maml_tf.experiments import fields, meta_optimizers, methods
from maml_tf.experiments.records import Kind, SettingValue
from maml_tf.experiments.settings import Settings, Training
from maml_tf.system.junk import is_junk

_SHORT_NAMES = {
    "mbs": "meta_batch_size",
    "ubs": "shots",
    "numstep": "inner_steps",
    "updatelr": "step_size",
}
"""As the original wrote them in its own directory names."""

_NAMES = {
    "ways": "num_classes",
    "meta_step_size": "meta_lr",
    "filters": "num_filters",
    "oracle": "baseline",
}
_TEXTS = {("norm", "none"): "None", ("oracle", True): "oracle", ("oracle", False): "None"}
_TEXTS |= {("learn_step_size", "weight"): "True"}
"""How directory names write settings and values: runs of earlier versions are found by them."""

_LAST = ("pretrain_iterations", "init", "classes")
"""What a directory name ends in, in this order, wherever the fields are declared."""

_DERIVED = ("queries", "clip", "l2", "final_meta_step_size")
"""What a directory name leaves out unless it was said. The length of a schedule stays in it: it
follows from --iterations, and a run of another length learns otherwise from the beginning."""

LONGEST_NAME = 240
"""Bytes of a run's name at most. File systems take 255, and `.old1` and others are added to it."""

QUOTED = re.compile(r"""(["'])((?:(?!\1).)*)\1""")
"""A text in quotes, as a flagfile's value may be."""

_TO_QUOTE = re.compile(r"^[\s\"']|\s$|\s[#/-]|\s\w+\s*=")
_SET_ASIDE = re.compile(r"\.old\d+$")
_ALWAYS = ("problem", "method")


def identity(settings: Settings) -> dict[str, SettingValue]:
    """Every setting that changes what is learned, by flag."""
    training, reads = settings.training, settings.problem.reads
    own = {
        each.flag: getattr(training, each.name)
        for each in fields.declared(Training)
        if each.name in reads or each.name in _ALWAYS
    }
    own["problem"] = settings.problem.name
    own["inner_steps"] = training.inner_steps
    own["init"] = Path(training.init).name
    others = methods.READS - settings.method.reads
    return {name: value for name, value in own.items() if name not in others}


def directory_name(settings: Settings) -> str:
    """The run's directory: no two runs that learn otherwise share one.

    Raises:
      ValueError: `run_name` is not the name of a directory, or one that is overlooked.
    """
    if settings.run.run_name:
        return _shortened(_checked(settings.run.run_name))
    name = _made_of_settings(settings)  # It may end in the name of a release.
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


def _made_of_settings(settings: Settings) -> str:
    own = identity(settings)
    head = [settings.experiment, settings.method.name]
    for name in _in_the_experiment(settings):
        own.pop(name, None)
    for short, name in _SHORT_NAMES.items():
        if name in own:
            head.append(f"{short}_{_text(name, own.pop(name))}")
    usual = _usual(settings)
    own |= {name: own.pop(name) for name in _LAST if name in own}
    rest = [f"{_NAMES.get(n, n)}_{_text(n, v)}" for n, v in own.items() if v != usual[n]]
    return ".".join(head + rest)


def _in_the_experiment(settings: Settings) -> list[str]:
    """Settings that the name of the experiment and of the method say already."""
    said = ["problem", "method", "environment"]
    said += ["oracle"] if settings.method.sees_task else []
    said += ["ways"] if settings.problem.kind is Kind.CLASSIFICATION else []
    return said if settings.problem.kind is Kind.POLICY else [*said, "shots"]


def _usual(settings: Settings) -> dict[str, SettingValue]:
    """Values that a name leaves out: the defaults, and what is derived from the others."""
    training = settings.training
    derived = [name for name in _DERIVED if settings.given.get(name) is None]
    usual = {each.flag: each.default for each in fields.declared(Training)}
    usual |= meta_optimizers.derived(training)
    return usual | {name: getattr(training, name) for name in derived} | {"classes": "task"}


def contradictions(saved: Settings, settings: Settings) -> list[str]:
    """Settings of a trained run that `settings` would change, each as "--name=old, now new"."""
    before, now = identity(saved), identity(settings)
    return [
        f"--{name}={before.get(name)}, now {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _text(name: str, value: SettingValue) -> str:
    text = _TEXTS.get((name, value))
    if text is not None:
        return text
    return f"{value:g}" if isinstance(value, float) else str(value)


def to_flags(settings: Settings) -> str:
    """Every setting as the text of a flagfile; derived values are comments, to be derived anew."""
    lines = []
    for group in (settings.training, settings.evaluation, settings.machine, settings.run):
        for each in fields.declared(type(group)):
            value = settings.given.get(each.flag, each.default)
            if value is not None:
                lines.append(f"--{each.flag}={_quoted(str(value))}\n")
            elif (derived := getattr(group, each.name)) is not None:
                lines.append(f"# derived: {each.flag} = {derived}\n")
    return "".join(lines)


def flag_lines(settings: Settings) -> tuple[str, ...]:
    """Every setting that is not derived, as flags."""
    return tuple(line for line in to_flags(settings).splitlines() if line.startswith("--"))


_OF_ONE_WORKER = (
    *("data_dir", "download", "intra_op_threads", "inter_op_threads", "logdir", "log", "progress"),
    *("pieces", "recompute"),
)
"""Flags that say where and how one of several workers does what all do."""


def said_alike(given: Mapping[str, SettingValue]) -> list[str]:
    """The flags, of those given, that several workers have to share, one a line."""
    others = _OF_ONE_WORKER
    return [f"--{name}={value}" for name, value in given.items() if name not in others]


def _quoted(text: str) -> str:
    """Puts a value into quotes which a flagfile's reader would cut or refuse."""
    if not _TO_QUOTE.search(text):
        return text
    quote = "'" if '"' in text else '"'
    return text if quote in text else f"{quote}{text}{quote}"
