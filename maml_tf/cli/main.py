"""maml-tf: model-agnostic meta-learning on TensorFlow 2 and Keras 3.

usage: maml-tf [train|evaluate|export|figures|reproduce|render|release|prepare] [RUN ...]
               [--flag=value ...]

  train      meta-train; goes on from the newest checkpoint of the same settings
  evaluate   adapt to held-out tasks and measure after every gradient step
  export     write a SavedModel with predict, adapt and adapt_and_predict
  figures    draw result files: each run's, and the paper's figures and tables as far as they go
  reproduce  train, evaluate and draw experiments of the paper: quick, all, list or a NAME
  render     show a policy on one held-out task before and after adaptation: --to=FILE.gif
  release    keep a run's initial weights, flags and results as small files: --to=models/NAME
  prepare    decode a data set ahead of time

Without a command: train, or with --train=False evaluate, as the original program did.
evaluate, export, figures, render and release also take a run's directory, and then use the run's
own flags; evaluate, export and render take a release as --init=models/NAME; figures takes any
directories.
--flagfile=FILE reads flags from a file; flags/ has one for each experiment of the paper.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from typing import Any

from absl import flags

from maml_tf.cli import flags as settings
from maml_tf.experiments.settings import is_one_line
from maml_tf.system.files import user_path

COMMANDS = ("train", "evaluate", "export", "figures", "reproduce", "render", "release", "prepare")

_PATHS = ("logdir", "data_dir", "init", "to")
"""Flags that name a file or a directory."""


def main(argv: list[str] | None = None) -> None:
    """Runs one command, and exits with its status: 0, 1 for an error, 130 for an interrupt."""
    status = run(sys.argv[1:] if argv is None else argv)
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):  # Python would try again, and trace back.
        sys.stdout = None  # type: ignore[assignment]
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Runs one command; a user's mistake becomes one line.

    Args:
      arguments: the command line after the program's name.

    Returns:
      The exit status.
    """
    if {"--help", "-h", "--helpfull", "help"} & set(arguments[:1] + arguments[-1:]):
        try:
            print(__doc__ + settings.explain(), flush=True)
        except OSError as error:
            return _fail(f"help cannot be printed ({error.strerror})")
        return 0
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # An ASCII terminal shows what it can.
    _log_to_screen()
    named = bool(arguments) and arguments[0] in COMMANDS
    command = arguments[0] if named else ""
    try:
        given, words = settings.parse(arguments[named:])
        for name in _PATHS:
            if given.get(name) and is_one_line(given[name]):  # else refused by its name
                given[name] = str(user_path(given[name]))
        return _dispatch(command, given, [str(user_path(word)) for word in words])
    except flags.Error as error:
        return _fail(f"{error} (maml-tf --help lists the flags)")
    except OSError as error:
        plain = error.errno is not None and error.filename
        return _fail(f"'{error.filename}': {error.strerror}" if plain else error)
    except ValueError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    except Exception as error:
        if told := _of_the_machine(error):
            return _fail(told)
        raise


def _dispatch(command: str, given: dict[str, Any], words: list[str]) -> int:
    if not command:
        command = "train" if given.get("train", True) else "evaluate"
        if words:
            raise ValueError(f"Unknown command '{words[0]}'; there are {', '.join(COMMANDS)}.")
    if words and command in ("train", "prepare"):
        raise ValueError(f"{command} takes flags only, not '{words[0]}'.")
    return importlib.import_module(f"maml_tf.cli.{command}").run(given, words)


def _of_the_machine(error: Exception) -> str:
    """What to say of an error that the machine makes; empty for a fault of this program."""
    if "No space left" in str(error):
        return "no room is left on a disk; make room, then give the same command again"
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return (
            "out of memory; try a smaller --meta_batch_size, more --task_chunks, --recompute, or "
            "fewer --num_test_tasks"
        )
    return ""


def _log_to_screen() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("maml_tf")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False  # absl, which TensorFlow brings, would say everything again


def _fail(error: object, status: int = 1) -> int:
    with contextlib.suppress(OSError, ValueError):  # Standard error may be closed or full, too.
        print("maml-tf: " + " ".join(str(error).split()), file=sys.stderr)
    return status
