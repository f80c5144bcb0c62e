"""Makes a run of what `benchmarks.gpu.train` wrote, for `maml-tf evaluate` and `release`.

python -m benchmarks.gpu.take DIR/NAME.json OUT/NAME.npz --logdir=logs [--at 2000]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    """Writes a checkpoint where the same training by `maml-tf train` would have written it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exported", type=Path)
    parser.add_argument("trained", type=Path)
    parser.add_argument("--logdir", default="logs")
    parser.add_argument("--at", type=int, help="iteration of a snapshot, without its optimizer")
    options = parser.parse_args()
    from maml_tf.cli import runs
    from maml_tf.cli.flags import parse
    from maml_tf.experiments.build import make_learner
    from maml_tf.experiments.settings import make
    from maml_tf.supervised.portable import variables_of
    from maml_tf.training.checkpoints import Checkpoints

    about = json.loads(options.exported.read_text())
    settings = make(parse([*about["flags"], f"--logdir={options.logdir}"]).given).trained()
    learner = make_learner(settings)
    with np.load(options.trained, allow_pickle=False) as stored:
        iteration = options.at or int(stored["iteration"])
        kept = {key.partition("|")[2]: key for key in stored if key.startswith(f"{iteration}|")}
        if options.at and not kept:
            parser.error(f"{options.trained} has no snapshot of iteration {options.at}.")
        for name, variable in variables_of(learner).items():
            if (key := kept.get(name, name)) in stored:
                variable.assign(stored[key])
    with runs.opened(settings) as directory:
        Checkpoints(directory / "checkpoints", learner).save(iteration)
    print(f"{directory}: iteration {iteration}")


if __name__ == "__main__":
    main()
