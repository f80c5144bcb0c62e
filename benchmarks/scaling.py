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

WAYS = {"storing": [], "recomputing": ["--recompute"]}
"""How the meta-gradient is made, and the option that says so."""


def sweep(name: str, axis: str, values: list[int], repeats: int) -> dict[str, dict[int, dict]]:
    """Measures a setting with `axis` ("tasks" or "inner_steps") at each value; prints each row.

    Returns:
      Measurements by way and value; one that failed is left out.
    """
    heads = [f"{way}{what}" for way in WAYS for what in (" ms", " ms a GFLOP", " peak MB")]
    print(f"| {axis} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|", sep="\n")
    rows: dict[str, dict[int, dict]] = {way: {} for way in WAYS}
    for value in tqdm(values, desc=axis, file=sys.stderr):
        cells = [str(value)]
        setting = dataclasses.replace(settings.SETTINGS[name], **{axis: value})
        work = settings.floating_point_operations(setting) / 1e9
        for way, option in WAYS.items():
            command = [sys.executable, "-m", "benchmarks.worker", name, f"--{axis}={value}"]
            row = child([*command, f"--repeats={repeats}", *option])
            if row is None:
                cells += ["", "", ""]
                continue
            rows[way][value] = row
            cells += [f"{row['median_ms']:.3g}", f"{row['median_ms'] / work:.3g}"]
            cells += [f"{row['peak_rss_mb']:.0f}"]
        tqdm.write("| " + " | ".join(cells) + " |")
    return rows


def plot(path: Path, results: dict[str, dict[str, dict]]) -> None:
    """Draws time and peak memory against each axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from maml_tf.plotting.style import COLOURS

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
        if values := getattr(options, axis):
            results[axis] = sweep(options.setting, axis, values, options.repeats)
            print()
    if options.plot:
        plot(options.plot, results)


if __name__ == "__main__":
    main()
