"""What the benchmarks run: settings, fixed random data, and the arithmetic of one meta-step.

Imports nothing but NumPy, so that a peer's own interpreter can read it too.
Shape letters as in `maml_tf.types`: T tasks, B examples in a set, N ways, K shots, S inner steps.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

Network = Literal["sinusoid", "omniglot_conv", "omniglot_dense", "miniimagenet_conv"]

HIDDEN_UNITS = {"sinusoid": (40, 40), "omniglot_dense": (256, 128, 64, 64)}
CONVOLUTIONS = 4
KERNEL_SIZE = 3
BATCH_NORM_EPSILON = 1e-3
META_STEP_SIZE = 1e-3
ADAM_EPSILON = 1e-7  # Keras' default; PyTorch's and Optax' is 1e-8


@dataclasses.dataclass(frozen=True)
class Setting:
    """One experiment's shapes and step sizes, at the paper's values.

    Classification sums the cross-entropy over a set's examples and divides by `shots`, support and
    query alike; regression takes the mean squared error.
    """

    name: str
    tasks: int
    ways: int  # 1 for regression
    shots: int
    queries: int  # query examples a class
    inner_steps: int
    step_size: float
    network: Network
    image_size: int = 28
    channels: int = 1
    filters: int = 64
    max_pool: bool = False  # stride 1 and a 2x2 max-pool, in place of stride 2
    first_order: bool = False

    @property
    def regression(self) -> bool:
        """Whether targets are real numbers and the loss the mean squared error."""
        return self.network == "sinusoid"

    @property
    def convolutional(self) -> bool:
        """Whether the network begins with convolutions."""
        return self.network in ("omniglot_conv", "miniimagenet_conv")


_OMNIGLOT_5WAY = Setting(
    "omniglot_5way_1shot", 32, 5, 1, 1, inner_steps=1, step_size=0.4, network="omniglot_conv"
)
SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("sinusoid", 25, 1, 10, 10, inner_steps=1, step_size=0.01, network="sinusoid"),
        _OMNIGLOT_5WAY,
        dataclasses.replace(
            _OMNIGLOT_5WAY, name="omniglot_5way_1shot_first_order", first_order=True
        ),
        dataclasses.replace(
            _OMNIGLOT_5WAY, name="omniglot_5way_1shot_dense", network="omniglot_dense"
        ),
        Setting(
            "omniglot_20way_1shot", 16, 20, 1, 1, inner_steps=5, step_size=0.1,
            network="omniglot_conv",
        ),
        Setting(
            "miniimagenet_5way_1shot", 4, 5, 1, 15, inner_steps=5, step_size=0.01,
            network="miniimagenet_conv", image_size=84, channels=3, filters=32, max_pool=True,
        ),
    )
}  # fmt: skip


def same_padding(size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding of one side: (before, after), the odd one after."""
    total = max((-(-size // stride) - 1) * stride + KERNEL_SIZE - size, 0)
    return total // 2, total - total // 2


class Layer(NamedTuple):
    """A layer as the matrix product it is: [examples * pixels, inputs] @ [inputs, units]."""

    pixels: int  # output positions an example; 1 for a dense layer
    inputs: int  # 9 * channels for a 3x3 convolution
    units: int


def layers(setting: Setting) -> list[Layer]:
    """The products of one forward pass, from the input to the outputs."""
    if not setting.convolutional:
        inputs = 1 if setting.regression else setting.image_size**2 * setting.channels
        widths = (inputs, *HIDDEN_UNITS[setting.network], setting.ways)
        return [Layer(1, fan_in, units) for fan_in, units in zip(widths, widths[1:], strict=False)]
    size, channels, result = setting.image_size, setting.channels, []
    for _ in range(CONVOLUTIONS):
        out = size if setting.max_pool else -(-size // 2)
        result.append(Layer(out**2, KERNEL_SIZE**2 * channels, setting.filters))
        size, channels = (size // 2 if setting.max_pool else out), setting.filters
    features = channels * (size**2 if setting.network == "miniimagenet_conv" else 1)
    return [*result, Layer(1, features, setting.ways)]


def floating_point_operations(setting: Setting) -> int:
    """Operations (a multiply and an add are two) of one meta-step's matrix products, from shapes.

    A convolution counts as the product of its patches (zeros of the padding included) and its
    kernel. Normalisation, activations, pooling, the loss and Adam are not counted. Let F be the
    cost of a layer's product Y = X W for a set of all T tasks. Every product below costs F too:

      forward and backward   Y = X W;  dW = X' dY;  dX = dY W'                          3 F
      reverse through them   of Y:   X~  += Y~ W',  W~  += X' Y~
                             of dW:  X~  += dY V',  dY~ += X V    (V the cotangent of dW)
                             of dX:  dY~ += U W,    W~  += U' dY  (U the cotangent of dX)   6 F

    The first layer's input is data: no dX, hence no reverse of it, and no X~. That leaves it 2 F
    and 2 F. An inner step is forward and backward on the support set and, unless first-order, the
    reverse through them; the query set adds one forward and backward. So with S inner steps a
    layer costs (9 S + 3) F and the first (4 S + 2) F when support and query are equally large;
    first-order, (3 S + 3) F and (2 S + 2) F. Omniglot 5-way 1-shot: 12 (578 + 189 + 47) + 6 * 36
    million = 10.0 GFLOP.
    """
    support = setting.tasks * setting.ways * setting.shots
    query = setting.tasks * setting.ways * setting.queries
    total = 0
    for depth, layer in enumerate(layers(setting)):
        forward_backward, reverse = (2, 2) if depth == 0 else (3, 6)
        inner_step = forward_backward + (0 if setting.first_order else reverse)
        examples = setting.inner_steps * inner_step * support + forward_backward * query
        total += 2 * examples * layer.pixels * layer.inputs * layer.units
    return total


def random_task_batch(setting: Setting, seed: int = 0) -> dict[str, np.ndarray]:
    """Fixed random tasks: `support_x`, `support_y`, `query_x`, `query_y`.

    x is float32 [T, B, H, W, C] (flat [T, B, H * W * C] for dense networks, [T, K, 1] for
    sinusoids), y is int32 [T, B] class by class, or float32 [T, K, 1].
    """
    random = np.random.default_rng(seed)
    data = {}
    amplitude = random.uniform(0.1, 5.0, [setting.tasks, 1, 1])
    phase = random.uniform(0.0, np.pi, [setting.tasks, 1, 1])
    for name, examples in (("support", setting.shots), ("query", setting.queries)):
        if setting.regression:
            x = random.uniform(-5.0, 5.0, [setting.tasks, examples, 1])
            y = (amplitude * np.sin(x - phase)).astype(np.float32)
        else:
            image = (setting.image_size, setting.image_size, setting.channels)
            shape = image if setting.convolutional else (int(np.prod(image)),)
            x = random.uniform(size=(setting.tasks, setting.ways * examples, *shape))
            labels = np.repeat(np.arange(setting.ways, dtype=np.int32), examples)
            y = np.tile(labels, (setting.tasks, 1))
        data[f"{name}_x"], data[f"{name}_y"] = x.astype(np.float32), y
    return data


def initial_weights(setting: Setting, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights by name, in the order of the layers.

    `conv1, b1, beta1, ..., w5, b5` (kernels HWIO) or `w1, b1[, beta1], w2, ...`; `beta` is a batch
    normalisation's offset, which the inner loop leaves alone. Standard deviations give each layer
    outputs of about its inputs' size, so that timings see no denormal numbers.
    """
    random = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    shapes = layers(setting)
    for number, layer in enumerate(shapes, start=1):
        kernel = random.normal(size=(layer.inputs, layer.units)) * np.sqrt(2.0 / layer.inputs)
        if setting.convolutional and number <= CONVOLUTIONS:
            kernel = kernel.reshape(KERNEL_SIZE, KERNEL_SIZE, -1, layer.units)
            weights[f"conv{number}"] = kernel
        else:
            weights[f"w{number}"] = kernel
        weights[f"b{number}"] = np.zeros(layer.units)
        if number < len(shapes) and not setting.regression:
            weights[f"beta{number}"] = np.zeros(layer.units)
    return {name: value.astype(np.float32) for name, value in weights.items()}
