"""A run that is killed without warning, and started again, ends with the very same weights."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

ITERATIONS = 6000


def command(logdir):
    settings = f"--metatrain_iterations={ITERATIONS} --norm=None --save_every=100 --seed=1"
    more = "--validate_every=1000 --validation_tasks=24 --progress=False --intra_op_threads=1"
    return [sys.executable, "-m", "maml_tf", f"--logdir={logdir}", *settings.split(), *more.split()]


def final_state(logdir):
    (directory,) = logdir.iterdir()
    reader = tf.train.load_checkpoint(str(directory / "checkpoints" / f"ckpt-{ITERATIONS}"))
    names = [
        n for n in reader.get_variable_to_shape_map() if n.endswith(".ATTRIBUTES/VARIABLE_VALUE")
    ]
    return {n: reader.get_tensor(n) for n in sorted(names) if "save_counter" not in n}


def checkpoint_count(logdir):
    return len(list(logdir.glob("*/checkpoints/ckpt-*.index")))


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path):
    subprocess.run(command(tmp_path / "undisturbed"), check=True)
    clock, kills = random.Random(7), 0
    while kills < 4:
        before = checkpoint_count(tmp_path / "killed")
        process = subprocess.Popen(command(tmp_path / "killed"))
        while process.poll() is None and checkpoint_count(tmp_path / "killed") == before < 10:
            time.sleep(0.05)
        time.sleep(clock.uniform(0.0, 1.0))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(command(tmp_path / "killed"), check=True)
    assert kills >= 2
    whole, pieces = final_state(tmp_path / "undisturbed"), final_state(tmp_path / "killed")
    assert whole.keys() == pieces.keys() and len(whole) > 15
    for name in whole:
        np.testing.assert_array_equal(whole[name], pieces[name], err_msg=name)
