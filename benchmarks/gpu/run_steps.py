"""Times the package's own meta-step on a GPU without TensorFlow, beside alternatives and peers.

    python -m benchmarks.gpu.run_steps DIR --out gpu.json           # where the GPU is
    python -m benchmarks.gpu.run_steps DIR --only ours/sinusoid     # on a CPU: JAX_PLATFORMS=cpu

DIR is what `benchmarks.gpu.export` wrote. Needs NumPy, JAX, Optax and PyTorch. Each measurement is
a process: all compile side by side, then time one after another. Prints a line of JSON for each.

  ours           MetaLearner.meta_step with Adam, whole, as the package compiles it; full float32
  ours, _tf32    the same with products in TF32;  _8_tasks, _256_tasks: other meta-batches
  jax_patches    benchmarks/peers/jax_vmap.py, which JAX multiplies in TF32 by default
  jax_float32    the same in full float32
  jax_conv       native convolutions under vmap
  jax_grouped    benchmarks/gpu/grouped.py: one network of T * C channels
  torch_func     benchmarks/peers/torch_func.py, eager (TF32);  torch_graph: as one CUDA graph
  machine        8192^3 products, memory bandwidth, an empty launch
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEERS = ("jax_patches", "torch_func", "torch_graph")
MEASUREMENTS = [
    "machine/all",
    *(
        f"{kind}/{setting}"
        for setting, kinds in {
            "omniglot_5way_1shot": ("ours", *PEERS, "jax_float32", "jax_grouped", "jax_conv"),
            "omniglot_20way_1shot": ("ours", *PEERS, "jax_float32", "jax_grouped"),
            "miniimagenet_5way_1shot": ("ours", *PEERS, "jax_float32", "jax_grouped"),
            "sinusoid": ("ours", *PEERS),
            "omniglot_5way_1shot_dense": ("ours", "jax_patches", "torch_graph"),
            "omniglot_20way_1shot_tf32": ("ours",),
            "miniimagenet_5way_1shot_tf32": ("ours",),
            "omniglot_5way_1shot_8_tasks": ("ours",),
            "omniglot_5way_1shot_256_tasks": ("ours",),
        }.items()
        for kind in kinds
    ),
]


def timed(step, wait, seconds: float, chain: int = 20) -> dict[str, float]:
    """Milliseconds a step: of `chain` steps queued at once, and alone, waited for each time."""
    for _ in range(3):
        step()
    wait()
    alone, queued, end = [], [], time.perf_counter() + seconds
    while len(queued) < 3 or (time.perf_counter() < end and len(queued) < 200):
        for count, times in ((1, alone), (chain, queued)):
            began = time.perf_counter()
            for _ in range(count):
                step()
            wait()
            times.append(1e3 * (time.perf_counter() - began) / count)
    return {
        "median_ms": round(statistics.median(queued), 4),
        "alone_ms": round(statistics.median(alone), 4),
        "rounds": len(queued),
    }


def ours(name: str, directory: Path):
    """A program that `benchmarks.gpu.export` wrote."""
    import jax
    import numpy as np

    from benchmarks import settings
    from benchmarks.gpu.train import read

    jax.config.update("jax_enable_x64", True)
    program, variables, about = read(directory, name)
    setting = settings.Setting(**about["setting"])
    data = settings.random_task_batch(setting)
    (keys, shapes), _ = program.in_tree.unflatten(program.in_avals)
    data = {key: value.reshape(shapes[key].shape) for key, value in data.items()}
    data["index"] = np.int64(0)
    moving = list(program.out_tree.unflatten(program.out_avals)[0])
    state = {key: jax.device_put(variables[key]) for key in moving}
    rest = {key: jax.device_put(variables[key]) for key in keys if key not in state}
    data = jax.device_put(data)

    def call(state, rest, data):
        return program.call({**state, **rest}, data)

    compiled = jax.jit(call, donate_argnums=0).lower(state, rest, data).compile()
    state, seen = compiled(state, rest, data)
    held = {"state": state}

    def step():
        held["state"], _ = compiled(held["state"], rest, data)

    about = {
        "loss": float(seen["query_loss"]),
        "loss_tensorflow": about["loss"],
        **described(compiled),
    }
    return about, step, lambda: jax.block_until_ready(held["state"]), setting


def described(compiled) -> dict:
    """Memory and kernels of a program of JAX's."""
    text = compiled.as_text()
    entry = text[text.index("ENTRY") :]
    kernels = sum(" fusion(" in line or "custom-call(" in line for line in entry.splitlines())
    return {
        "peak_mb": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 1),
        "kernels": kernels,
    }


def jax_peer(kind: str, name: str):
    """A step of the JAX peer, or of one of its alternatives."""
    import jax

    from benchmarks import settings
    from benchmarks.peers import jax_vmap

    setting = settings.SETTINGS[name]
    if jax.default_backend() != "cpu":
        jax_vmap._OPTIONS = {}  # of XLA for CPUs
    if kind == "jax_float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    if kind == "jax_grouped":
        from benchmarks.gpu import grouped

        jax_vmap.meta_loss = grouped.meta_loss
    if kind == "jax_conv":
        from benchmarks.gpu import grouped

        jax_vmap.convolve = lambda x, kernel, stride: grouped.native(x, kernel, stride, 1)
    step = jax_vmap.build(setting, None, settings.random_task_batch(setting))
    compiled = step._update.lower(step.weights, step._state, step._data).compile()
    held = {}

    def advance():
        step.weights, step._state, held["loss"] = compiled(step.weights, step._state, step._data)

    advance()
    about = {"loss": float(held["loss"]), **described(compiled)}
    return about, advance, lambda: jax.block_until_ready(step.weights), setting


def torch_peer(kind: str, name: str):
    """A step of the PyTorch peer, eager or as one CUDA graph."""
    import torch

    from benchmarks import settings
    from benchmarks.peers import torch_func

    setting, gpu = settings.SETTINGS[name], torch.cuda.is_available()
    if gpu:
        torch.set_default_device("cuda")
        # As JAX does by default.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    data = settings.random_task_batch(setting)
    step = torch_func.build(setting, settings.initial_weights(setting), data)
    if gpu:
        step._optimizer = torch.optim.Adam(
            list(step.weights.values()),
            settings.META_STEP_SIZE,
            eps=settings.ADAM_EPSILON,
            fused=True,
            capturable=True,
        )

    def whole():
        loss = step._losses(step.weights, step._data).mean()
        step._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        step._optimizer.step()
        return loss

    wait = torch.cuda.synchronize if gpu else (lambda: None)
    about, run = {"loss": whole().item()}, whole
    if kind == "torch_graph":
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                whole()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        step._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            whole()
        run = graph.replay
    wait()
    if gpu:
        about["peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return about, run, wait, setting


def machine() -> dict[str, float]:
    """What the device has to offer: products, memory, an empty launch."""
    import jax
    import jax.numpy as jnp

    size = 8192 if jax.default_backend() != "cpu" else 256
    key, rates = jax.random.key(0), {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    kinds = {
        "fp32": (jnp.float32, "highest"),
        "tf32": (jnp.float32, "default"),
        "bf16": (jnp.bfloat16, "default"),
    }

    def milliseconds(function, argument):
        run, held = jax.jit(function).lower(argument).compile(), {}

        def step():
            held["out"] = run(argument)

        return timed(step, lambda: jax.block_until_ready(held["out"]), 1.0)["median_ms"]

    for name, (dtype, precision) in kinds.items():
        a = jax.random.normal(key, (size, size), dtype)
        ms = milliseconds(lambda x, p=precision: jnp.matmul(x, x, precision=p), a)
        rates[f"{name}_tflops"] = round(2e-9 * size**3 / ms, 1)
    big = jax.random.normal(key, (size * size * 4,))
    rates["gb_s"] = round(8e-6 * big.size / milliseconds(lambda x: x + 1, big), 1)
    rates["launch_us"] = round(1e3 * milliseconds(lambda x: x + 1, jnp.ones(1)), 2)
    return rates


def one(options: argparse.Namespace) -> dict:
    """One measurement, in this process; holds the lock while it times."""
    kind, name = options.one.split("/")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    began = time.monotonic()
    if kind == "machine":
        with open(options.lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return machine()
    if kind == "ours":
        about, step, wait, setting = ours(name, options.directory)
    elif kind.startswith("jax"):
        about, step, wait, setting = jax_peer(kind, name)
    else:
        about, step, wait, setting = torch_peer(kind, name)
    about["compile_s"] = round(time.monotonic() - began, 1)
    with open(options.lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        about |= timed(step, wait, options.seconds)
    from benchmarks.settings import floating_point_operations

    about["tflops"] = round(1e-9 * floating_point_operations(setting) / about["median_ms"], 3)
    return about


def main() -> None:
    """Starts a process for each measurement, a few at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--only", nargs="*", default=MEASUREMENTS)
    parser.add_argument("--seconds", type=float, default=2, help="of timing a measurement")
    parser.add_argument("--parallel", type=int, default=8, help="processes that compile at once")
    parser.add_argument("--budget", type=float, default=420, help="seconds in all")
    parser.add_argument("--lock", default=f"{tempfile.gettempdir()}/maml_tf.gpu", help="file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"measurement": options.one, **one(options)}), flush=True)
        return
    end, results, running = time.monotonic() + options.budget, [], []
    waiting = list(options.only)
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < options.parallel:
            command = [sys.executable, "-m", "benchmarks.gpu.run_steps", str(options.directory)]
            command += [
                "--one",
                waiting[0],
                "--seconds",
                str(options.seconds),
                "--lock",
                options.lock,
            ]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            running.append((waiting.pop(0), subprocess.Popen(command, **pipes)))
        for name, process in list(running):
            if process.poll() is None:
                continue
            running.remove((name, process))
            told, errors = process.communicate()
            lines = told.strip().splitlines()
            last = (errors.strip().splitlines() or ["?"])[-1]
            failed = {"measurement": name, "error": last[-300:]}
            results.append(json.loads(lines[-1]) if lines and not process.returncode else failed)
            print(json.dumps(results[-1]), flush=True)
            options.out.write_text(json.dumps(results, indent=1))
        time.sleep(0.1)
    for name, process in running:
        process.kill()
        print(json.dumps({"measurement": name, "error": "no time left"}), flush=True)


if __name__ == "__main__":
    main()
