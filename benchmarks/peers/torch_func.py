"""One MAML meta-step in PyTorch: `torch.func.vmap` over tasks of `torch.func.grad`, eager.

A convolution with a kernel of its own for every task is either the native one, which `vmap` turns
into a grouped convolution, or a product of patches and kernels. Which is faster depends on shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import settings
from benchmarks.settings import Setting

Weights: TypeAlias = dict[str, torch.Tensor]
Convolution: TypeAlias = Literal["native", "slices", "unfold"]


def _pad(x: torch.Tensor, stride: int) -> torch.Tensor:
    """Pads an image batch [B, C, H, W] as TensorFlow's "SAME" does."""
    height, width = (settings.same_padding(size, stride) for size in x.shape[-2:])
    return F.pad(x, (*width, *height))


def _convolve(kind: Convolution, x, kernel, bias, stride: int):
    """[B, C, H, W] by a kernel (3, 3, C, F) to [B, F, H', W']."""
    x = _pad(x, stride)
    if kind == "native":
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride)
    rows, cols = ((size - settings.KERNEL_SIZE) // stride + 1 for size in x.shape[-2:])
    if kind == "unfold":
        k = kernel.permute(2, 0, 1, 3).reshape(-1, kernel.shape[-1])
        p = F.unfold(x, 3, stride=stride).transpose(1, 2).reshape(-1, k.shape[0])
        return (p @ k + bias).reshape(x.shape[0], rows, cols, -1).permute(0, 3, 1, 2)
    x = x.permute(0, 2, 3, 1)
    taps = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (cols - 1) + 1 : stride]
        for i in range(settings.KERNEL_SIZE)
        for j in range(settings.KERNEL_SIZE)
    ]
    p = torch.cat(taps, -1).flatten(0, 2)
    y = p @ kernel.flatten(0, 2) + bias
    return y.reshape(x.shape[0], rows, cols, -1).permute(0, 3, 1, 2)


BN = "hand"


def _normalise(x, offset):
    if BN == "fused":
        return F.batch_norm(x, None, None, None, offset, True, 0.0, settings.BATCH_NORM_EPSILON)
    axes = [0, 2, 3][: x.ndim - 1] if x.ndim == 4 else [0]
    if BN == "hand":
        var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    if BN == "stop":
        mean = x.mean(axes, keepdim=True)
        var = torch.square(x - mean.detach()).mean(axes, keepdim=True)
    off = offset[:, None, None] if x.ndim == 4 else offset
    return (x - mean) * torch.rsqrt(var + settings.BATCH_NORM_EPSILON) + off


def apply(setting: Setting, convolution: Convolution, weights: Weights, x):
    depth = len(settings.layers(setting))
    for i in range(1, depth):
        if setting.convolutional:
            stride = 1 if setting.max_pool else 2
            x = _convolve(convolution, x, weights[f"conv{i}"], weights[f"b{i}"], stride)
        else:
            x = x @ weights[f"w{i}"] + weights[f"b{i}"]
        if f"beta{i}" in weights:
            x = _normalise(x, weights[f"beta{i}"])
        x = F.relu(x)
        if setting.convolutional and setting.max_pool:
            x = F.max_pool2d(x, 2)
    if setting.network == "omniglot_conv":
        x = x.mean((2, 3))
    if setting.network == "miniimagenet_conv":
        x = x.permute(0, 2, 3, 1).flatten(1)
    return x @ weights[f"w{depth}"] + weights[f"b{depth}"]


def _loss(setting, convolution, weights, x, y):
    outputs = apply(setting, convolution, weights, x)
    if setting.regression:
        return F.mse_loss(outputs, y)
    return F.cross_entropy(outputs, y, reduction="sum") / setting.shots


def _query_loss(setting, convolution, weights, task):
    fixed = {name: value for name, value in weights.items() if name.startswith("beta")}
    fast = {name: value for name, value in weights.items() if name not in fixed}

    def support_loss(fast):
        return _loss(setting, convolution, fixed | fast, task["support_x"], task["support_y"])

    for _ in range(setting.inner_steps):
        gradient = torch.func.grad(support_loss)(fast)
        if setting.first_order:
            gradient = {name: value.detach() for name, value in gradient.items()}
        fast = {name: value - setting.step_size * gradient[name] for name, value in fast.items()}
    return _loss(setting, convolution, fixed | fast, task["query_x"], task["query_y"])


class Step:
    def __init__(self, setting, weights, data, convolution="native", outer="autograd", fused=False):
        self._setting = setting
        self.weights = {n: torch.tensor(v, requires_grad=True) for n, v in weights.items()}
        self._data = {}
        for name, value in data.items():
            v = torch.as_tensor(value)
            if setting.convolutional and name.endswith("_x"):
                v = v.permute(0, 1, 4, 2, 3).contiguous()
            self._data[name] = v.long() if v.dtype == torch.int32 else v
        self._optimizer = torch.optim.Adam(
            self.weights.values(), settings.META_STEP_SIZE, eps=settings.ADAM_EPSILON, fused=fused
        )
        per = torch.func.vmap(partial(_query_loss, setting, convolution), in_dims=(None, 0))
        self._meta = lambda w, d: per(w, d).mean()
        self.outer = outer

    def _lg(self):
        if self.outer == "autograd":
            loss = self._meta(self.weights, self._data)
            g = torch.autograd.grad(loss, list(self.weights.values()))
            return loss, dict(zip(self.weights, g))
        w = {n: v.detach() for n, v in self.weights.items()}
        g, loss = torch.func.grad_and_value(self._meta)(w, self._data)
        return loss, g

    def __call__(self) -> float:
        loss, g = self._lg()
        for n, v in self.weights.items():
            v.grad = g[n]
        self._optimizer.step()
        return loss.item()

    def meta_gradient(self):
        loss, g = self._lg()
        return loss.item(), {n: v.numpy() for n, v in g.items()}


def build(setting, weights, data, **kw) -> Step:
    return Step(setting, weights or settings.initial_weights(setting), data, **kw)
