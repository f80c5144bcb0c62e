"""How embeddings, attention and recurrent layers run on a stack of tasks (see layer_rules.py).

Shape letters: T tasks, B examples per task, S time steps, C features in, U units, V words.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import layers

from maml_tf.engine.fast_weights import multiply
from maml_tf.engine.layer_rules import activate, altered, is_safe
from maml_tf.engine.run import Run, stacked
from maml_tf.engine.single_task import replaced
from maml_tf.engine.task_axis import fold, fold_all, get_mask, lengths, unfold, unfold_all


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
    if layer.stateful or (run.noise_is_on and _drops(layer.cell)):
        return NotImplemented
    known = type(layer.cell) in _STEPS and not altered(layer.cell) and x.shape.rank == 4
    inputs, compute = (_projected if known else _by_the_cells_own_code)(layer, x, run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(layer.cell, "call", compute))
        # Not `layer(...)`: its loop may be a fused kernel for one set of weights, and the width
        # of what it is given may not be that of its inputs.
        loop = functools.partial(layers.RNN.inner_loop, layer)
        stack.enter_context(replaced(layer, "inner_loop", loop))
        # It would run stacked cells once on weights of their own, for masks that nobody uses.
        stack.enter_context(replaced(layer, "_maybe_config_dropout_masks", lambda *_: None))
        stack.enter_context(keras.StatelessScope())
        mask = get_mask(x) if mask is None else mask
        outputs = layers.RNN.call(
            layer,
            fold(inputs),
            initial_state=fold_all(initial_state),
            mask=None if mask is None else fold(mask),
            training=False,
        )
    return unfold_all(outputs, x)


def _projected(layer, x: tf.Tensor, run: Run) -> tuple[tf.Tensor, Any]:
    """All steps' products with the input kernel, and a step that starts from them."""
    cell = layer.cell
    x = tf.cast(x, layer.compute_dtype)
    projected = multiply(x, run.matrix(cell.kernel))
    # Values, and read here: the loop's body is a graph of its own.
    kernel = tf.cast(run.value(cell.recurrent_kernel), projected.dtype)
    bias = tf.cast(run.value(cell.bias), projected.dtype) if cell.use_bias else None
    own = None  # the second bias of a GRU, of what its state is multiplied to
    if bias is not None and isinstance(cell, layers.GRUCell) and cell.reset_after:
        bias, own = bias[..., 0, :], bias[..., 1, :]
    if bias is not None:
        projected += tf.reshape(bias, [-1, *[1] * (x.shape.rank - 2), bias.shape[-1]])
    return projected, functools.partial(_STEPS[type(cell)], _Cell(cell, run, kernel, own, x))


def _by_the_cells_own_code(layer, x: tf.Tensor, run: Run) -> tuple[tf.Tensor, Any]:
    """A step of any cell, one task at a time inside the loop."""
    cell = layer.cell
    own = Run({id(v): run.value(v) for v in cell.trainable_variables}, mask=run.mask)
    own.num_tasks, own.training = run.num_tasks, run.training
    call = cell.call

    def compute(inputs, states, training=None):
        del training
        with replaced(cell, "call", call):
            outputs = own.call(cell, unfold(inputs, x), unfold_all(states, x))
        if own.statistics or own.penalties:
            raise ValueError(
                f"The cell of '{layer.name}' normalises batches or adds losses at every time step; "
                "put that before or behind the recurrent layer."
            )
        return fold_all(outputs)

    return x, compute


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
        return self._applied(self.layer.activation, y)

    def gate(self, y: tf.Tensor) -> tf.Tensor:
        """The activation of the cell's gates."""
        return self._applied(self.layer.recurrent_activation, y)

    def _applied(self, function: Any, y: tf.Tensor) -> tf.Tensor:
        if is_safe(function):
            return function(y)
        return fold(activate(function, unfold(y, self.like), self.run))


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
