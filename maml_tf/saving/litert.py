"""Models for devices: what a learner computes for one task, as a file of LiteRT.

LiteRT (earlier TensorFlow Lite) runs on phones and boards, without TensorFlow. What its own
operations cannot express is left to TensorFlow Select, a part of TensorFlow that such an
interpreter may or may not have; `convert` says which operations those are.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import tensorflow as tf

from maml_tf.saving.saved_models import save
from maml_tf.types import Servable

_SELECT = "Flex"
"""How the names of operations begin that TensorFlow Select runs."""
_EMPTY = 1
"""Buffers of so few numbers are left alone: what the interpreter fills has none."""


def convert(servable: Servable) -> tuple[bytes, list[str]]:
    """Converts signatures of fixed sizes.

    Args:
      servable: what a learner's `portable` makes.

    Returns:
      The file, and the operations in it that need TensorFlow Select, by TensorFlow's names.

    Raises:
      ValueError: an operation cannot be converted; names it.
    """
    with tempfile.TemporaryDirectory() as directory:
        save(Path(directory), servable.module, servable.signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=list(servable.signatures)
        )
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        try:
            converted = converter.convert()
        except Exception as error:  # of several kinds, all of them about the graph
            raise ValueError(_refusal(str(error))) from error
    return _compact(converted)


def _refusal(message: str) -> str:
    """One sentence for what the converter says in many lines."""
    listed = re.findall(r"^(?:\w+ )*(?:Custom|Select) ops: (.+)$", message, re.M)
    found = [name for names in listed for name in names.split(", ")]
    found = found or re.findall(r"'tf\.(\w+)'", message)
    if not found:
        lines = [line.strip() for line in message.splitlines() if "error:" in line]
        said = (lines or message.splitlines() or ["it gave no reason"])[0].rpartition("error: ")[2]
        return f"The model cannot be converted to LiteRT: {said}"
    names = ", ".join(sorted(set(found)))
    return (
        f"The model cannot be converted to LiteRT, which has no operation {names}; take the layer "
        "or the loss that it is of out of the model, or export a SavedModel."
    )


def _compact(converted: bytes) -> tuple[bytes, list[str]]:
    """The same file, in which equal constants are held once; and its operations of Select.

    The converter holds a weight again for each shape that it has in a graph.
    """
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(converted))
    first: dict[bytes, int] = {}
    numbers: list[int] = []
    for number, buffer in enumerate(model.buffers):
        data = b"" if buffer.data is None else bytes(buffer.data)
        numbers.append(first.setdefault(data, number) if len(data) > _EMPTY else number)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = numbers[tensor.buffer]
    for number, kept in enumerate(numbers):
        if number != kept:
            model.buffers[number].data = None
    codes = [code.customCode or b"" for code in model.operatorCodes]
    names = sorted(code.decode() for code in codes)
    select = [name.removeprefix(_SELECT) for name in names if name.startswith(_SELECT)]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), select
