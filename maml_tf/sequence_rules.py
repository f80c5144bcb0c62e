"""How embeddings, attention and recurrent layers run on a stack of tasks (see layer_rules.py).

Shape letters: T tasks, B examples a task, S time steps, C features in, U units, V words.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import layers

from maml_tf.fast_weights import multiply
from maml_tf.functional import Run, stacked
from maml_tf.layer_rules import activate, altered
from maml_tf.single_task import replaced
from maml_tf.task_axis import fold, fold_all, get_mask, lengths, unfold, unfold_all


@stacked.register(layers.Embedding)
def _embedding(layer, x, run):
    if altered(layer):
        return NotImplemented
    words = x if x.dtype in (tf.int32, tf.int64) else tf.cast(x, tf.int32)
    table = run.value(layer.embeddings)
    if run.is_stacked(layer.embeddings):
        # All tables as one, for a batched gather differentiates by a slower way.
        first = tf.range(lengths(x)[0], dtype=words.dtype) * layer.input_dim
        words += tf.reshape(first, [-1, *[1] * (x.shape.rank - 1)])
        table = tf.reshape(table, [-1, table.shape[-1]])
    return tf.cast(tf.gather(table, words), layer.compute_dtype)


# --- layers whose own code treats each example alone, around layers that have rules ---------------


@stacked.register(layers.MultiHeadAttention)
@stacked.register(layers.GroupQueryAttention)
def _attention(layer, x, run, **named):
    parts = ("_query_dense", "_key_dense", "_value_dense", "_gate_dense", "_output_dense")
    inner = [part for part in (getattr(layer, name, None) for name in parts) if part is not None]
    return run.folded(layer, inner, x, **named)


@stacked.register(layers.Attention)
def _dot_product_attention(layer, x, run, **named):
    if layer.trainable_variables:
        return NotImplemented
    return run.folded(layer, [], x, **named)


@stacked.register(layers.TimeDistributed)
def _time_distributed(layer, x, run, **named):
    return run.folded(layer, [layer.layer], x, **named)


@stacked.register(layers.Bidirectional)
def _bidirectional(layer, x, run, **named):
    with contextlib.ExitStack() as stack:
        for fused in ("_can_attempt_fused_lstm", "_can_attempt_fused_gru"):
            if hasattr(layer, fused):  # kernels for one set of weights
                stack.enter_context(replaced(layer, fused, lambda *_: False))
        return run.folded(layer, [layer.forward_layer, layer.backward_layer], x, **named)


# --- recurrent layers: inputs of all steps are projected at once, then Keras' own loop ------------


@stacked.register(layers.RNN)
def _recurrent(layer, x, run, *, initial_state=None, mask=None):
    cell = layer.cell
    step = _STEPS.get(type(cell))
    stepped = step is not None and not altered(cell) and None not in x.shape[2:]
    if layer.stateful or not stepped or run.seed() is not None and _drops(cell):
        return NotImplemented
    x, mask = tf.cast(x, layer.compute_dtype), get_mask(x) if mask is None else mask
    projected = multiply(x, run.matrix(cell.kernel))
    # Values, and read here: the loop's body is a graph of its own.
    kernel = tf.cast(run.value(cell.recurrent_kernel), projected.dtype)
    bias = tf.cast(run.value(cell.bias), projected.dtype) if cell.use_bias else None
    if isinstance(cell, layers.GRUCell) and cell.reset_after and cell.use_bias:
        bias, own = bias[..., 0, :], bias[..., 1, :]
    else:
        own = None  # the second bias of a GRU, of what its state is multiplied to
    if bias is not None:
        projected += tf.reshape(bias, [-1, *[1] * (x.shape.rank - 2), bias.shape[-1]])
    compute = functools.partial(step, _Cell(cell, run, kernel, own, x))
    with replaced(cell, "call", compute), keras.StatelessScope():
        # Not `layer(...)`: its loop may be a fused kernel for one set of weights, and the width
        # of what it is given is not that of its inputs.
        with replaced(layer, "inner_loop", functools.partial(layers.RNN.inner_loop, layer)):
            outputs = layers.RNN.call(
                layer,
                fold(projected),
                initial_state=fold_all(initial_state),
                mask=None if mask is None else fold(mask),
                training=False,
            )
    return unfold_all(outputs, x)


def _drops(cell: Any) -> bool:
    return bool(getattr(cell, "dropout", 0.0) or getattr(cell, "recurrent_dropout", 0.0))


class _Cell(NamedTuple):
    """What one step of a recurrent layer needs beside its inputs and state."""

    layer: Any
    run: Run
    kernel: tf.Tensor  # of the state: [U, ...], or one for each task
    bias: tf.Tensor | None  # of the state's product, likewise
    like: tf.Tensor  # [T, B, ...]: the lengths of the first two axes

    def product(self, state: tf.Tensor, columns: slice = slice(None)) -> tf.Tensor:
        """`state [T * B, U]` times the kernel, or some columns of it: `[T * B, ...]`."""
        kernel = self.kernel[..., columns]
        if kernel.shape.rank == 2:
            return state @ kernel
        return fold(unfold(state, self.like) @ kernel)

    def biased(self, y: tf.Tensor) -> tf.Tensor:
        """`y [T * B, ...]` plus the bias of the state's product."""
        if self.bias is None:
            return y
        own = self.bias[:, None] if self.bias.shape.rank == 2 else self.bias
        return fold(unfold(y, self.like) + own)

    def activated(self, y: tf.Tensor) -> tf.Tensor:
        """The cell's activation of `y [T * B, U]`."""
        return fold(activate(self.layer.activation, unfold(y, self.like), self.run))

    def gate(self, y: tf.Tensor) -> tf.Tensor:
        """The activation of the cell's gates."""
        gated = activate(self.layer.recurrent_activation, unfold(y, self.like), self.run)
        return fold(gated)


def _lstm_step(cell, inputs, states, training=None):
    del training
    before, carry = states
    i, f, c, o = tf.split(inputs + cell.product(before), 4, axis=-1)
    carry = cell.gate(f) * carry + cell.gate(i) * cell.activated(c)
    after = cell.gate(o) * cell.activated(carry)
    return after, [after, carry]


def _gru_step(cell, inputs, states, training=None):
    del training
    before, two = states[0], 2 * cell.layer.units
    x_z, x_r, x_h = tf.split(inputs, 3, axis=-1)
    if cell.layer.reset_after:
        z, r, h = tf.split(cell.biased(cell.product(before)), 3, axis=-1)
        z, r = cell.gate(x_z + z), cell.gate(x_r + r)
        candidate = x_h + r * h
    else:
        z, r = tf.split(cell.product(before, slice(two)), 2, axis=-1)
        z, r = cell.gate(x_z + z), cell.gate(x_r + r)
        candidate = x_h + cell.product(r * before, slice(two, None))
    after = z * before + (1 - z) * cell.activated(candidate)
    return after, [after]


def _simple_step(cell, inputs, states, training=None):
    del training
    y = cell.activated(inputs + cell.product(states[0]))
    return y, [y]


_STEPS = {
    layers.LSTMCell: _lstm_step,
    layers.GRUCell: _gru_step,
    layers.SimpleRNNCell: _simple_step,
}
