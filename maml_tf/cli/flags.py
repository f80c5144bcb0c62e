"""All flags, made from the declared settings, and the help text that explains them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from maml_tf.cli import flagfiles, original
from maml_tf.experiments import fields, problems
from maml_tf.experiments.fields import Setting
from maml_tf.experiments.records import SettingValue
from maml_tf.experiments.settings import GROUPS, SETTINGS, Settings
from maml_tf.ranges import Span
from maml_tf.system import bundled

RECIPE = "recipe"
VERBOSITY = "verbosity"
_VERBOSITY_HELP = (
    "What is said on screen: -1 warnings only, 0 what this program does, 1 also what TensorFlow "
    "says while it starts."
)


class _Whole(flags.ArgumentParser):
    """Reads a whole number, in ASCII digits."""

    syntactic_help = "a whole number"

    def parse(self, argument: int | str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,100}", str(argument)):
            raise ValueError("write a whole number of at most 100 digits, such as 3")
        return int(argument)

    def flag_type(self) -> str:
        return "int"


class _WholeOrRange(flags.ArgumentParser):
    """Reads a whole number, or a range of such."""

    syntactic_help = "a whole number, or a range LOW..HIGH"

    def parse(self, argument: int | str | Span) -> int | Span:
        text = str(argument)
        return Span.read(text) if ".." in text else _Whole().parse(text)

    def flag_type(self) -> str:
        return "int"


class _Real(flags.ArgumentParser):
    """Reads a number, in ASCII digits."""

    syntactic_help = "a number"

    def parse(self, argument: float | str) -> float:
        if not re.fullmatch(
            r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?", str(argument), re.I
        ):
            raise ValueError("write a number, such as 0.01 or 1e-2")
        return float(argument)

    def flag_type(self) -> str:
        return "float"


class _Boolean(flags.BooleanParser):
    """Reads what absl reads, and says what it is."""

    def parse(self, argument: int | str) -> bool:
        try:
            return super().parse(argument)
        except ValueError as error:
            raise ValueError("write True or False") from error


class _Optional(flags.ArgumentParser):
    """Reads what another parser reads, or that there is no value: None, auto, or nothing."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser
        self.syntactic_help = f"{parser.syntactic_help}, or None"

    def parse(self, argument):
        if argument in (None, "", "None", "auto"):
            return None
        return self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


class _Switch(_Optional):
    """Reads one of several words, or True or False; the flag alone is True."""

    def __init__(self):
        super().__init__(flags.ArgumentParser())

    def parse(self, argument):
        try:
            return flags.BooleanParser().parse(argument)
        except (TypeError, ValueError):
            return super().parse(argument)


_PARSERS: dict[type, Callable[[], flags.ArgumentParser]] = {
    bool: _Boolean,
    int: _Whole,
    float: _Real,
    str: flags.ArgumentParser,
}


class _Values(flags.FlagValues):
    """Flags, and their flagfiles."""

    def _get_flag_file_lines(self, filename, parsed_file_stack=None):
        del parsed_file_stack  # The reader keeps its own.
        if not filename:
            raise ValueError("--flagfile= names no file; write --flagfile=FILE, or drop it.")
        return flagfiles.read(bundled.find(Path(filename)), self)


class Parsed(NamedTuple):
    """What a command line says."""

    given: dict[str, SettingValue]  # by flag; earlier flags that are said otherwise now included
    earlier: dict[str, str]  # earlier names that were used, and what they are called now
    words: list[str]  # what are no flags


def parse(arguments: list[str]) -> Parsed:
    """Parses a command line, flagfiles included.

    Of two flags for one setting, whatever they call it, the later one counts.

    Args:
      arguments: what stands after the program's name and its command.

    Raises:
      absl.flags.Error: an unknown flag, or a value that is none.
      OSError, ValueError: a flagfile cannot be read.
    """
    values = _Values()
    for each in SETTINGS.values():
        if each.switch:
            flag = flags.Flag(_Switch(), None, each.flag, each.default, each.help)
            flag.boolean = True
            flags.DEFINE_flag(flag, values)
            continue
        _define(values, each.flag, each.kind, each.default, each.help, each.optional, each.spans)
    for old, new in original.RENAMED.items():
        flags.DEFINE_alias(old, new, flag_values=values)
    for name, (default, today, _) in original.REPLACED.items():
        _define(values, name, type(default), default, f"Earlier: {today}.", False)
    _define(values, VERBOSITY, int, 0, _VERBOSITY_HELP, False)
    words = values(["maml-tf", *_with_recipes(arguments)])[1:]
    said = {name: values[name].value for name in values if values[name].present}
    given = {name: value for name, value in said.items() if name not in original.RENAMED}
    words_of = original.RENAMED | {
        old: each.named_for for old, each in original.REPLACED.items() if each.named_for
    }
    earlier = {old: new for old, new in words_of.items() if values[old].present}
    return Parsed(given, earlier, words)


def _with_recipes(arguments: list[str]) -> Iterator[str]:
    """The command line, with `--recipe=NAME` as the flagfile that it stands for."""
    rest = iter(arguments)
    for word in rest:
        flag, equals, name = word.partition("=")
        if flag not in (f"--{RECIPE}", f"-{RECIPE}"):
            yield word
            continue
        name = name if equals else next(rest, "")
        known = [path.stem for path in bundled.entries("recipes")]
        if name not in known:
            raise ValueError(f"There is no recipe '{name}'; there are: {', '.join(known)}.")
        yield f"--flagfile=recipes/{name}.flags"


def _define(
    values: flags.FlagValues,
    name: str,
    kind: type,
    default: Any,
    text: str,
    optional: bool,
    spans: bool = False,
) -> None:
    if kind is bool and not optional:
        flag = flags.BooleanFlag(name, default, text)
        flag.parser = _Boolean()
        flags.DEFINE_flag(flag, values)
        return
    parser = _WholeOrRange() if spans else _PARSERS[kind]()
    parser = _Optional(parser) if optional else parser
    flags.DEFINE(parser, name, default, text, flag_values=values)


def explain(settings: Settings | None = None) -> str:
    """Describes every flag: default, meaning, unit, choices.

    Args:
      settings: of a command line, whose values are shown in place of the defaults.
    """
    lines = []
    for group in GROUPS:
        for each in fields.declared(group):
            if each.section:
                lines += ["", f"{each.section}:"]
            lines += _explained(each, each.default if settings is None else _value(each, settings))
    lines += ["", "Screen:", f"  --{VERBOSITY}=0", *_wrapped(_VERBOSITY_HELP)]
    lines += ["", "Earlier names, which go on working:"]
    lines += [f"  --{old}: --{new}" for old, new in original.RENAMED.items()]
    lines += [f"  --{old}: {each.today}" for old, each in original.REPLACED.items()]
    return "\n".join(lines)


def _explained(each: Setting, value: Any) -> list[str]:
    text, choices = each.help, each.choices
    if each.flag == "problem":
        choices = tuple(problems.known())
    if choices:
        text += f" One of {', '.join(choices)}."
    if each.within:
        text += f" {str(each.within).capitalize()}."
    return [f"  --{each.flag}={'derived' if value is None else value}", *_wrapped(text)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _value(each: Setting, settings: Settings) -> Any:
    groups = (settings.training, settings.evaluation, settings.machine, settings.run)
    group = next(g for g in groups if each in fields.declared(type(g)))
    return getattr(group, each.name)
