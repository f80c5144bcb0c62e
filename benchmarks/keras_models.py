"""Times the meta-gradient of ordinary Keras models, beside plain nested tapes.

    python -m benchmarks.keras_models                                 every model, each way
    python -m benchmarks.keras_models --models MobileNetV2 --ways maml_tf loop --rounds 3

The plain way is what one would write without this package: `model.stateless_call` on explicit
weights under two tapes, one task after the other, in one `tf.function`; "loop" unrolls the tasks,
"map_fn" is `tf.map_fn` over them. All move the same variables in the same inner step, and
differentiate it. Each measurement is a process of its own; the ways take turns, round after round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

import numpy as np

from benchmarks.worker import child

CLASSES, STEP_SIZE = 5, 0.01
WAYS = ("maml_tf", "loop", "map_fn")
COLUMNS = "{:<28}{:>9}{:>14}{:>9}{:>9}{:>9}{:>13}"


def make_model(name: str, size: int):
    """One of `keras.applications` on images of `size` x `size`, or a small sequence model."""
    import keras
    from keras import layers

    if name == "LSTM":
        parts = [keras.Input([20, 8]), layers.LSTM(32), layers.Dense(CLASSES)]
        return keras.Sequential(parts)
    if name == "transformer":
        x = inputs = keras.Input([20, 8])
        x = layers.Dense(32)(x)
        for _ in range(2):
            attended = layers.MultiHeadAttention(4, 8)(x, x)
            x = layers.LayerNormalization()(layers.Add()([x, attended]))
            expanded = layers.Dense(32)(layers.Dense(64, "gelu")(x))
            x = layers.LayerNormalization()(layers.Add()([x, expanded]))
        outputs = layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x))
        return keras.Model(inputs, outputs)
    build = getattr(keras.applications, name)
    shape = (size, size, 3)
    return build(weights=None, classes=CLASSES, classifier_activation=None, input_shape=shape)


def make_task(model, tasks: int):
    """One example a class in each set, random numbers."""
    import tensorflow as tf

    from maml_tf import Batch, Task

    generator = np.random.default_rng(0)

    def batch():
        x = generator.normal(size=(tasks, CLASSES, *model.input_shape[1:])).astype(np.float32)
        y = np.tile(np.arange(CLASSES, dtype=np.int32), (tasks, 1))
        return Batch(tf.constant(x), tf.constant(y))

    return Task(batch(), batch())


def plain(model, adapts: list[bool], tasks: int, mapped: bool):
    """The mean over tasks of the meta-gradient, by `stateless_call` under two tapes."""
    import tensorflow as tf

    def loss(weights, x, y):
        state = [v.value for v in model.non_trainable_variables]
        logits, _ = model.stateless_call(weights, state, x, training=True)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return tf.reduce_mean(entropy)

    def one_task(task):
        weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
        with tf.GradientTape() as outer:
            outer.watch(weights)
            with tf.GradientTape() as inner:
                inner.watch(weights)
                support_loss = loss(weights, task.support.x, task.support.y)
            gradient = inner.gradient(support_loss, weights)
            moved = [
                w - STEP_SIZE * g if own else w
                for w, g, own in zip(weights, gradient, adapts, strict=True)
            ]
            query_loss = loss(moved, task.query.x, task.query.y)
        return outer.gradient(query_loss, weights)

    def meta_gradient(task):
        if mapped:
            specs = [tf.TensorSpec(v.shape, v.dtype) for v in model.trainable_variables]
            stacked = tf.map_fn(one_task, task, fn_output_signature=specs)
            return [tf.reduce_mean(g, 0) for g in stacked]
        each = [one_task(tf.nest.map_structure(lambda a, i=i: a[i], task)) for i in range(tasks)]
        return [tf.add_n(gs) / tasks for gs in zip(*each, strict=True)]

    return meta_gradient


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Traces, calls and times one way to compute one model's meta-gradient."""
    import keras
    import tensorflow as tf

    from maml_tf import MetaLearner, losses

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    keras.utils.set_random_seed(0)
    model = make_model(options.measure[0], options.size)
    learner = MetaLearner(
        model, losses.cross_entropy, step_size=STEP_SIZE, meta_batch_size=options.tasks
    )
    ours = options.measure[1] == "maml_tf"
    function = (
        (lambda task: learner.meta_gradient(task)[0])
        if ours
        else plain(model, learner.adapts, options.tasks, options.measure[1] == "map_fn")
    )
    compiled, task = tf.function(function, autograph=False), make_task(model, options.tasks)
    begin = time.perf_counter()
    graph = compiled.get_concrete_function(task).graph.as_graph_def()
    traced = time.perf_counter()
    compiled(task)
    called = time.perf_counter()
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        tf.nest.map_structure(lambda g: g.numpy(), compiled(task))
        seconds.append(time.perf_counter() - start)
    functions = sum(len(function.node_def) for function in graph.library.function)
    return {
        "trace_s": traced - begin,
        "first_s": called - begin,
        "nodes": len(graph.node) + functions,
        "median_ms": 1e3 * statistics.median(seconds),
    }


def table(name: str, options: argparse.Namespace) -> None:
    """Prints one line for each way, with ratios to "loop"."""
    fixed = ["--size", options.size, "--tasks", options.tasks, "--repeats", options.repeats]
    fixed += ["--threads", options.threads]
    command = [sys.executable, "-m", "benchmarks.keras_models", *map(str, fixed), "--measure", name]
    rows: dict[str, list[dict]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way in options.ways:
            if (row := child([*command, way])) is not None:
                rows[way].append(row)
    medians = {
        way: {key: statistics.median(row[key] for row in found) for key in found[0]}
        for way, found in rows.items()
        if found
    }
    for way, row in medians.items():
        loop = medians.get("loop")
        first = f"{row['first_s'] / loop['first_s']:.2f}" if loop else ""
        speed = f"{loop['median_ms'] / row['median_ms']:.2f}" if loop else ""
        label = name if way == "maml_tf" else f"  {way}"
        numbers = [f"{row['trace_s']:.1f}", f"{row['first_s']:.1f}", first, f"{row['nodes']:.0f}"]
        print(COLUMNS.format(label, *numbers, f"{row['median_ms']:.3g}", speed), flush=True)


def main() -> None:
    """Prints the table, or with `--measure` one measurement as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models",
        nargs="*",
        default=["MobileNetV2", "ConvNeXtTiny", "LSTM", "transformer"],
        help="LSTM, transformer, or names of keras.applications",
    )
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--size", type=int, default=32, help="height and width of images")
    parser.add_argument("--tasks", type=int, default=4, help="T, of 5 examples a set")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of a measurement")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each, in turn")
    parser.add_argument("--threads", type=int, default=2, help="for each operation")
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        print(json.dumps(measure(options)))
        return
    header = ("model", "trace s", "first call s", "ratio", "nodes", "ms", "loop / this")
    print(COLUMNS.format(*header))
    for name in options.models:
        table(name, options)


if __name__ == "__main__":
    main()
