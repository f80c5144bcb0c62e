"""The start of TensorFlow, which takes seconds and says much that no user asked for."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator

from maml_tf.experiments import machine
from maml_tf.experiments.settings import Machine

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def be_quiet() -> None:
    """Lets `tensorflow` say errors alone, unless the user's environment says otherwise."""
    os.environ.setdefault(_LEVEL, "3")


def use_onednn() -> None:
    """Lets TensorFlow take oneDNN's kernels on any x86, unless the user's environment says.

    TensorFlow itself takes them with AVX-512 alone. Convolutional meta-steps take half to three
    quarters of the time with them on AVX2, and others about as long (docs/performance.md).
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def tensorflow() -> None:
    """Imports TensorFlow and finds its devices, without their messages on screen if so asked."""
    if "tensorflow" in sys.modules:
        return
    use_onednn()
    quiet = os.environ.get(_LEVEL) == "3"
    with _no_messages() if quiet else contextlib.nullcontext():
        import tensorflow as tf

        tf.config.list_physical_devices()
    if quiet:  # Several evaluations in one process would each be blamed for a new graph.
        tf.get_logger().setLevel("ERROR")


def on(settings: Machine) -> None:
    """Starts TensorFlow on a machine that is used as the settings say."""
    tensorflow()
    machine.set_up(settings)


@contextlib.contextmanager
def _no_messages() -> Iterator[None]:
    """Keeps what libraries write to standard error; shows it if they fail.

    Before they read `TF_CPP_MIN_LOG_LEVEL` TensorFlow and CUDA write to the file descriptor itself.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # It is closed: nobody would read it.
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
