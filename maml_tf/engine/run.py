"""What the layers of one call share, and how each is run: by a rule, or one task at a time.

A rule for a layer of your own::

    @maml_tf.stacked.register(MyScale)
    def _(layer, x, run):
        return x * run.aligned(layer.scale, x)

Shape letters: T tasks, B examples per task, C channels.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from maml_tf.engine import penalties
from maml_tf.engine.fast_weights import FastWeight
from maml_tf.engine.normalization import masked_moments, moments, standardize
from maml_tf.engine.single_task import OFF, constants, one_task_at_a_time, replaced, warn_once
from maml_tf.engine.task_axis import first_tensor, fold_all, get_mask, unfold_all, with_mask


class BatchStatistics(NamedTuple):
    """What one batch normalisation saw."""

    layer: Any  # the Keras layer, or None
    mean: tf.Tensor  # [T, C]
    variance: tf.Tensor  # [T, C]


Statistics: TypeAlias = list[BatchStatistics]
"""One a call of a batch normalisation, in the order of the calls."""


class Run:
    """What the layers of one call share: the weights in force, batch statistics, and penalties."""

    def __init__(
        self,
        weights: dict[int, tf.Tensor],
        statistics: Statistics | None = None,
        *,
        mask: tf.Tensor | None = None,
        noise: tf.Tensor | None = None,
    ):
        """Holds `weights` by the id of the variable that each stands for."""
        self._weights = weights
        self._given = statistics
        self._seeds_drawn = 0
        self._noise = noise
        self.mask = mask  # [T, B]
        self.num_tasks: Any = None
        self.training: bool | None = None  # what the graph itself says, of the layers inside
        self.statistics: Statistics = []
        self.penalties: list[tf.Tensor] = []  # each [T]
        self.calls: list[tuple[Any, bool, Any]] = []
        self.watched: Any = None  # a layer whose inputs are wanted
        self.entered: list[Any] = []  # those inputs, one a call
        self.alone_with: list[tuple[Any, tuple, dict]] | None = None  # of the fall-back, if wanted

    def moved(self, weights: dict[int, tf.Tensor]) -> Run:
        """Another run, in which some variables have other values."""
        other = Run(self._weights | weights, mask=self.mask)
        other.num_tasks, other.training = self.num_tasks, self.training
        return other

    # --- weights ---

    def value(self, variable: keras.Variable) -> tf.Tensor:
        """Returns what stands for `variable`: shared, stacked, or its own value if it is frozen."""
        value = self.matrix(variable)
        return value.stacked() if isinstance(value, FastWeight) else value

    def matrix(self, variable: keras.Variable) -> tf.Tensor | FastWeight:
        """Returns `value`, or what gives its products without making it: for `multiply` alone."""
        given = self._weights.get(id(variable))
        return variable.value if given is None else given

    def stands_for(self, variable: keras.Variable) -> bool:
        """Whether something was given for `variable`."""
        return id(variable) in self._weights

    def is_stacked(self, variable: keras.Variable) -> bool:
        """Whether each task has its own value of `variable`."""
        value = self.matrix(variable)
        return isinstance(value, FastWeight) or value.shape.rank == len(variable.shape) + 1

    def aligned(self, variable: keras.Variable, x: tf.Tensor) -> tf.Tensor:
        """Returns `variable`'s value, shaped to broadcast against the last axes of `x [T, ...]`."""
        value = tf.cast(self.value(variable), x.dtype)
        if not self.is_stacked(variable):
            return value
        ones = [1] * (x.shape.rank - value.shape.rank)
        return tf.reshape(value, [-1, *ones, *value.shape[1:]])

    # --- noise ---

    @property
    def switch(self) -> int:
        """What a layer is given for `training` where its model says nothing."""
        return OFF if self._noise is None else 1

    @property
    def noise_is_on(self) -> bool:
        """Whether dropout and noise act in the layer that is being called."""
        return self._noise is not None and self.training is not False

    def seed(self) -> tf.Tensor | None:
        """A seed of its own for each call, int32 `[2]`; None where noise is off."""
        if not self.noise_is_on:
            return None
        self._seeds_drawn += 1
        return tf.random.experimental.stateless_fold_in(self._noise, self._seeds_drawn)

    def seeds(self) -> tf.Tensor | None:
        """A seed for each task, int32 `[T, 2]`; None where noise is off."""
        seed = self.seed()
        if seed is None:
            return None
        return tf.random.stateless_uniform(
            [self.num_tasks, 2], seed, None, None, tf.int32, alg="philox"
        )

    # --- batch statistics ---

    def statistics_to_come(self) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Of those given, mean and variance of the ones that no layer has used yet."""
        rest = [] if self._given is None else self._given[len(self.statistics) :]
        return [(s.mean, s.variance) for s in rest]

    def saw(self, layer: keras.Layer | None, mean: tf.Tensor, variance: tf.Tensor) -> None:
        """Notes the statistics `[T, C]` that a batch normalisation used."""
        self.statistics.append(BatchStatistics(layer, mean, variance))

    def standardize_batch(
        self, layer: keras.Layer, x: tf.Tensor, axis: int, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Standardises `x [T, ..., C, ...]` by each task's own moments, or by those given.

        Not by `tf.nn.moments`, which would hold the mean constant inside the variance: right for
        one derivative, wrong for two. Its meta-gradient gives a bias before the normalisation,
        which can change nothing, a gradient (tests/test_goldens.py).

        Args:
          layer: whose epsilon counts, and whose statistics are noted.
          x: `[T, B, ...]`.
          axis: of the channels.
          mask: broadcasts against `x`: False where an entry does not count.
        """
        axes = [a for a in range(1, x.shape.rank) if a != axis]
        if self._given is not None:
            shape = [-1, *(x.shape[axis] if a == axis else 1 for a in range(1, x.shape.rank))]
            given = self.statistics_to_come()[0]
            mean, variance = (tf.cast(tf.reshape(m, shape), x.dtype) for m in given)
            y = (x - mean) * tf.math.rsqrt(variance + layer.epsilon)
        elif mask is not None:
            mean, variance = masked_moments(x, axes, mask)
            y = (x - mean) * tf.math.rsqrt(variance + layer.epsilon)
        else:
            mean, variance = moments(x, axes)
            y = standardize(x, axes, layer.epsilon)
        self.saw(layer, tf.squeeze(mean, axes), tf.squeeze(variance, axes))
        return y

    def normalized(
        self,
        layer: keras.Layer,
        x: tf.Tensor,
        *,
        training: Any,
        mask: tf.Tensor | None,
        given: tuple[tf.Tensor, tf.Tensor] | None,
        examples: tf.Tensor | None,
    ) -> tuple[tf.Tensor, list[tuple[tf.Tensor, tf.Tensor]]]:
        """A batch normalisation of one task's `x [B, ...]`, and the statistics that it used.

        For the fall-back, in whose reach Keras' variables have the task's own values.
        """
        moments = None if given is None else [BatchStatistics(None, *(m[None] for m in given))]
        own = Run({}, moments, mask=None if examples is None else examples[None])
        own.training = training
        rule = stacked.dispatch(keras.layers.BatchNormalization)
        outputs = rule(layer, x[None], own, mask=None if mask is None else mask[None])
        return outputs[0], [(s.mean[0], s.variance[0]) for s in own.statistics]

    # --- layers ---

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs one layer, any Keras operation or function, on tensors with a task axis."""
        if not isinstance(layer, keras.Layer):
            return self._by_rule_or_alone(layer, args, kwargs)
        given = None
        if layer._call_has_training_arg:
            # A graph's node holds the default of `call`, too, which says nothing.
            default = inspect.signature(layer.call).parameters.get("training")
            said = kwargs.get("training")
            given = None if default is not None and said is default.default else said
            kwargs = {k: v for k, v in kwargs.items() if k != "training"}
        with replaced(self, "training", self.training if given is None else bool(given)):
            return self._layer(layer, args, kwargs)

    def _layer(self, layer: keras.Layer, args: tuple, kwargs: dict) -> Any:
        if layer._convert_input_args and layer.autocast:
            args, kwargs = tf.nest.map_structure(
                lambda x: _as_float(x, layer.input_dtype), (args, kwargs)
            )
        return self._by_rule_or_alone(layer, args, kwargs)

    def _by_rule_or_alone(self, operation: Any, args: tuple, kwargs: dict) -> Any:
        if operation is self.watched:
            self.entered.append(args[0])
        named = _named_arguments(operation, args, kwargs) if has_rule(operation) else None
        if named is not None:
            outputs = stacked(operation, args[0], self, **named)
            if outputs is not NotImplemented:
                self.calls.append((operation, True, self.training))
                if isinstance(operation, keras.Layer):
                    _hand_masks_on(operation, args[0], named.get("mask"), outputs)
                    penalties.of_outputs(self, operation, outputs)
                return outputs
        if isinstance(operation, keras.Layer):
            warn_once(type(operation).__name__)
        self.calls.append((operation, False, self.training))
        if self.alone_with is not None:
            self.alone_with.append((operation, args, kwargs))
        return one_task_at_a_time(operation, self, args, kwargs)

    def alone(self, function: Any, *args: Any) -> Any:
        """Runs any function of one task's tensors, one task at a time."""
        return one_task_at_a_time(function, self, args, {})

    def folded(
        self, layer: keras.Layer, inner: list[keras.Layer], *args: Any, **kwargs: Any
    ) -> Any:
        """Runs a layer's own code with tasks as examples, and the layers inside it by their rules.

        For a layer that treats each example alone and leaves its weights to layers of its own.
        """
        like = first_tensor((args, kwargs))

        def by_rule(sub, call, *sub_args, training=None, **sub_kwargs):
            del training  # what Keras makes of none; the graph's own is in `self`
            unfolded = unfold_all((sub_args, sub_kwargs), like)
            with replaced(sub, "call", call):
                return fold_all(self.call(sub, *unfolded[0], **unfolded[1]))

        patches = [
            replaced(sub, "call", functools.partial(by_rule, sub, sub.call)) for sub in inner
        ]
        return run_folded(layer, like, args, kwargs, patches)


def run_folded(layer: keras.Layer, like: tf.Tensor, args, kwargs, patches=()) -> Any:
    """Calls a layer on `[T * B, ...]`, within `patches`, and gives its outputs a task axis."""
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        # Losses that the layer would add are counted by tasks, elsewhere.
        stack.enter_context(keras.StatelessScope())
        return unfold_all(layer(*fold_all(args), **fold_all(kwargs)), like)


@functools.singledispatch
def stacked(layer: keras.Operation, x: Any, run: Run) -> Any:
    """Runs `layer` on `x [T, B, ...]` (or a structure of such); register one rule a layer type.

    A rule reads each weight with `run.value` or `run.aligned` and returns `[T, B, ...]`, or
    `NotImplemented` for a variation that it does not know, which then falls back. Arguments beside
    the first are given by name to a rule that takes them; with any other rule the layer falls back.
    """
    return NotImplemented


def has_rule(layer: keras.Operation) -> bool:
    """A rule for one of Keras' layers does not speak for a subclass that may compute otherwise."""
    kinds = type(layer).__mro__
    registered = next(kind for kind in kinds if kind in stacked.registry)
    if registered is object:
        return False
    caller = next((kind for kind in kinds if "call" in vars(kind)), registered)
    containers = (keras.Function, keras.Sequential)
    return (
        registered is type(layer)
        or type(layer).__module__.startswith("keras.")
        or (registered in containers and caller.__module__.startswith("keras."))
    )


def _named_arguments(operation: Any, args: tuple, kwargs: dict) -> dict[str, Any] | None:
    """What a rule is given beside its first argument; None if it does not take some of that."""
    if not args or _holds_constants(operation, (args, kwargs)):
        return None
    parameters = list(inspect.signature(operation.call).parameters.values())
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = dict(zip(names[1:], args[1:], strict=False)) | kwargs
    defaults = {p.name: p.default for p in parameters}
    named = {k: v for k, v in named.items() if v is not None and v is not defaults.get(k, None)}
    if named and not _accepts(stacked.dispatch(type(operation)), named):
        return None
    return named


def _accepts(rule: Any, named: dict[str, Any]) -> bool:
    parameters = inspect.signature(rule).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return takes_any or named.keys() <= set(list(parameters)[3:])


def _holds_constants(operation: Any, structure: Any) -> bool:
    """Whether tensors of the graph itself are among the arguments, or variables: no task axis."""
    leaves = tf.nest.flatten(structure)
    if any(isinstance(leaf, keras.Variable) for leaf in leaves):
        return True
    written = constants(operation)
    return bool(written) and any(id(leaf) in written for leaf in leaves)


def _hand_masks_on(layer: keras.Layer, x: Any, given: Any, outputs: Any) -> None:
    """Attaches to the outputs the masks that Keras would attach (`Layer.compute_mask`)."""
    previous = given if given is not None else tf.nest.map_structure(get_mask, x)
    masked = any(mask is not None for mask in tf.nest.flatten(previous))
    if not masked and type(layer).compute_mask is keras.Layer.compute_mask:
        return
    flat = tf.nest.flatten(outputs)
    if not layer.supports_masking or all(get_mask(y) is not None for y in flat):
        return
    masks = layer.compute_mask(fold_all(x), fold_all(previous))
    for y, mask in zip(flat, tf.nest.flatten(masks), strict=False):
        if mask is not None and get_mask(y) is None:
            with_mask(y, unfold_all(mask, first_tensor(x)))


def _as_float(x: Any, dtype: str) -> Any:
    """A tensor of real numbers in `dtype`, with its mask; all else as it is."""
    if not tf.is_tensor(x) or not x.dtype.is_floating or x.dtype == dtype:
        return x
    return with_mask(tf.cast(x, dtype), get_mask(x)) if tf.as_dtype(dtype).is_floating else x
