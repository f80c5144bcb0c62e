"""Times one meta-step of each setting, beside peers where they are installed.

    python -m benchmarks.meta_step                                       every setting
    python -m benchmarks.meta_step --settings omniglot_5way_1shot --peers torch jax graph

For each: milliseconds (median of at least ten steps), tasks a second, arithmetic rate and its share
of the matrix-product rate measured in the same process, peak memory, seconds to compile, and the
ratio to the fastest peer. Each is a process of its own, because thread counts are global
to one; ours and the peers' take turns, round after round, because machines drift.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from benchmarks import settings
from benchmarks.worker import child

PEERS = ("torch", "jax", "graph")
COLUMNS = "{:<32}{:>9}{:>9}{:>9}{:>9}{:>8}{:>10}{:>10}"


def compare(name: str, peers: list[str], options: argparse.Namespace) -> dict[str, list[dict]]:
    """Measures ours, ours with data, and each peer in turn, `options.rounds` times."""
    own = [sys.executable, "-m", "benchmarks.worker", name, "--repeats", str(options.repeats)]
    commands = {"maml_tf": own, "maml_tf, data drawn": [*own, "--with_data"]}
    for peer in peers:
        run = [options.peer_python, "-m", "benchmarks.peers.run", "--peer", peer]
        commands[peer] = [*run, "--setting", name, "--repeats", str(options.repeats)]
    results: dict[str, list[dict]] = {who: [] for who in commands}
    for _ in range(options.rounds):
        for who, command in commands.items():
            if (result := child(command)) is not None:
                results[who].append(result)
    return results


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="*", default=list(settings.SETTINGS))
    parser.add_argument("--peers", nargs="*", default=[], choices=PEERS)
    parser.add_argument("--peer_python", default=sys.executable, help="interpreter with the peers")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of a measurement")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each, in turn")
    options = parser.parse_args()
    from benchmarks.peers.run import matmul_gflops

    header = ("setting", "ms", "tasks/s", "GFLOP/s", "matmul", "share", "peak MB", "compile s")
    print(COLUMNS.format(*header))
    for name in options.settings:
        rate = matmul_gflops()
        work = settings.floating_point_operations(settings.SETTINGS[name])
        medians = {}
        for who, rows in compare(name, options.peers, options).items():
            if not rows:
                continue
            ms = statistics.median(row["median_ms"] for row in rows)
            medians[who] = ms
            gflops = work / ms / 1e6
            numbers = [f"{ms:.3g}", f"{1e3 * settings.SETTINGS[name].tasks / ms:.0f}"]
            numbers += [f"{gflops:.1f}", f"{rate:.1f}", f"{gflops / rate:.0%}"]
            numbers += [f"{max(row['peak_rss_mb'] for row in rows):.0f}"]
            numbers += [f"{statistics.median(row['compile_s'] for row in rows):.1f}"]
            label = name if who == "maml_tf" else f"  {who}"
            print(COLUMNS.format(label, *numbers), flush=True)
        best = min((medians[p] for p in options.peers if p in medians), default=None)
        if best:
            print(f"  ratio to the fastest peer: {medians['maml_tf'] / best:.3f}", flush=True)


if __name__ == "__main__":
    main()
