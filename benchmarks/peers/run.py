"""Times one peer on one setting and prints one line of JSON.

    python -m benchmarks.peers.run --peer torch --setting omniglot_5way_1shot

A process of its own, so that libraries do not share thread pools and memory, and any interpreter
that has the peer will do.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import os
import resource
import statistics
import time
from types import ModuleType

THREADS = 2

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def _keep_memory() -> None:
    """Asks glibc to keep freed memory: faulting it in afresh costs PyTorch about 5 % a step."""
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)  # without limit
    mallopt(_M_TOP_PAD, 2**26)


def _load(peer: str) -> ModuleType:
    """Imports the peer with its threads set."""
    if peer == "torch":
        # Threads that spin while they wait slow each other down sevenfold on a shared machine, and
        # gain nothing measurable on a quiet one.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        import torch

        torch.set_num_threads(THREADS)
        from benchmarks.peers import torch_func

        return torch_func
    if peer == "graph":
        from benchmarks.peers import graph

        return graph
    from benchmarks.peers import jax_vmap

    return jax_vmap


def matmul_gflops(size: int = 2048, repeats: int = 5) -> float:
    """The best rate of a square float32 product in NumPy: what the machine had to offer."""
    import numpy as np

    a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2e-9 * size**3 / min(seconds)


def measure(peer: str, name: str, repeats: int = 10) -> dict[str, str | float]:
    """Builds the meta-step, warms it up and times `repeats` steps one by one."""
    module = _load(peer)
    from benchmarks import settings

    setting = settings.SETTINGS[name]
    start = time.perf_counter()
    step = module.build(setting, None, settings.random_task_batch(setting))
    step()
    compile_seconds = time.perf_counter() - start
    for _ in range(2):
        step()
    milliseconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        loss = step()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "peer": peer,
        "setting": name,
        "median_ms": round(statistics.median(milliseconds), 3),
        "min_ms": round(min(milliseconds), 3),
        "max_ms": round(max(milliseconds), 3),
        "compile_s": round(compile_seconds, 2),
        "peak_rss_mb": round(peak),
        "loss": loss,
        "matmul_gflops": round(matmul_gflops(), 1),
    }


def main() -> None:
    from benchmarks import settings

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=["torch", "jax", "graph"], required=True)
    parser.add_argument("--setting", choices=sorted(settings.SETTINGS), required=True)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    _keep_memory()
    print(json.dumps(measure(arguments.peer, arguments.setting, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
