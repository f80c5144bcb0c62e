"""The page that goes with released weights: what they are, how good, how made, and their limits."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from maml_tf.experiments.identity import identity
from maml_tf.experiments.records import Kind
from maml_tf.experiments.settings import SETTINGS, Settings
from maml_tf.results import wording
from maml_tf.results.records import Curve, method_title

FILE = "README.md"

_LIMITS = {
    Kind.REGRESSION: (
        "Tasks are like those of the training: other functions, ranges or numbers of inputs need a "
        "training of their own."
    ),
    Kind.CLASSIFICATION: (
        "A task has {ways} classes, no more; with fewer, use the logits of those. The classes of "
        "the tests are others than those of the training, but of the same kind of images: nothing "
        "is said of photographs where it saw drawings. Accuracies are transductive unless they say "
        "otherwise: batch normalisation sees all query images of a task together. One at a time "
        "(`transductive=False`) it may be lower."
    ),
    Kind.POLICY: (
        "Returns are of simulated episodes, with the dynamics and the horizon of the training. No "
        "such policy is fit to move a machine."
    ),
}


def card(name: str, settings: Settings, results: Iterable[object], began: str = "") -> str:
    """The page as Markdown.

    Args:
      name: of the release, such as "omniglot_5way_1shot".
      settings: of its training.
      results: what was measured with these very weights.
      began: name of the release whose weights it was trained from, if any.
    """
    curves = [r for r in results if isinstance(r, Curve)]
    problem, kind = settings.problem, settings.problem.kind
    method = method_title(settings.method.name)
    sections = [
        f"# {name}",
        f"Weights before adaptation, meta-learned by {method} on {problem.title} "
        "([Finn, Abbeel & Levine 2017](https://arxiv.org/abs/1703.03400)): a few gradient steps on "
        "the examples of a new task adapt them.",
        "## Measured",
        _measured(curves),
        "## Trained",
        _trained(settings, curves, began),
        "## Use",
        _use(name, settings),
        "## Limits",
        " ".join(_LIMITS[kind].format(ways=settings.training.ways).split()),
        "## Licence",
        f"The weights: MIT, as the package. {problem.data}".strip(),
    ]
    return "\n\n".join(sections) + "\n"


def _measured(curves: list[Curve]) -> str:
    if not curves:
        return "Nothing was measured with these weights before they were released."
    lines = ["| tasks | before | after a step | after the last | tasks |", "|---|---|---|---|---|"]
    for curve in curves:
        last = len(curve.steps) - 1
        cells = [wording.number(curve, place) for place in dict.fromkeys((0, min(1, last), last))]
        cells += [""] * (3 - len(cells))
        cells[-1] += f" ({curve.steps[-1]})" if last > 1 else ""
        lines.append(f"| {curve.label} | {' | '.join(cells)} | {curve.num_tasks} |")
    metrics = " and ".join(dict.fromkeys(curve.metric for curve in curves))
    return "\n".join([f"Mean {metrics} over held-out tasks, ± its 95 % interval:", "", *lines])


def _trained(settings: Settings, curves: list[Curve], began: str) -> str:
    known = max((curve.iteration for curve in curves), default=None)
    said = {
        flag: value
        for flag, value in settings.given.items()
        if flag in identity(settings) and value not in (None, SETTINGS[flag].default)
    }
    flags = {"problem": settings.problem.name, **said, "init": f"models/{began}" if began else None}
    flags["iterations"] = settings.run.iterations if known is None else known
    words = [f"--{flag}={shlex.quote(str(v))}" for flag, v in flags.items() if v is not None]
    text = "Iterations: " + ("unknown" if known is None else f"{known}")
    text += f", from the weights of `{began}` as they were then" if began else ""
    steps = [curve.environment_steps for curve in curves if curve.environment_steps]
    text += f"; {max(steps) / 1e6:.1f} million environment steps counted" if steps else ""
    return f"{text}.\n\n```sh\nmaml-tf train {' '.join(words)}\n```"


def _use(name: str, settings: Settings) -> str:
    # As many steps as are quoted: the paper's three, or those that step sizes are learned for.
    steps = max(3, settings.training.inner_steps)
    adapted = "adapted = learner.adapt(support_x, support_y, steps={})  # a Keras model"
    sentence = {
        Kind.REGRESSION: adapted.format(1),
        Kind.CLASSIFICATION: adapted.format(steps),
        Kind.POLICY: 'maml_tf.export(learner, "export/")  # a SavedModel with act and adapt',
    }[settings.problem.kind]
    return (
        f'```python\nlearner = maml_tf.load("models/{name}")\n{sentence}\n```\n\n'
        f"```sh\nmaml-tf evaluate --init=models/{name} --split=test\n```"
    )
