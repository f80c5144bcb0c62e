"""Names of the files that an evaluation leaves in `<run>/results/`.

They depend on what was asked for, not on what was measured, so a repetition replaces its file.
"""

from __future__ import annotations

from maml_tf.experiments.methods import METHODS
from maml_tf.results.records import Curve, Result, Samples


def file_name(result: Result) -> str:
    """The name of the file that holds a result."""
    own = _inputs_name(result) + _weights_and_tasks_name(result)
    if isinstance(result, Samples):
        return f"samples_{result.shots}shot{own}.json"
    if not isinstance(result, Curve):
        return f"{result.kind}_{result.shots}trajectories{own}.json"
    amount = result.amount.replace("-", "").replace(" ", "")
    amount += f"_{result.ways}way" if result.fewer_ways else ""
    name = f"{result.split}_{amount}_{_adaptation_name(result)}{_inputs_name(result)}"
    statistics = result.batch_statistics
    name += "" if statistics == "transductive" else f"_{statistics}"
    name += f"_ensemble{result.ensemble}" if result.ensemble else ""
    return name + _weights_and_tasks_name(result) + ".json"


def original_name(curve: Curve) -> str:
    """The name that the original program gave its CSV file."""
    return f"test_ubs{curve.shots}_{_adaptation_name(curve)}.csv"


def _adaptation_name(curve: Curve) -> str:
    if not METHODS[curve.method].adapts_at_test:
        return curve.method
    if curve.tuned or curve.asked_step_size is None:
        return "stepsizetuned"
    return f"stepsize{curve.asked_step_size:g}"


def _inputs_name(result: Result) -> str:
    return "_half" if result.inputs == "half" else ""


def _weights_and_tasks_name(result: Result) -> str:
    """Names what was asked for beside the last weights, and other tasks than seed 0's."""
    name = "_best" if result.best_weights else ""
    name = name if result.asked_iteration is None else f"_iteration{result.asked_iteration}"
    return name + (f"_seed{result.seed}" if result.seed else "")
