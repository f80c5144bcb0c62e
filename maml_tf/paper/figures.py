"""The paper's figures, as far as result files allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from maml_tf.paper import numbers as paper
from maml_tf.paper.numbers import Piece
from maml_tf.plotting import curves as figures
from maml_tf.plotting import tasks as task_figures
from maml_tf.plotting.tasks import PathCell, SampleCell
from maml_tf.results.choice import Wanted, choose
from maml_tf.results.files import Paths, Result, Samples, step_size_text


def figure_2(results: Iterable[Result]) -> Piece:
    """One sine wave before and after adaptation: MAML, then pretrained; K = 5 and 10.

    It is the first one of amplitude 2 or more, for the curves of a flat one hide each other.
    """
    row = [(method, shots, None) for method in ("maml", "pretrained") for shots in (5, 10)]
    return _samples("figure_2", results, [row])


def figure_3(results: Iterable[Result]) -> Piece:
    """Learning curves at meta-test time: MAML, pretrained, oracle; K = 5 and 10."""
    return _curves("figure_3", results, (5, 10), ("maml", "pretrained", "oracle"))


def figure_6(results: Iterable[Result]) -> Piece:
    """Learning curves at meta-test time for K = 5, 10 and 20; all methods that there are."""
    needed = ("maml", "pretrained", "oracle")
    return _curves("figure_6", results, paper.SINUSOID_SHOTS, needed, ("fomaml", "random"))


def figure_7(results: Iterable[Result]) -> Piece:
    """The first two sine waves of each evaluation; a row each for K = 5, 10 and 20."""
    return _samples("figure_7", results, _two_of_each())


def figure_7_half(results: Iterable[Result]) -> Piece:
    """The same with all K points in one half of the input range."""
    return _samples("figure_7_half", results, _two_of_each(), inputs="half")


def figure_4(results: Iterable[Result]) -> Piece:
    """Returns of 2D navigation at meta-test time: MAML, pretrained, random, oracle."""
    return _returns("figure_4", results, ("navigation_2d",))


def figure_4_paths(results: Iterable[Result]) -> Piece:
    """Ways on the plane before and after adaptation: a row a task; MAML, then pretrained."""
    results, missing, columns = list(results), [], []
    for method in ("maml", "pretrained"):
        wanted = paper.returns(method, "navigation_2d", kind=Paths)
        chosen = choose(results, wanted)
        columns.append(chosen[0] if chosen else None)
        missing += [] if chosen else [wanted]
    found = [paths for paths in columns if paths]
    if not found:
        return Piece("figure_4_paths", None, missing)
    number = min(len(paths.tasks) for paths in found)
    rows = [[cell for p in columns for cell in _before_and_after(p, t)] for t in range(number)]
    return Piece("figure_4_paths", task_figures.path_grid(rows), missing)


def figure_5(results: Iterable[Result]) -> Piece:
    """Returns of locomotion at meta-test time: MAML, pretrained, random, oracle.

    Environments without results have no panel; the ant's goal, which the paper has not, may have.
    """
    return _returns("figure_5", results, paper.LOCOMOTION, ("ant_goal",))


ALL = (
    *(figure_2, figure_3, figure_4, figure_4_paths, figure_5),
    *(figure_6, figure_7, figure_7_half),
)


def _returns(
    name: str, results: Iterable[Result], needed: Sequence[str], optional: Sequence[str] = ()
) -> Piece:
    results, panels, missing = list(results), {}, []
    for environment in (*needed, *optional):
        chosen = {}
        for method in figures.METHODS:
            wanted = paper.returns(method, environment)
            if curves := choose(results, wanted):
                chosen[method] = curves
            elif environment in needed and method != "fomaml":
                missing.append(wanted)
        if chosen:
            panels[paper.ENVIRONMENTS[environment]] = chosen
    return Piece(name, figures.return_curves(panels) if panels else None, missing)


def _before_and_after(paths: Paths | None, number: int) -> list[PathCell | None]:
    if paths is None:
        return [None, None]
    task, last = paths.tasks[number], paths.steps[-1]
    method, after = paper.METHODS[paths.method], f"{last} step{'s' * (last > 1)}"
    return [
        PathCell(f"{method}, pre-update", task.goal, task.paths[0], adapted=False),
        PathCell(f"{method}, {after}", task.goal, task.paths[-1], adapted=True),
    ]


def _two_of_each() -> list[list[tuple[str, int, int | None]]]:
    columns = [(method, task) for method in ("maml", "pretrained") for task in (0, 1)]
    return [[(method, shots, task) for method, task in columns] for shots in paper.SINUSOID_SHOTS]


def _curves(
    name: str,
    results: Iterable[Result],
    shots: Sequence[int],
    needed: Sequence[str],
    optional: Sequence[str] = (),
) -> Piece:
    results, panels, missing = list(results), {}, []
    for k in shots:
        chosen = {}
        for method in (m for m in figures.METHODS if m in needed or m in optional):
            wanted = paper.sinusoid(method, k)
            if curves := choose(results, wanted):
                chosen[method] = curves
            elif method in needed:
                missing.append(wanted)
        if chosen:
            panels[f"K = {k}"] = chosen
    return Piece(name, figures.learning_curves(panels) if panels else None, missing)


def _samples(
    name: str,
    results: Iterable[Result],
    layout: Sequence[Sequence[tuple[str, int, int | None]]],
    inputs: str = "all",
) -> Piece:
    """Makes a grid of (method, K, number of the task) panels; None: a task that is not flat."""
    results, rows = list(results), []
    missing: dict[Wanted, None] = {}
    for row in layout:
        cells: list[SampleCell | None] = []
        for method, shots, task in row:
            wanted = paper.sinusoid(method, shots, inputs=inputs, kind=Samples)
            chosen = choose(results, wanted)
            cells.append(_cell(chosen[0], task) if chosen else None)
            if not chosen:
                missing[wanted] = None
        if any(cells):
            rows.append(cells)
    return Piece(name, task_figures.sample_grid(rows) if rows else None, list(missing))


def _cell(samples: Samples, task: int | None) -> SampleCell | None:
    if task is None:
        tall = (i for i, t in enumerate(samples.tasks) if t.amplitude >= 2)
        task = next(tall, 0)
    if task >= len(samples.tasks):
        return None
    title = f"{paper.METHODS[samples.method]}, K = {samples.shots}, {step_size_text(samples)}"
    return SampleCell(title, samples, task)
