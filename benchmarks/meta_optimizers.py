"""Meta-optimizers of policies side by side: returns against processor time and environment steps.

    python -m benchmarks.meta_optimizers run ant_direction promp --seed 0 --minutes 45 --to curves/
    python -m benchmarks.meta_optimizers plot curves/ --to curves.png

`run` trains on one core with the settings of `flags/ant_direction_fast.flags`, the meta-optimizer
apart, and writes a line an iteration: seconds of the clock and of the processor, environment steps,
returns before and after the inner step. `plot` draws the mean over seeds and its 95 % interval,
of less than three seeds each curve alone.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

FIELDS = ("iteration", "clock", "processor", "environment_steps", "before", "after")
FLAGFILE = Path(__file__).parents[1] / "flags" / "ant_direction_fast.flags"
TRPO = {"max_kl": 0.04, "curvature_share": 0.5}
BY_ADAM = ("meta_step_size", "minibatches")
T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
"""Student's t of the 95 % interval of a mean, by the number of seeds."""


def settings_of(environment: str, name: str, seed: int):
    """Of a training by the meta-optimizer `name`; every other setting is the flagfile's."""
    from maml_tf.cli.flags import parse
    from maml_tf.experiments.settings import make

    given = parse([f"--flagfile={FLAGFILE}"])[0]
    given |= {"problem": environment, "meta_optimizer": name, "seed": seed}
    given |= {"inner_loss": "likelihood_ratio", "inter_op_threads": 1}
    if name == "trpo":
        given = {flag: value for flag, value in given.items() if flag not in BY_ADAM} | TRPO
    return make(given)


def run(options: argparse.Namespace) -> None:
    """Trains for some minutes of the processor."""
    from maml_tf.experiments import build, machine

    seed, name = options.seed, options.optimizer
    settings = settings_of(options.environment, name, seed)
    machine.set_up(settings.machine)
    sampler, learner = build.make_tasks(settings, "train"), build.make_learner(settings)
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / f"{options.environment}.{name}.{seed}.csv"
    began, clock, index = time.process_time(), time.perf_counter(), 0
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(FIELDS)
        while time.process_time() - began < 60 * options.minutes:
            seen = learner.meta_step(sampler, index)
            index += 1
            seconds = time.perf_counter() - clock, time.process_time() - began
            before, after = (round(float(r), 2) for r in seen.returns)
            rounded = (round(each, 2) for each in seconds)
            rows.writerow([index, *rounded, int(seen.environment_steps), before, after])
            file.flush()


def read(directory: Path) -> dict[tuple[str, str], dict[int, dict[str, np.ndarray]]]:
    """The columns of every file, by environment and optimizer, then by seed."""
    found: dict = defaultdict(dict)
    for path in sorted(directory.glob("*.csv")):
        environment, optimizer, seed = path.stem.split(".")
        table = np.genfromtxt(path, delimiter=",", skip_header=1)
        found[environment, optimizer][int(seed)] = dict(zip(FIELDS, table.T, strict=True))
    return found


def curve(seeds: list[dict[str, np.ndarray]], along: str, window: int = 10):
    """Where along, mean over seeds of the return after a step, and half its 95 % interval."""
    smooth = np.ones(window) / window
    ends = min(columns[along][-1] for columns in seeds)
    at = np.linspace(max(columns[along][window] for columns in seeds), ends, 100)
    each = np.stack(
        [
            np.interp(at, c[along][window - 1 :], np.convolve(c["after"], smooth, "valid"))
            for c in seeds
        ]
    )
    many = len(seeds)
    half = T_975[many] * each.std(0, ddof=1) / many**0.5 if many > 1 else 0.0 * at
    return at, each.mean(0), half


def plot(options: argparse.Namespace) -> None:
    """Draws, and prints the last values."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = read(options.curves)
    environments = sorted({environment for environment, _ in found})
    axes_of = {"processor": (60, "processor minutes"), "environment_steps": (1e6, "million steps")}
    size = (4.5 * len(environments), 6.5)
    figure, axes = plt.subplots(2, len(environments), figsize=size, squeeze=False)
    for column, environment in enumerate(environments):
        for row, (along, (unit, title)) in enumerate(axes_of.items()):
            panel = axes[row][column]
            for (where, optimizer), seeds in found.items():
                if where != environment:
                    continue
                at, mean, half = curve(list(seeds.values()), along)
                label = f"{optimizer}, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
                panel.plot(at / unit, mean, label=label)
                if len(seeds) < 3:  # whose interval says nothing
                    for each in seeds.values():
                        alone, values, _ = curve([each], along)
                        panel.plot(alone / unit, values, color=panel.lines[-1].get_color(), lw=0.7)
                else:
                    panel.fill_between(at / unit, mean - half, mean + half, alpha=0.2)
                ends = f"{mean[-1]:.1f} ± {half[-1]:.1f} at {at[-1] / unit:.1f} {title}"
                print(f"{environment:20s}{optimizer:8s}{ends}")
            panel.set(xlabel=title, ylabel="return after a step", title=environment)
            panel.legend()
    figure.tight_layout()
    figure.savefig(options.to, dpi=110)


def main() -> None:
    """Runs or plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("run", help="train, and write the curve of one seed")
    training.add_argument("environment")
    training.add_argument("optimizer", choices=("trpo", "promp", "vpg"))
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--minutes", type=float, default=45.0, help="of the processor")
    training.add_argument("--to", type=Path, default=Path("curves"))
    training.set_defaults(function=run)
    drawing = commands.add_parser("plot", help="draw what was written")
    drawing.add_argument("curves", type=Path)
    drawing.add_argument("--to", type=Path, default=Path("curves.png"))
    drawing.set_defaults(function=plot)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
