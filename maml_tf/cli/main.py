"""maml-tf: model-agnostic meta-learning on TensorFlow 2 and Keras 3.

usage: maml-tf [train|evaluate|export|figures|prepare] [RUN ...] [--flag=value ...]

  train      meta-train; goes on from the newest checkpoint of the same settings
  evaluate   adapt to held-out tasks and measure after every gradient step
  export     write a SavedModel with predict, adapt and adapt_and_predict
  figures    draw the result files of runs
  prepare    decode a data set ahead of time

Without a command: train, or with --train=False evaluate, as the original program did.
evaluate, export and figures also take a run's directory, and then use the run's own flags.
--flagfile=FILE reads flags from a file; flags/ has one for each experiment of the paper.
"""

from __future__ import annotations

import importlib
import logging
import sys

from absl import flags

from maml_tf.cli import flags as settings

COMMANDS = ("train", "evaluate", "export", "figures", "prepare")


def main(argv: list[str] | None = None) -> None:
    """Runs one command, and exits with its status: 0, 1 for an error, 130 for an interrupt."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(arguments: list[str]) -> int:
    """Runs one command; a user's mistake becomes one line.

    Args:
      arguments: the command line after the program's name.

    Returns:
      The exit status.
    """
    if {"--help", "-h", "--helpfull", "help"} & set(arguments[:1] + arguments[-1:]):
        print(__doc__ + settings.explain())
        return 0
    settings.define()
    _log_to_screen()
    named = bool(arguments) and arguments[0] in COMMANDS
    command = arguments[0] if named else ""
    try:
        flags.FLAGS.unparse_flags()
        rest = flags.FLAGS(["maml-tf", *arguments[named:]])[1:]
        return _dispatch(command, rest)
    except flags.Error as error:
        return _fail(f"{error} (maml-tf --help lists the flags)")
    except (ValueError, OSError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)


def _dispatch(command: str, paths: list[str]) -> int:
    if not command:
        if paths:
            raise ValueError(f"Unknown command '{paths[0]}'; there are {', '.join(COMMANDS)}.")
        command = "train" if flags.FLAGS.train else "evaluate"
    return importlib.import_module(f"maml_tf.cli.{command}").run(paths)


def _log_to_screen() -> None:
    log = logging.getLogger("maml_tf")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _fail(error: object, status: int = 1) -> int:
    print("maml-tf: " + " ".join(str(error).split()), file=sys.stderr)
    return status
