"""Local processes that train together: each runs the same words, and finds the others itself."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 240
"""After which a process that still runs has failed a test."""


def free_ports(count):
    """Ports of this machine that nobody uses now."""
    places = [socket.socket() for _ in range(count)]
    for place in places:
        place.bind(("localhost", 0))
    ports = [place.getsockname()[1] for place in places]
    for place in places:
        place.close()
    return ports


def configurations(count):
    """`TF_CONFIG` of each of some workers of this machine."""
    workers = [f"localhost:{port}" for port in free_ports(count)]
    cluster = {"worker": workers}
    tasks = [{"type": "worker", "index": index} for index in range(count)]
    return [json.dumps({"cluster": cluster, "task": task}) for task in tasks]


def start(words, count, **environment):
    """Starts workers: `words(index)` of `python`; returns the processes."""
    processes = []
    for index, configuration in enumerate(configurations(count)):
        own = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        own |= {"TF_CONFIG": configuration, **environment}
        processes.append(
            subprocess.Popen(
                [sys.executable, *map(str, words(index))],
                env=own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def ends(processes):
    """Waits for workers; returns the exit status and the output of each."""
    try:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, output) for p, output in zip(processes, outputs, strict=True)]


def together(words, count, **environment):
    """Runs workers to their end; see `start` and `ends`."""
    return ends(start(words, count, **environment))
