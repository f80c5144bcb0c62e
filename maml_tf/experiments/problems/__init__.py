"""The problems: one module for each, or for each family.

A new problem is a module here with a `PROBLEM` (or several, `PROBLEMS`), or a module of one's own,
named by --problem=MODULE. None of them imports TensorFlow before it is used.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import sys

from maml_tf.experiments.records import Problem


@functools.cache
def known() -> dict[str, Problem]:
    """The problems of this package by name, in the order of their modules' `ORDER`."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    modules.sort(key=lambda module: (getattr(module, "ORDER", 99), module.__name__))
    return {problem.name: problem for module in modules for problem in _problems(module)}


def find(name: str) -> Problem:
    """Returns a problem by its name, or the `PROBLEM` of a module of the user's.

    Raises:
      ValueError: there is no such problem, and no such module.
    """
    if name in known():
        return known()[name]
    if not all(part.isidentifier() for part in name.split(".")):
        raise _unknown(name)
    if "" not in sys.path:
        sys.path.append("")  # An installed command does not look into the present directory.
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise _unknown(name) from error
        raise ValueError(f"--problem={name} needs {error.name}; install it.") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"--problem={name}: the module cannot be imported ({reason}).") from error
    return _only_one(name, _problems(module))


def _only_one(name: str, problems: object) -> Problem:
    """The problem of a user's module, if it is one that results can be filed under."""
    if not problems:
        raise ValueError(f"--problem={name}: the module has no PROBLEM; see docs/architecture.md.")
    if not isinstance(problems, tuple) or not all(isinstance(p, Problem) for p in problems):
        raise ValueError(f"--problem={name}: its PROBLEM is no maml_tf.experiments.Problem.")
    if len(problems) > 1:
        raise ValueError(
            f"--problem={name}: the module has several problems; name one of them PROBLEM."
        )
    if not re.fullmatch(r"\w+", problems[0].name):
        raise ValueError(f"--problem={name}: its name '{problems[0].name}' is not one word.")
    return problems[0]


def readers(setting: str) -> list[str]:
    """Names of the problems that look at a setting."""
    return [problem.name for problem in known().values() if setting in problem.reads]


def _problems(module: object) -> tuple[Problem, ...]:
    one = getattr(module, "PROBLEM", None)
    return getattr(module, "PROBLEMS", ()) if one is None else (one,)


def _unknown(name: str) -> ValueError:
    return ValueError(
        f"--problem must be one of {', '.join(known())}, or a module with a PROBLEM; got '{name}'."
    )
