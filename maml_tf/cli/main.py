"""maml-tf: model-agnostic meta-learning on TensorFlow 2 and Keras 3.

usage: maml-tf [train|evaluate|export|figures|reproduce|render|release|prepare|runs|list|completion]
               [RUN ...] [--flag=value ...]

  train      meta-train; goes on from the newest checkpoint of the same settings
  evaluate   adapt to held-out tasks and measure after every gradient step
  export     write a SavedModel with predict, adapt and adapt_and_predict; --format=litert: a file
             for phones and boards; --format=stablehlo: programs for JAX
  figures    draw result files: each run's, and the paper's figures and tables as far as they go
  reproduce  train, evaluate and draw experiments of the paper: quick, all, list or a NAME
  render     show a policy on one held-out task before and after adaptation: --to=FILE.gif or .mp4
  release    keep a run's initial weights, flags and results as small files: --to=models/NAME
  prepare    decode a data set ahead of time
  runs       show the runs below a directory side by side; --to=FILE.csv keeps their results
  list       name the flagfiles and the released weights that come with the package
  completion print what bash or zsh needs to complete all this: bash, zsh

Without a command: train, or with --train=False evaluate, as the original program did.
evaluate, export, figures, render and release also take a run's directory, and then use the run's
own flags; evaluate, export and render take a release as --init=models/NAME; figures takes any
directories.
--flagfile=FILE reads flags from a file; flags/ has one for each experiment of the paper.
--recipe=maml++ adds what MAML++ does to any supervised one of them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import select
import sys

from absl import flags

from maml_tf.cli import flags as command_line
from maml_tf.cli import original, start
from maml_tf.experiments.fields import is_one_line
from maml_tf.experiments.records import SettingValue
from maml_tf.experiments.settings import make
from maml_tf.system.files import user_path

COMMANDS = (
    *("train", "evaluate", "export", "figures", "reproduce", "render", "release", "prepare"),
    *("runs", "list", "completion"),
)
RESTART = 75
"""Exit status where another worker is gone: "restart me" (EX_TEMPFAIL of sysexits.h)."""

UNHEARD = 141
"""Exit status where what reads the output has seen enough, as `head` has: a shell's for SIGPIPE."""

_MODULES = {"runs": "overview", "list": "listing"}
"""Of commands whose module has another name."""

_HELP = {"--help", "-h", "--helpfull", "help"}
_PATHS = ("logdir", "data_dir", "init", "to")
"""Flags that name a file or a directory."""


def main(argv: list[str] | None = None) -> None:
    """Runs one command, and exits with its status: 0, 1 for an error, 130 for an interrupt.

    75 says that another worker is gone, and that all may be started again; 141, that nobody reads
    the rest of the output.
    """
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
    if _HELP & set(arguments[:1] + arguments[-1:]):
        return _help([word for word in arguments if word not in _HELP])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # An ASCII terminal shows what it can.
    earlier: dict[str, str] = {}
    try:
        command, said = _parse(arguments)
        earlier = said.earlier
        verbosity = said.given.pop(command_line.VERBOSITY, None)
        _log_to_screen(verbosity if isinstance(verbosity, int) else 0)
        given = original.translate(said.given, run_named=bool(said.words))
        return _dispatch(command, given, said.words)
    except flags.Error as error:
        return _fail(f"{error} (maml-tf --help lists the flags)")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not _is_heard():
            return UNHEARD
        plain = error.errno is not None and error.filename
        return _fail(f"'{error.filename}': {error.strerror}" if plain else error)
    except ValueError as error:
        return _fail(original.in_the_words_of(earlier, str(error)))
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    except Exception as error:
        if reason := _of_the_machine(error):
            return _fail(reason)
        if type(error).__name__ == "WorkerLost":  # whose module imports TensorFlow
            return _fail(error, status=RESTART)
        raise


def _help(others: list[str]) -> int:
    """Prints the help text; with the values of a command line, if there are flags beside --help."""
    settings = None
    with contextlib.suppress(flags.Error, OSError, ValueError):
        settings = make(original.translate(_parse(others)[1].given)) if others else None
    try:
        print(__doc__ + command_line.explain(settings), flush=True)
    except OSError as error:
        return _fail(f"help cannot be printed ({error.strerror})")
    return 0


def _parse(arguments: list[str]) -> tuple[str, command_line.Parsed]:
    """Returns the command, and what stands behind it."""
    named = bool(arguments) and arguments[0] in COMMANDS
    said = command_line.parse(arguments[named:])
    for name in _PATHS:
        path = said.given.get(name)
        if isinstance(path, str) and path and is_one_line(path):  # else refused by its name
            said.given[name] = str(user_path(path))
    command = arguments[0] if named else ""
    if not command:
        command = "train" if said.given.get("train", True) else "evaluate"
        if said.words:
            raise ValueError(f"Unknown command '{said.words[0]}'; there are {', '.join(COMMANDS)}.")
    if said.words and command in ("train", "prepare"):
        raise ValueError(f"{command} takes flags only, not '{said.words[0]}'.")
    return command, said._replace(words=[str(user_path(word)) for word in said.words])


def _dispatch(command: str, given: dict[str, SettingValue], words: list[str]) -> int:
    return importlib.import_module(f"maml_tf.cli.{_MODULES.get(command, command)}").run(
        given, words
    )


def _of_the_machine(error: Exception) -> str:
    """What to say of an error that the machine makes; empty for a fault of this program."""
    if "No space left" in str(error):
        return "no room is left on a disk; make room, then give the same command again"
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return (
            "out of memory; try a smaller --meta_batch_size, more --pieces, --recompute, or fewer "
            "--test_tasks"
        )
    return ""


def _is_heard() -> bool:
    """Whether somebody still reads standard output."""
    waiting = select.poll() if hasattr(select, "poll") else None  # which Windows lacks
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if waiting is not None:
            waiting.register(sys.stdout.fileno(), select.POLLOUT)
            return not any(event & select.POLLERR for _, event in waiting.poll(0))
    return True


def _log_to_screen(verbosity: int) -> None:
    if verbosity <= 0:
        start.be_quiet()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("maml_tf")
    log.handlers = [handler]
    log.setLevel(logging.INFO if verbosity >= 0 else logging.WARNING)
    log.propagate = False  # absl, which TensorFlow brings, would say everything again


def _fail(error: object, status: int = 1) -> int:
    if sys.stderr is None:  # It was closed, and `print` would take standard output in its place.
        return status
    with contextlib.suppress(OSError, ValueError):  # Standard error may be closed or full, too.
        print("maml-tf: " + " ".join(str(error).split()), file=sys.stderr)
    return status
