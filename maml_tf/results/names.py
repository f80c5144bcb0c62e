"""Names of the files that an evaluation leaves in `<run>/results/`.

They depend on what was asked for, not on what was measured, so a repetition replaces its file.
"""

from __future__ import annotations

from maml_tf.experiments.settings import Config


def curve_name(config: Config) -> str:
    """A curve's file name."""
    unit = "trajectories" if config.reinforcement else "shot"
    name = f"{split(config)}_{config.update_batch_size}{unit}_{_adaptation_name(config)}"
    name += _inputs_name(config)
    name += "_inductive" if config.batch_statistics == "inductive" else ""
    return name + _weights_and_tasks_name(config) + ".json"


def samples_name(config: Config) -> str:
    """A samples file's name."""
    own = _inputs_name(config) + _weights_and_tasks_name(config)
    return f"samples_{config.update_batch_size}shot{own}.json"


def paths_name(config: Config) -> str:
    """The name of a file of paths on the plane."""
    own = _weights_and_tasks_name(config)
    return f"paths_{config.update_batch_size}trajectories{own}.json"


def original_name(config: Config) -> str:
    """The name that the original program gave its CSV file."""
    return f"test_ubs{config.update_batch_size}_{_adaptation_name(config)}.csv"


def split(config: Config) -> str:
    """The split that is evaluated."""
    return "test" if config.test_set else "val"


def _adaptation_name(config: Config) -> str:
    if config.method == "nearest_neighbour":
        return config.method
    return "stepsizetuned" if config.tunes_step_size else f"stepsize{config.update_lr:g}"


def _inputs_name(config: Config) -> str:
    return "_half" if config.inputs == "half" else ""


def _weights_and_tasks_name(config: Config) -> str:
    """Tells what was asked for beside the last weights, and other tasks than seed 0's."""
    name = "_best" if config.use_best else ""
    name = f"_iteration{config.test_iter}" if config.test_iter != -1 else name
    return name + (f"_seed{config.seed}" if config.seed else "")
