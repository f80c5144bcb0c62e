"""Runs a training that `benchmarks.gpu.export` wrote, on a GPU, by JAX alone.

    python -m benchmarks.gpu.train DIR NAME --out OUT [--iterations N] [--save_every 1000]

Writes OUT/NAME.npz every so often: what the training moved, and what every meta-step saw. Several
at once compile side by side and run one after another (--lock).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

import numpy as np


def read(directory: Path, name: str) -> tuple:
    """The program, its variables, and what is known of it."""
    import jax.export

    about = json.loads((directory / f"{name}.json").read_text())
    with np.load(directory / f"{name}.npz", allow_pickle=False) as stored:
        variables = dict(stored)
    for key, file in about["large"].items():
        with np.load(directory / file, allow_pickle=False) as stored:
            variables[key] = stored["value"]
    program = jax.export.deserialize(bytearray((directory / f"{name}.jax").read_bytes()))
    return program, variables, about


@contextlib.contextmanager
def alone(path: str | None):
    """Holds a lock, so that of several processes one uses the GPU."""
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def save(path: Path, **arrays) -> None:
    """Writes whole or not at all."""
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--iterations", type=int, help="fewer than the training has")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after")
    parser.add_argument("--chunk", type=int, default=100, help="meta-steps a call")
    parser.add_argument("--save_every", type=int, default=5000)
    parser.add_argument("--snapshots", action="store_true", help="keep the weights of every save")
    parser.add_argument("--lock", help="file: run only while holding it")
    options = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    jax.config.update("jax_enable_x64", True)
    began = time.monotonic()
    program, variables, about = read(options.directory, options.name)
    keys = list(program.in_tree.unflatten(range(program.in_tree.num_leaves))[0][0])
    moving = sorted(program.out_tree.unflatten(range(program.out_tree.num_leaves))[0])
    state = {key: jax.device_put(variables[key]) for key in moving}
    rest = {key: jax.device_put(variables[key]) for key in keys if key not in state}

    def call(state, rest, start, count):
        return program.call({**state, **rest}, {"start": start, "count": count})

    zero = np.int64(0), np.int32(1)
    compiled = jax.jit(call, donate_argnums=0).lower(state, rest, *zero).compile()
    print(
        json.dumps(
            {
                "name": options.name,
                "compile_s": round(time.monotonic() - began, 1),
                "device": jax.devices()[0].device_kind,
            }
        ),
        flush=True,
    )
    metrics: dict[str, list] = {}
    snapshots: dict[str, np.ndarray] = {}
    iterations = options.iterations or about["iterations"]
    done, saved = 0, 0

    def keep():
        for key, value in state.items():
            name = key if not options.snapshots else f"{done}|{key}"
            if not options.snapshots or key in about["state"]:
                snapshots[name] = np.asarray(value)
        told = {f"metrics|{key}": np.concatenate(values) for key, values in metrics.items()}
        save(options.out / f"{options.name}.npz", iteration=done, **snapshots, **told)

    with alone(options.lock):
        began = time.monotonic()
        while done < iterations and time.monotonic() - began < options.seconds:
            count = min(options.chunk, iterations - done)
            state, seen = compiled(state, rest, np.int64(done), np.int32(count))
            for key, value in seen.items():
                metrics.setdefault(key, []).append(np.asarray(value)[:count])
            done += count
            if done - saved >= options.save_every or done == iterations:
                keep()
                saved = done
        jax.block_until_ready(state)
        seconds = time.monotonic() - began
    keep()
    last = {
        key: round(float(np.mean(np.concatenate(v)[-500:])), 4)
        for key, v in metrics.items()
        if key in ("query_loss", "query_metric")
    }
    print(
        json.dumps(
            {
                "name": options.name,
                "iterations": done,
                "seconds": round(seconds, 1),
                "ms": round(1e3 * seconds / max(done, 1), 3),
                **last,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
