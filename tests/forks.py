"""Command lines in processes of their own, quickly: a process that has imported all, forked.

Import this before TensorFlow has done anything; each fork starts TensorFlow's devices for itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import maml_tf.cli.evaluate
import maml_tf.cli.export
import maml_tf.cli.figures
import maml_tf.cli.prepare
import maml_tf.cli.release
import maml_tf.cli.render
import maml_tf.cli.train
import maml_tf.experiments.policies  # noqa: F401
from maml_tf.cli.main import run

HUNG = 1000
"""The status of commands that did not end in time."""


def give(
    commands: Sequence[list[str]],
    log: Path,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], bytes] = lambda: b"",
    kill_after: float | None = None,
    limit: float = 600,
    cwd: Path | None = None,
) -> tuple[int, bytes]:
    """Gives commands one after another, until one fails.

    Args:
      commands: command lines, without the program's name.
      log: where their standard output and error go.
      before: called in the new process, first.
      after: called in it, last; what it returns is returned here.
      kill_after: seconds after which the process is killed.
      limit: seconds after which it counts as hung.
      cwd: the directory that they are given in.

    Returns:
      The exit status, minus a signal's number or `HUNG`, and what `after` returned.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 70
        try:
            os.close(reading)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(cwd or os.getcwd())
            before()
            status = next((s for s in map(run, commands) if s), 0)
            sys.stdout.flush()
            os.write(writing, after())
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    os.close(writing)
    began = time.monotonic()
    status = None
    while status is None:
        done, raw = os.waitpid(child, os.WNOHANG)
        spent = time.monotonic() - began
        if done:
            status = os.waitstatus_to_exitcode(raw)
        elif spent > (limit if kill_after is None else kill_after):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = HUNG if kill_after is None else -signal.SIGKILL
        else:
            time.sleep(0.01)
    with open(reading, "rb") as pipe:
        return status, pipe.read()
