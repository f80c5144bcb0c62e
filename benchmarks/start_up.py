"""Times the way to a MiniImagenet's first meta-batch, and measures the memory that it takes.

    python -m benchmarks.generated_images /tmp/generated --layout=folders
    maml-tf prepare --datasource=miniimagenet --data_dir=/tmp/generated
    python -m benchmarks.start_up --data_dir=/tmp/generated

Prints seconds from nothing prepared in memory to a drawn meta-batch, and the peak of resident
memory above that of a process with the libraries only, once every image has been drawn.
"""

from __future__ import annotations

import argparse
import time


def resident_mb(peak: bool) -> float:
    """Resident memory of this process in MB (10^6 bytes), now or at most so far."""
    label = "VmHWM" if peak else "VmRSS"
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(label))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--split", default="train")
    options = parser.parse_args()

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
    tasks = miniimagenet_episodes(options.data_dir, options.split, ways=5, shots=1)
    tasks(0, 4).query.x.numpy()
    seconds = time.perf_counter() - began
    images = tasks._examples
    gather_all(images)
    array, peak = images.shape.num_elements() / 1e6, resident_mb(peak=True) - baseline
    print(f"images          {list(images.shape)}: {array:.0f} MB")
    print(f"start           {seconds:.2f} s")
    print(f"libraries alone {baseline:.0f} MB")
    print(f"peak above them {peak:.0f} MB: {peak / array:.2f} of the array")


if __name__ == "__main__":
    main()
