"""How the paper measured (Finn, Abbeel & Levine 2017, arXiv 1703.03400v3): every experiment, once.

An experiment is a training and the evaluations of it that the paper's figures and tables need. Its
flagfile, `flags/<name>.flags`, holds the settings of the training; what is here says how it is
evaluated. `numbers.py` says which cell of which figure or table is filled by which evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from maml_tf.results import choice
from maml_tf.results.choice import Wanted
from maml_tf.results.records import Result, method_title, problem_title

R = TypeVar("R", bound=Result)

ENVIRONMENTS = {
    name: problem_title(name)
    for name in (
        *("navigation_2d", "cheetah_velocity", "cheetah_direction"),
        *("ant_velocity", "ant_direction", "ant_goal"),
    )
}
"""Every environment by its name in result files; the paper does not have the last one."""

SINUSOID_SHOTS = (5, 10, 20)
"""K of the evaluations of sine waves; all models are trained with K = 10."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of an experiment's model; alpha is the training's, or tuned if it has none."""

    shots: int | None = None
    """K, or for a policy the trajectories per gradient step; None: as many as in the training."""
    steps: int = 0
    """Gradient steps that the paper looks at."""
    method: str | None = None
    """Another method that this model serves; None: the experiment's own."""
    inputs: str = "all"
    """half: all support points in one half of a sinusoid's input range."""
    split: str = "test"
    batch_statistics: str = "transductive"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training, and its evaluations."""

    name: str
    title: str
    problem: str
    method: str = "maml"
    shots: int
    """K of the training, or trajectories per gradient step."""
    ways: int | None = None
    conv: bool | None = None
    evaluations: tuple[Evaluation, ...]
    hours: float
    """Roughly, on two cores, evaluations included."""
    seeds: tuple[int, ...] = (0,)
    loss_reduction: str = "sum"
    head_stddev: float | None = None
    trained_by: str = ""
    """The experiment whose model it evaluates; empty: it trains its own."""
    other_flagfile: str = ""
    """The flagfile, where it is another's, which is then trained with this K."""

    @property
    def flagfile(self) -> str:
        """The name of its file in `flags/`."""
        return self.other_flagfile or f"{self.name}.flags"

    @property
    def is_policy(self) -> bool:
        """Whether it learns a policy."""
        return self.problem in ENVIRONMENTS

    @property
    def is_joint(self) -> bool:
        """Whether one classifier of all training classes is trained, on no task's support set."""
        return self.ways is not None and self.method in ("pretrained", "nearest_neighbour")

    def as_published(self, result: Result) -> bool:
        """Whether a result's model was trained by this loss and from this initial head."""
        own = (self.loss_reduction, self.head_stddev)
        return (result.loss_reduction, result.head_stddev) == own


@dataclass(frozen=True)
class Cell:
    """One evaluation as a line, a panel or a row of the paper's figures and tables."""

    experiment: Experiment
    evaluation: Evaluation
    is_optional: bool = False
    """Whether nothing is missing without it, for the paper does not have it."""

    @property
    def method(self) -> str:
        """The method that is evaluated."""
        return self.evaluation.method or self.experiment.method

    @property
    def method_title(self) -> str:
        """The method's name in figures and tables."""
        return method_title(self.method)

    @property
    def shots(self) -> int:
        """K of the evaluation, or trajectories per gradient step."""
        return self.evaluation.shots or self.experiment.shots

    def choose(self, results: Iterable[Result], kind: type[R]) -> list[R]:
        """Picks the results that fill it, one per seed; see `results.choice.choose`."""
        return choice.choose(results, self.wanted(kind), self.experiment.as_published)

    def wanted(self, kind: type[R]) -> Wanted[R]:
        """Which results of a kind would fill it."""
        experiment, evaluation = self.experiment, self.evaluation
        any_training = experiment.is_policy or experiment.is_joint
        return Wanted(
            kind,
            self.method,
            experiment.problem,
            shots=None if experiment.is_policy else self.shots,
            train_shots=None if any_training else experiment.shots,
            step=evaluation.steps,
            ways=experiment.ways,
            conv=experiment.conv,
            inputs=evaluation.inputs,
            batch_statistics=evaluation.batch_statistics,
        )


def find(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
      KeyError: there is none.
    """
    return EXPERIMENTS[name]


def cell(
    name: str, shots: int | None = None, *, inputs: str = "all", optional: bool = False
) -> Cell:
    """The cell that an experiment's own evaluation fills.

    Args:
      name: of the experiment.
      shots: of the evaluation; None: the only one.
      inputs: of the evaluation.
      optional: see `Cell.is_optional`.

    Raises:
      KeyError: the protocol has no such evaluation.
    """
    experiment = find(name)
    for evaluation in experiment.evaluations:
        found = Cell(experiment, evaluation, optional)
        fits = found.method == experiment.method and evaluation.inputs == inputs
        if fits and shots in (None, found.shots):
            return found
    raise KeyError(f"{name} is not evaluated with K = {shots}, inputs = {inputs}")


def of_method(method: str, base: str) -> str:
    """The name of an experiment by another method than the MAML of `base`."""
    return base + {"maml": "", "fomaml": "_first_order"}.get(method, f"_{method}")


# --- the experiments ---


def _sinusoid(method: str, title: str, hours: float, *, half: bool = False) -> Experiment:
    evaluations = [Evaluation(shots, 10) for shots in SINUSOID_SHOTS]
    if half:
        evaluations += [Evaluation(shots, 10, inputs="half") for shots in SINUSOID_SHOTS]
    return Experiment(
        name=of_method(method, "sinusoid_10shot"),
        title=f"Sinusoid, {title}",
        problem="sinusoid",
        method=method,
        shots=10,
        evaluations=tuple(evaluations),
        hours=hours,
    )


def _omniglot(
    name: str, title: str, hours: float, *, steps: int = 3, conv: bool = True, **settings
) -> Experiment:
    """Published 5-shot figures are those of the model that was trained 1-shot."""
    settings = {"method": "maml", "ways": 5, "shots": 1, **settings}
    evaluations = [Evaluation(shots, steps) for shots in (1, 5)]
    return Experiment(
        name=f"omniglot_{name}",
        title=f"Omniglot {settings['ways']}-way, {title}",
        problem="omniglot",
        conv=conv,
        hours=hours,
        **{"evaluations": tuple(evaluations), **settings},
    )


def _five_shot(base: Experiment) -> tuple[Experiment, Experiment]:
    """The 5-shot evaluation of a model trained 1-shot, and a model trained 5-shot."""
    name = base.name.replace("1shot", "5shot")
    evaluations = (dataclasses.replace(base.evaluations[0], shots=5),)
    published = dataclasses.replace(
        base,
        name=name,
        title=f"{base.title.replace('1-shot', '5-shot')}, trained 1-shot",
        evaluations=evaluations,
        trained_by=base.name,
        hours=0.05,
    )
    own = dataclasses.replace(
        base,
        name=f"{name}_trained",
        title=f"{base.title.replace('1-shot', '5-shot')}, trained 5-shot",
        shots=5,
        evaluations=evaluations,
        hours=4 * base.hours,
        other_flagfile=published.flagfile,
    )
    return published, own


def _miniimagenet(
    shots: int, method: str, title: str, hours: float, *, trained_by: str = ""
) -> Experiment:
    steps = 0 if method == "nearest_neighbour" else 10
    evaluations: tuple[Evaluation, ...] = (Evaluation(shots, steps),)
    if method == "pretrained" and not trained_by:
        evaluations = _of_all_classes(10)
    joint = method in ("pretrained", "nearest_neighbour")
    return Experiment(
        name=of_method(method, f"miniimagenet_5way_{shots}shot"),
        title=f"MiniImagenet 5-way {shots}-shot, {title}",
        problem="miniimagenet",
        method=method,
        ways=5,
        shots=1 if joint else shots,
        evaluations=evaluations,
        hours=hours,
        trained_by=trained_by,
    )


def _of_all_classes(steps: int) -> tuple[Evaluation, ...]:
    """Evaluations of a classifier of all classes: one for every K and for both baselines."""
    return tuple(
        evaluation
        for shots in (1, 5)
        for evaluation in (
            Evaluation(shots, steps),
            Evaluation(shots, 0, method="nearest_neighbour"),
        )
    )


def _policy(problem: str, method: str, title: str, hours: float) -> Experiment:
    steps = 0 if method == "oracle" else 3
    shots = 40 if problem == "navigation_2d" else None
    return Experiment(
        name=of_method(method, problem),
        title=f"{ENVIRONMENTS[problem][0].upper()}{ENVIRONMENTS[problem][1:]}: {title}",
        problem=problem,
        method=method,
        shots=40 if problem == "ant_direction" else 20,
        evaluations=(Evaluation(shots, steps),),
        hours=hours,
    )


def _policies() -> Iterable[Experiment]:
    for problem in ENVIRONMENTS:
        hours = 0.5 if problem == "navigation_2d" else 1.5 if "cheetah" in problem else 3.0
        yield _policy(problem, "maml", "MAML", hours)
        if problem in ("navigation_2d", "cheetah_direction"):
            yield _policy(problem, "context", "context vector", hours)
        yield _policy(problem, "pretrained", "pretrained", hours)
        yield _policy(problem, "random", "random initialisation", 0.05)
        yield _policy(problem, "oracle", "oracle", hours)


def _promp() -> Iterable[Experiment]:
    """What the paper does not have: ProMP as its authors set it up, and the soonest for ants."""
    for problem in ENVIRONMENTS:
        if problem == "navigation_2d":
            continue
        yield dataclasses.replace(
            _policy(problem, "maml", "ProMP's settings", 3.0), name=f"{problem}_promp", shots=20
        )
        if "ant" in problem:
            yield dataclasses.replace(
                _policy(problem, "maml", "ProMP, soonest", 3.0),
                name=f"{problem}_fast",
                shots=10,
                head_stddev=0.001,
            )


def _cifar() -> Iterable[Experiment]:
    """What the paper does not have: CIFAR-100's tasks, by its settings for MiniImagenet."""
    for problem, title in (("cifar_fs", "CIFAR-FS"), ("fc100", "FC100")):
        for shots, hours in ((1, 4.0), (5, 6.5)):
            yield Experiment(
                name=f"{problem}_5way_{shots}shot",
                title=f"{title} 5-way {shots}-shot, MAML",
                problem=problem,
                ways=5,
                shots=shots,
                evaluations=(Evaluation(shots, 10),),
                hours=hours,
            )


_JOINT = "miniimagenet_5way_1shot_pretrained"
_OF_OMNIGLOT = (
    _omniglot("5way_1shot", "1-shot, MAML", 1.7),
    _omniglot("5way_1shot_context", "1-shot, context vector", 2.0, method="context"),
    _omniglot("5way_1shot_dense", "1-shot, MAML, no convolution", 0.15, conv=False),
    _omniglot("20way_1shot", "1-shot, MAML", 13.0, ways=20, steps=5),
)
_ALL = (
    _sinusoid("maml", "MAML", 0.03, half=True),
    _sinusoid("fomaml", "MAML, first order", 0.03),
    _sinusoid("context", "context vector", 0.03),
    _sinusoid("pretrained", "pretrained", 0.03, half=True),
    _sinusoid("random", "random initialisation", 0.02),
    _sinusoid("oracle", "oracle", 0.03),
    _sinusoid("multitask", "multi-task, no regularisation", 0.3),
    _sinusoid("multitask_l2", "multi-task, L2", 0.3),
    _sinusoid("multitask_mean", "multi-task, L2 towards the mean", 0.4),
    Experiment(
        name="sinusoid_5shot",
        title="Sinusoid, MAML, trained 10-shot",
        problem="sinusoid",
        shots=10,
        evaluations=(Evaluation(5, 10),),
        hours=0.01,
        trained_by="sinusoid_10shot",
    ),
    *_OF_OMNIGLOT,
    *(made for base in _OF_OMNIGLOT for made in _five_shot(base)),
    _omniglot("5way_1shot_first_order", "1-shot, MAML, first order", 1.0, method="fomaml"),
    _omniglot(
        "5way_1shot_pretrained",
        "1-shot, pretrained",
        1.5,
        method="pretrained",
        evaluations=_of_all_classes(3),
    ),
    _omniglot(
        "20way_1shot_mean",
        "1-shot, MAML, mean loss",
        13.0,
        ways=20,
        steps=5,
        loss_reduction="mean",
    ),
    _omniglot(
        "20way_1shot_small_head",
        "1-shot, MAML, small initial head",
        13.0,
        ways=20,
        steps=5,
        head_stddev=0.1,
    ),
    _omniglot(
        "20way_1shot_recipe",
        "1-shot, MAML++",
        9.0,
        ways=20,
        steps=5,
        loss_reduction="mean",
        head_stddev=0.1,
    ),
    _miniimagenet(1, "maml", "MAML", 21.0),
    _miniimagenet(5, "maml", "MAML", 25.0),
    _miniimagenet(1, "fomaml", "MAML, first order", 12.0),
    _miniimagenet(5, "fomaml", "MAML, first order", 15.0),
    _miniimagenet(1, "pretrained", "pretrained", 6.0),
    _miniimagenet(5, "pretrained", "pretrained", 0.1, trained_by=_JOINT),
    _miniimagenet(1, "nearest_neighbour", "nearest neighbour", 0.1, trained_by=_JOINT),
    _miniimagenet(5, "nearest_neighbour", "nearest neighbour", 0.1, trained_by=_JOINT),
    *_cifar(),
    *_policies(),
    *_promp(),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}
"""Every experiment, by name."""


@dataclass(frozen=True)
class Subset:
    """Some experiments, trained for a shorter time."""

    experiments: tuple[str, ...]
    iterations: int
    hours: float


QUICK = Subset(
    ("sinusoid_10shot", "sinusoid_10shot_pretrained", "sinusoid_10shot_oracle"), 15_000, 0.025
)
"""The sinusoid and its baselines: every kind of figure in a minute or two."""
