"""Time and memory of a meta-step against tasks and inner steps, as tables and a picture.

    python -m benchmarks.scaling --setting omniglot_5way_1shot --plot scaling.png

Peak memory is that of a whole process; the libraries alone take several hundred MB of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks import settings
from benchmarks.worker import child


def sweep(name: str, axis: str, values: list[int], repeats: int, recompute: bool) -> dict:
    """Measures a setting with `axis` ("tasks" or "inner_steps") at each value."""
    rows = {}
    for value in tqdm(values, desc=f"{axis}{', recomputing' * recompute}", file=sys.stderr):
        command = [sys.executable, "-m", "benchmarks.worker", name, f"--{axis}={value}"]
        command += [f"--repeats={repeats}", *(["--recompute"] if recompute else [])]
        if (row := child(command)) is not None:
            rows[value] = row
    return rows


def table(name: str, axis: str, sweeps: dict[str, dict]) -> str:
    """Markdown; "a unit" divides by the arithmetic of the step, the first row being 1."""
    heads = [f"{how}{what}" for how in sweeps for what in (" ms", " a unit of work", " peak MB")]
    lines = [f"| {axis} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for value in next(iter(sweeps.values())):
        cells = [str(value)]
        for rows in sweeps.values():
            if value not in rows:
                cells += ["", "", ""]
                continue
            first, unit = next(iter(rows)), _unit(name, axis)
            ratio = rows[value]["median_ms"] / unit(value)
            ratio /= rows[first]["median_ms"] / unit(first)
            cells += [f"{rows[value]['median_ms']:.3g}", f"{ratio:.2f}"]
            cells += [f"{rows[value]['peak_rss_mb']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _unit(name, axis):
    def work(value):
        setting = dataclasses.replace(settings.SETTINGS[name], **{axis: value})
        return settings.floating_point_operations(setting)

    return work


def plot(path: Path, results: dict[str, dict[str, dict]]) -> None:
    """Draws time and peak memory against each axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from maml_tf.figures import COLOURS

    figure = Figure(figsize=(8, 6), layout="constrained", dpi=120)
    grid = figure.subplots(2, len(results), squeeze=False)
    for column, (axis, sweeps) in enumerate(results.items()):
        labels = (("median_ms", "meta-step (ms)"), ("peak_rss_mb", "peak resident memory (MB)"))
        for row, (key, label) in enumerate(labels):
            axes = grid[row][column]
            for colour, (how, rows) in zip(COLOURS, sweeps.items(), strict=False):
                axes.plot(
                    list(rows), [r[key] for r in rows.values()], "o-", color=colour, label=how
                )
            axes.set(xlabel=axis.replace("_", " "), ylabel=label, ylim=(0, None))
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(path)


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", default="omniglot_5way_1shot", choices=list(settings.SETTINGS))
    parser.add_argument("--tasks", type=int, nargs="*", default=[8, 16, 32, 64, 128])
    parser.add_argument("--inner_steps", type=int, nargs="*", default=[1, 5, 10, 20, 50])
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of a measurement")
    parser.add_argument("--plot", type=Path, help="write a picture too")
    options = parser.parse_args()
    results: dict[str, dict[str, dict]] = {}
    for axis in ("tasks", "inner_steps"):
        results[axis] = {
            how: sweep(options.setting, axis, getattr(options, axis), options.repeats, recompute)
            for how, recompute in (("storing", False), ("recomputing", True))
        }
        print(table(options.setting, axis, results[axis]), "\n", flush=True)
    if options.plot:
        plot(options.plot, results)


if __name__ == "__main__":
    main()
