"""Times what a user waits for: the first meta-step, an evaluation, the figures, the first images.

    python -m benchmarks.start_up first_step omniglot_20way_1shot miniimagenet_5way_1shot
    python -m benchmarks.start_up evaluation omniglot_5way_1shot --num_tasks=600
    python -m benchmarks.start_up figures models/omniglot_5way_1shot

    python -m benchmarks.generated_images /tmp/generated --layout=folders
    maml-tf prepare --datasource=miniimagenet --data_dir=/tmp/generated
    python -m benchmarks.start_up images --data_dir=/tmp/generated

Settings are those of `benchmarks.meta_step`, each in a process of its own, as the command line
compiles them on this machine; images are random ones. `images` prints seconds from nothing prepared
in memory to MiniImagenet's first meta-batch, and the peak of resident memory above that of a
process with the libraries only, once every image has been drawn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
SETTINGS = ("omniglot_5way_1shot", "omniglot_20way_1shot", "miniimagenet_5way_1shot", "sinusoid")


@contextmanager
def timed(what: str):
    """Prints wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{what:<44} {wall:6.2f} s, of the processors {processor:6.2f} s", flush=True)


def first_step(name: str, options: argparse.Namespace) -> None:
    """A process's way to its first meta-step, and the second one beside it."""
    from benchmarks import settings, worker

    with timed(f"{name}: libraries"):
        import tensorflow  # noqa: F401

        import maml_tf  # noqa: F401
    with timed(f"{name}: learner and data"):
        learner, tasks = worker.prepare(settings.SETTINGS[name], with_data=True)
    with timed(f"{name}: first meta-step, compiled"):
        learner.meta_steps(tasks, 0, 1)
    with timed(f"{name}: second meta-step"):
        learner.meta_steps(tasks, 1, 1)


def evaluation(name: str, options: argparse.Namespace) -> None:
    """An evaluation, ten steps, compiled and again."""
    from benchmarks import settings, worker
    from maml_tf.supervised.evaluation import MetricEvaluator

    learner, tasks = worker.prepare(settings.SETTINGS[name], with_data=True)
    evaluate = MetricEvaluator(learner, tasks, num_tasks=options.num_tasks, steps=10)
    with timed(f"{name}: {options.num_tasks} tasks, compiled"):
        evaluate()
    with timed(f"{name}: {options.num_tasks} tasks, again"):
        evaluate()


def figures(name: str, options: argparse.Namespace) -> None:
    """The command `maml-tf figures`, whole."""
    with tempfile.TemporaryDirectory() as directory, timed(f"maml-tf figures {name}"):
        command = [sys.executable, "-m", "maml_tf", "figures", name, f"--to={directory}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def resident_mb(peak: bool) -> float:
    """Resident memory of this process in MB (10^6 bytes), now or at most so far."""
    label = "VmHWM" if peak else "VmRSS"
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(label))
    return int(line.split()[1]) * 1024 / 1e6


def images(data_dir: str, split: str) -> None:
    """MiniImagenet's first meta-batch, and memory."""
    import tensorflow as tf

    from maml_tf.tasks import miniimagenet_episodes

    def gather_all(images):
        draw = tf.function(lambda rows: tf.reduce_sum(tf.cast(tf.gather(images, rows), tf.float32)))
        for start in range(0, len(images), 100):
            draw(tf.range(start, min(start + 100, len(images)), dtype=tf.int64))

    gather_all(tf.zeros([200, 84, 84, 3], tf.uint8))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # Begins the peak anew: importing TensorFlow has one of its own.
    baseline = resident_mb(peak=True)
    began = time.perf_counter()
    tasks = miniimagenet_episodes(data_dir, split, ways=5, shots=1)
    tasks(0, 4).query.x.numpy()
    seconds = time.perf_counter() - began
    drawn = tasks._examples
    gather_all(drawn)
    array, peak = drawn.shape.num_elements() / 1e6, resident_mb(peak=True) - baseline
    print(f"images          {list(drawn.shape)}: {array:.0f} MB")
    print(f"start           {seconds:.2f} s")
    print(f"libraries alone {baseline:.0f} MB")
    print(f"peak above them {peak:.0f} MB: {peak / array:.2f} of the array")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = {"first_step": first_step, "evaluation": evaluation, "figures": figures}
    parser.add_argument("kind", choices=[*kinds, "images"])
    parser.add_argument("names", nargs="*", default=SETTINGS, help="settings, or runs")
    parser.add_argument("--num_tasks", type=int, default=600)
    parser.add_argument("--data_dir", help="of images")
    parser.add_argument("--split", default="train", help="of images")
    options = parser.parse_args()
    if options.kind == "images":
        if not options.data_dir:
            parser.error("images needs --data_dir.")
        images(options.data_dir, options.split)
    elif len(options.names) == 1:
        kinds[options.kind](options.names[0], options)
    else:
        for name in options.names:  # A process each: threads and what is imported are global.
            words = [options.kind, name, f"--num_tasks={options.num_tasks}"]
            subprocess.run([sys.executable, "-m", "benchmarks.start_up", *words], check=True)


if __name__ == "__main__":
    main()
