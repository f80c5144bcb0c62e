"""Figures and tables in an event file of TensorBoard, without TensorFlow, which takes seconds."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.text import metadata as texts
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

FIGURES_SUFFIX = ".figures"
"""Ending of the event file that holds figures and tables; it is made anew with them."""


def write_event_file(directory: Path, named: Mapping[str, Path | str]) -> None:
    """Writes pictures and tables, made from result files, as one event file.

    Args:
      directory: where to.
      named: pictures, as paths of PNG files, and tables, as Markdown, by their names.

    Raises:
      OSError: it cannot be written, or a picture cannot be read.
    """
    now, host = time.time(), socket.gethostname()
    name = f"events.out.tfevents.{int(now):010}.{host}.{os.getpid()}.0{FIGURES_SUFFIX}"
    with open(directory / name, "wb") as file:
        records = RecordWriter(file)  # not its EventFileWriter, which imports TensorFlow
        records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for name, content in named.items():
            value = _table(name, content) if isinstance(content, str) else _picture(name, content)
            event = Event(wall_time=now, step=0, summary=Summary(value=[value]))
            records.write(event.SerializeToString())


def _table(name: str, markdown: str) -> Summary.Value:
    return Summary.Value(
        tag=f"tables/{name}",
        tensor=make_tensor_proto(markdown.encode()),
        metadata=texts.create_summary_metadata(display_name="", description=""),
    )


def _picture(name: str, path: Path) -> Summary.Value:
    with Image.open(path) as picture:
        size = [str(length).encode() for length in picture.size]
    return Summary.Value(
        tag=f"figures/{name}",
        tensor=make_tensor_proto([*size, path.read_bytes()]),
        metadata=images.create_summary_metadata(display_name="", description=""),
    )
