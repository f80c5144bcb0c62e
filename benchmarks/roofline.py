"""Where a meta-step's time goes, and how fast matrix products of its own shapes run.

    python -m benchmarks.roofline --settings omniglot_5way_1shot

The profile is TensorFlow's own tracer's: milliseconds of processor time by kind of operation, all
cores added. XLA's compiled loops show as one operation, so the sinusoid is left out.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
from pathlib import Path

from benchmarks import settings
from benchmarks.peers.run import matmul_gflops
from benchmarks.worker import prepare

KINDS = {
    "matrix products": ("MatMul",),
    "convolutions": ("Conv2D",),
    "patches": ("GatherV2", "Pad", "ResourceGather"),
    "sums": ("Sum", "Mean", "AddN", "BiasAddGrad"),
    "pooling": ("Pool",),
    "layout": (
        "Transpose", "Reshape", "ConcatV2", "StridedSlice", "Slice", "Pack", "Tile", "BroadcastTo",
        "Split",
    ),
    "element-wise": (
        "Mul", "AddV2", "Add", "Sub", "Neg", "Square", "Rsqrt", "Relu", "RealDiv", "Select",
        "Maximum", "Greater", "Cast", "Exp", "Log", "Softmax", "Xent", "LogSoftmax", "FusedBatch",
    ),
}  # fmt: skip
NOT_KERNELS = (
    "Process", "call", "Eager", "TFE_", "Run", "__inference", "ExecutorDone", "Start",
    "PartitionedCall", "StatefulPartitionedCall", "While", "Function",
)  # fmt: skip


def profile(setting: settings.Setting, steps: int = 3) -> dict[str, float]:
    """Milliseconds of processor time a meta-step by kind of operation; "wall" is the clock's."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    learner, tasks = prepare(setting)
    learner.meta_steps(tasks, 0, 2)
    with tempfile.TemporaryDirectory() as directory:
        tf.profiler.experimental.start(directory)
        start = time.perf_counter()
        learner.meta_steps(tasks, 0, steps).query_loss.numpy()
        seconds = time.perf_counter() - start
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(directory).rglob("*.xplane.pb")).read_bytes())
    total: collections.Counter = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                operation = plane.event_metadata[event.metadata_id].name.split(":")[-1].strip()
                if kind := kind_of(operation):
                    total[kind] += event.duration_ps / 1e9 / steps
    return {**dict(total.most_common()), "wall": 1e3 * seconds / steps}


def kind_of(operation: str) -> str | None:
    """The kind of an operation type, None for what only calls others."""
    if operation.startswith(NOT_KERNELS):
        return None
    plain = operation.removeprefix("_Mkl").removeprefix("_Fused")
    matches = [
        (len(prefix), kind)
        for kind, prefixes in KINDS.items()
        for prefix in prefixes
        if plain.startswith(prefix) or (prefix in ("MatMul", "Conv2D", "Pool") and prefix in plain)
    ]
    return max(matches)[1] if matches else "other"


def product_rates(setting: settings.Setting, seconds: float = 0.3) -> list[tuple[str, float]]:
    """GFLOP/s of each layer's batched product, one task's support set each, on all cores."""
    import tensorflow as tf

    rates = []
    for number, layer in enumerate(settings.layers(setting), start=1):
        rows = setting.ways * setting.shots * layer.pixels
        x = tf.random.stateless_normal([setting.tasks, rows, layer.inputs], [0, number])
        w = tf.random.stateless_normal([setting.tasks, layer.inputs, layer.units], [1, number])
        product = tf.function(
            lambda x, w: tf.add_n([tf.reduce_sum((a @ b)[..., :1]) for a, b in _pieces(x, w)])
        )
        product(x, w)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            product(x, w).numpy()
            done += 1
        work = 2 * setting.tasks * rows * layer.inputs * layer.units * done
        rate = work / (time.perf_counter() - start) / 1e9
        rates.append((f"layer {number}: {rows} x {layer.inputs} x {layer.units}", rate))
    return rates


def _pieces(x, w):
    half = max(x.shape[0] // 2, 1)
    return [(x[i : i + half], w[i : i + half]) for i in range(0, x.shape[0], half)]


def main() -> None:
    """Prints a profile and the products' rates of each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name in settings.SETTINGS if name != "sinusoid"]
    parser.add_argument("--settings", nargs="*", default=names[:1], choices=names)
    for name in parser.parse_args().settings:
        setting = settings.SETTINGS[name]
        work = settings.floating_point_operations(setting)
        spent = profile(setting)
        rate, wall = matmul_gflops(), spent.pop("wall")
        print(f"\n{name}: {work / 1e9:.3g} GFLOP, {wall:.3g} ms while traced")
        print(f"  2048 x 2048 product: {rate:.0f} GFLOP/s; reached {work / wall / 1e6 / rate:.0%}")
        everything = sum(spent.values())
        for kind, ms in spent.items():
            print(f"  {kind:<20}{ms:>9.2f} ms  {ms / everything:>5.0%}")
        for shape, gflops in product_rates(setting):
            print(f"  {shape:<32}{gflops:>7.0f} GFLOP/s")


if __name__ == "__main__":
    main()
