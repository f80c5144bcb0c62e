"""What is exported of a meta-learner for runtimes of fixed sizes: LiteRT, and StableHLO for JAX.

The functions are those of a SavedModel (see export.py), with the same names of inputs and outputs,
but for what is decided when they are made: how many examples a set has, how many gradient steps of
which size are taken, and whose statistics normalise a query set. StableHLO has the meta-step, too.

Shape letters: T tasks, B examples in a support set, Q in a query set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from maml_tf import arguments
from maml_tf.engine.portable import portable_gradients, traced
from maml_tf.engine.served_weights import default_step_size, unique_names
from maml_tf.saving.stablehlo import PLATFORMS, lower
from maml_tf.supervised.adaptive_model import AdaptiveModel
from maml_tf.supervised.export import check_specs, description
from maml_tf.supervised.serving import ServedLearner
from maml_tf.supervised.serving_interface import named
from maml_tf.types import Batch, Programs, Servable, Specs, Task

if TYPE_CHECKING:
    from maml_tf.supervised.learner import MetaLearner


class _Fixed(NamedTuple):
    """Functions for one task, with all sizes decided."""

    served: ServedLearner
    takes: dict[str, tuple]  # a function and the specifications of its arguments, by name
    about: dict[str, Any]


def portable(learner: AdaptiveModel, **options: Any) -> Servable:
    """Makes what `export(..., format="litert")` converts of a supervised learner.

    Args:
      learner: what to export, with its weights as they are now.
      **options: those of `_fixed`, which says what they are and what it raises.
    """
    served, takes, about = _fixed(learner, **options)
    with portable_gradients():
        signatures = {name: traced(*given) for name, given in takes.items()}
    return Servable(served, signatures, about)


def programs(
    learner: MetaLearner,
    *,
    platforms: Sequence[str] = PLATFORMS,
    tf32: bool = False,
    **options: Any,
) -> Programs:
    """Makes what `export(..., format="stablehlo")` writes of a supervised learner.

    `meta_step` takes T tasks, the number of the meta-step and the variables, those of the optimizer
    among them; it returns the variables that it moved, and what `StepMetrics` says. `adapt` and
    `predict` read the same variables. All three take all of them.

    Args:
      learner: what to export, with its weights as they are now.
      platforms: that may run it, by JAX's names.
      tf32: let processors that have it multiply in TF32, whose factors have 10 bits.
      **options: those of `_fixed`, which says what they are and what it raises.
    """
    served, takes, about = _fixed(learner, copied=False, **options)
    x, y, tasks = served.interface.x, served.interface.y, learner.meta_batch_size
    sets = [
        tuple(_sized(specs, about[f"{part}_examples"], tasks) for specs in both)
        for part in ("support", "query")
        for both in [(named(x, f"{part}_x", f"{part}_"), named(y, f"{part}_y", f"{part}_y_"))]
    ]
    index = tf.TensorSpec([], tf.int64, "index")

    def meta_step(support, query, index):
        task = Task(*(
            Batch(served.interface.examples(x), served.interface.targets(y))
            for x, y in (support, query)
        ))  # fmt: skip
        return learner.meta_step(lambda index, num_tasks: task, index)._asdict()

    functions = {name: takes[name] for name in ("adapt", "predict")}
    functions["meta_step"] = (meta_step, *sets, index)
    variables = variables_of(learner)
    pieces, learner.pieces = learner.pieces, 1  # Pieces are for the cores of a CPU.
    try:
        made = {
            name: _lowered(*given, variables=variables, platforms=platforms, tf32=tf32)
            for name, given in functions.items()
        }
    finally:
        learner.pieces = pieces
    return Programs(made, {name: v.numpy() for name, v in variables.items()}, about)


def variables_of(learner: MetaLearner) -> dict[str, tf.Variable]:
    """All that the meta-step moves or reads, by unique names."""
    held = [*learner.state, *learner.optimizer.variables]
    return dict(zip(unique_names([v.path for v in held], ()), (v.value for v in held), strict=True))


def _lowered(function: Callable, *specs: Any, **options: Any) -> bytes:
    flat = tf.nest.flatten(specs)

    def of_flat(*tensors):
        return function(*tf.nest.pack_sequence_as(specs, tensors))

    return lower(of_flat, {spec.name: spec for spec in flat}, **options)


def _fixed(
    learner: AdaptiveModel,
    *,
    support_examples: int | None = None,
    query_examples: int | None = None,
    transductive: bool | None = None,
    running: bool = False,
    steps: int | None = None,
    step_size: float | None = None,
    inputs: Specs | None = None,
    target: Specs | None = None,
    copied: bool = True,
) -> _Fixed:
    """Decides the sizes of a learner's functions for one task.

    Args:
      learner: what to export, with its weights as they are now.
      support_examples: B, of all classes together: N * K for N ways and K shots.
      query_examples: Q, how many are predicted at a time; as many as B by default.
      transductive: normalise a query set by its own statistics, as in the paper; False: by those of
        the support set, so that each prediction depends on its own example alone. True by default,
        unless `running`.
      running: as for a SavedModel.
      steps: gradient steps that `adapt` takes; the learner's inner steps by default.
      step_size: alpha; the learner's own by default, the meta-learned ones if there are any.
      inputs: as for a SavedModel.
      target: as for a SavedModel.
      copied: whether the functions read copies of the learner's variables.

    Raises:
      ValueError: B is not given, an argument is out of range, two contradict each other, the
        learner has no running statistics, or the model takes sizes known only at run time.
    """
    check_specs(inputs=inputs, target=target)
    if support_examples is None:
        raise ValueError(
            "This format takes sets of one size; give support_examples, N * K for N ways and K "
            "shots."
        )
    support_examples = arguments.count("support_examples", support_examples, 1)
    if query_examples is None:
        query_examples = support_examples
    query_examples = arguments.count("query_examples", query_examples, 1)
    running = arguments.boolean("running", running)
    transductive = not running if transductive is None else transductive
    if arguments.boolean("transductive", transductive) and running:
        raise ValueError("running statistics normalise no query set by itself; drop transductive.")
    steps = arguments.count("steps", learner.inner_steps if steps is None else steps, 0)
    step_size = default_step_size(learner.inner, step_size)
    served = ServedLearner(learner, inputs, target, running=running, copied=copied)
    x, y = served.interface.x, served.interface.y
    support_x, support_y = named(x, "support_x", "support_"), named(y, "support_y", "support_y_")
    query_x, x = named(x, "query_x", "query_"), named(x, "x", "")
    support = [_sized(specs, support_examples) for specs in (support_x, support_y)]
    weights = {spec.name: spec for spec in served.interface.weights}

    def adapt(support_x, support_y):
        return served.weights_after(support_x, support_y, steps, step_size)

    def predict(x, weights):
        outputs = served.outputs(x, weights, transductive)
        return outputs if isinstance(outputs, dict) else {"predictions": outputs}

    def both(support_x, support_y, query_x):
        return predict(query_x, adapt(support_x, support_y))

    takes: dict[str, tuple] = {
        "initial_weights": (served.weights_before,),
        "adapt": (adapt, *support),
        "predict": (predict, _sized(x, query_examples), weights),
        "adapt_and_predict": (both, *support, _sized(query_x, query_examples)),
    }
    about = description(learner, served, steps, step_size, transductive)
    about |= {"support_examples": support_examples, "query_examples": query_examples}
    return _Fixed(served, takes, about)


def _sized(specs: Any, examples: int, *tasks: int) -> Any:
    """Specifications of a set of so many, of each of the tasks if there is such an axis."""
    return tf.nest.map_structure(
        lambda s: tf.TensorSpec([*tasks, examples, *s.shape[1:]], s.dtype, s.name), specs
    )
