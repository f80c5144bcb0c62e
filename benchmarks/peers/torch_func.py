"""One MAML meta-step in PyTorch: `torch.func.vmap` over tasks of `torch.func.grad`, eager.

`vmap` turns a convolution with a kernel of its own for every task into a grouped one. A product of
patches (`unfold`, or nine strided slices) and kernels was never faster here, and about a tenth
slower on Omniglot. The outer gradient is plain autograd, which has less to do in Python than a
second `torch.func.grad`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import settings
from benchmarks.settings import Setting

Weights: TypeAlias = dict[str, torch.Tensor]


def _convolve(
    x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, stride: int
) -> torch.Tensor:
    """[B, C, H, W] by a kernel [3, 3, C, F] to [B, F, H', W'], padded as TensorFlow's "SAME"."""
    height, width = (settings.same_padding(size, stride) for size in x.shape[-2:])
    x = F.pad(x, (*width, *height))
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride)


def _normalise(x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Batch normalisation of [B, C, ...] by the current set's statistics; see the JAX peer."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    mean = x.mean(axes, keepdim=True)
    variance = torch.square(x - mean.detach()).mean(axes, keepdim=True)
    offset = offset.reshape(-1, *[1] * (x.ndim - 2))
    return (x - mean) * torch.rsqrt(variance + settings.BATCH_NORM_EPSILON) + offset


def apply(setting: Setting, weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """Outputs [B, N] of one task's examples [B, ...], images as [B, C, H, W]."""
    depth = len(settings.layers(setting))
    for i in range(1, depth):
        if setting.convolutional:
            stride = 1 if setting.max_pool else 2
            x = _convolve(x, weights[f"conv{i}"], weights[f"b{i}"], stride)
        else:
            x = x @ weights[f"w{i}"] + weights[f"b{i}"]
        if f"beta{i}" in weights:
            x = _normalise(x, weights[f"beta{i}"])
        x = F.relu(x)
        if setting.convolutional and setting.max_pool:
            x = F.max_pool2d(x, 2)
    if setting.network == "omniglot_conv":
        x = x.mean((2, 3))
    elif setting.convolutional:
        x = x.permute(0, 2, 3, 1).flatten(1)  # the order in which TensorFlow flattens
    return x @ weights[f"w{depth}"] + weights[f"b{depth}"]


def _loss(setting: Setting, weights: Weights, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One task's mean squared error, or its summed cross-entropy divided by K."""
    outputs = apply(setting, weights, x)
    if setting.regression:
        return F.mse_loss(outputs, y)
    return F.cross_entropy(outputs, y, reduction="sum") / setting.shots


def _query_loss(setting: Setting, weights: Weights, task: Weights) -> torch.Tensor:
    """One task's query loss after `inner_steps` gradient steps on its support set."""
    fixed = {name: value for name, value in weights.items() if name.startswith("beta")}
    fast = {name: value for name, value in weights.items() if name not in fixed}

    def support_loss(fast: Weights) -> torch.Tensor:
        return _loss(setting, fixed | fast, task["support_x"], task["support_y"])

    for _ in range(setting.inner_steps):
        gradient = torch.func.grad(support_loss)(fast)
        if setting.first_order:
            gradient = {name: value.detach() for name, value in gradient.items()}
        fast = {name: value - setting.step_size * gradient[name] for name, value in fast.items()}
    return _loss(setting, fixed | fast, task["query_x"], task["query_y"])


class Step:
    """Weights, optimizer state and the meta-step on fixed data."""

    def __init__(
        self,
        setting: Setting,
        weights: Mapping[str, np.ndarray],
        data: Mapping[str, np.ndarray],
    ):
        self.weights = {
            name: torch.tensor(value, requires_grad=True) for name, value in weights.items()
        }
        self._data = {name: torch.tensor(value) for name, value in data.items()}
        for name in ("support", "query"):
            if setting.convolutional:
                images = self._data[f"{name}_x"].permute(0, 1, 4, 2, 3)
                self._data[f"{name}_x"] = images.contiguous()
            if not setting.regression:
                self._data[f"{name}_y"] = self._data[f"{name}_y"].long()
        self._losses = torch.func.vmap(partial(_query_loss, setting), in_dims=(None, 0))
        self._optimizer = torch.optim.Adam(
            self.weights.values(), settings.META_STEP_SIZE, eps=settings.ADAM_EPSILON, fused=True
        )

    def _differentiate(self) -> float:
        """Puts the meta-gradient in the weights' `grad` and returns the query loss."""
        loss = self._losses(self.weights, self._data).mean()
        self._optimizer.zero_grad()
        loss.backward()
        return loss.item()

    def __call__(self) -> float:
        """Takes one meta-step in place; returns the query loss before it."""
        loss = self._differentiate()
        self._optimizer.step()
        return loss

    def meta_gradient(self) -> tuple[float, dict[str, np.ndarray]]:
        """The query loss and its gradient by weight, without taking a step."""
        loss = self._differentiate()
        return loss, {name: value.grad.numpy().copy() for name, value in self.weights.items()}


def build(
    setting: Setting, weights: Mapping[str, np.ndarray] | None, data: Mapping[str, np.ndarray]
) -> Step:
    """The meta-step of `setting` on `data`, from `weights` or from random ones."""
    return Step(setting, weights or settings.initial_weights(setting), data)
