"""The paper's figures, as far as result files allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from matplotlib.figure import Figure

from maml_tf.paper.numbers import FIGURES
from maml_tf.paper.pieces import Piece
from maml_tf.paper.protocol import ENVIRONMENTS, Cell
from maml_tf.plotting import curves, tasks
from maml_tf.plotting.style import METHODS
from maml_tf.plotting.tasks import PathCell, SampleCell
from maml_tf.results.records import Curve, Paths, Result, Samples

_Panels = Mapping[str, Mapping[str, Sequence[Curve]]]


def make(name: str, results: Iterable[Result]) -> Piece:
    """Makes one of `numbers.FIGURES`, as far as the results allow."""
    kind, draw = _MAKERS[name]
    results = list(results)
    chosen: dict[Cell, list[Result]]
    chosen = {cell: cell.choose(results, kind) for cell in FIGURES[name]}
    missing = [cell for cell, found in chosen.items() if not found and not cell.is_optional]
    content = draw(chosen) if any(chosen.values()) else None
    return Piece(name, content, missing)


# --- learning curves ---


def _learning_curves(chosen: Mapping[Cell, Sequence[Curve]]) -> Figure:
    """Learning curves at meta-test time, a panel for each K; the methods that there are."""
    return curves.learning_curves(_panels(chosen, lambda cell: f"K = {cell.shots}"))


def _return_curves(chosen: Mapping[Cell, Sequence[Curve]]) -> Figure:
    """Returns at meta-test time, a panel for each environment that has results."""
    return curves.return_curves(_panels(chosen, lambda cell: ENVIRONMENTS[cell.experiment.problem]))


def _panels(chosen: Mapping[Cell, Sequence[Curve]], title: Callable[[Cell], str]) -> _Panels:
    """Title -> method -> its curves; methods in the order of the legend."""
    panels: dict[str, dict[str, Sequence[Curve]]] = {}
    for method in METHODS:
        for cell, found in chosen.items():
            if cell.method == method and found:
                panels.setdefault(title(cell), {})[method] = found
    order = [title(cell) for cell in chosen]
    return dict(sorted(panels.items(), key=lambda panel: order.index(panel[0])))


# --- single tasks ---


def _one_wave(chosen: Mapping[Cell, Sequence[Samples]]) -> Figure:
    """One sine wave before and after adaptation: MAML, then pretrained; K = 5 and 10.

    It is the first one of amplitude 2 or more, for the curves of a flat one hide each other.
    """
    ordered = sorted(chosen.items(), key=lambda entry: list(METHODS).index(entry[0].method))
    return tasks.sample_grid([[_wave(found, None) for _, found in ordered]])


def _two_waves(chosen: Mapping[Cell, Sequence[Samples]]) -> Figure:
    """The first two sine waves of each evaluation; a row each for K = 5, 10 and 20."""
    rows: dict[int, list[SampleCell | None]] = {}
    for cell, found in chosen.items():
        rows.setdefault(cell.shots, []).extend(_wave(found, task) for task in (0, 1))
    return tasks.sample_grid([row for row in rows.values() if any(row)])


def _wave(found: Sequence[Samples], task: int | None) -> SampleCell | None:
    """One panel; of the first result, and without a number of a task that is not flat."""
    if not found:
        return None
    samples = found[0]
    if task is None:
        tall = (i for i, t in enumerate(samples.tasks) if t.amplitude >= 2)
        task = next(tall, 0)
    if task >= len(samples.tasks):
        return None
    title = f"{samples.method_title}, K = {samples.shots}, {samples.step_size_text}"
    return SampleCell(title, samples, task)


def _paths(chosen: Mapping[Cell, Sequence[Paths]]) -> Figure:
    """Paths on the plane before and after adaptation, a row per task; MAML, then pretrained."""
    columns = [found[0] if found else None for found in chosen.values()]
    number = min(len(paths.tasks) for paths in columns if paths)
    rows = [[cell for p in columns for cell in _before_and_after(p, t)] for t in range(number)]
    return tasks.path_grid(rows)


def _before_and_after(paths: Paths | None, number: int) -> list[PathCell | None]:
    if paths is None:
        return [None, None]
    task, last = paths.tasks[number], paths.steps[-1]
    method, after = paths.method_title, f"{last} step{'s' * (last > 1)}"
    return [
        PathCell(f"{method}, pre-update", task.goal, task.paths[0], adapted=False),
        PathCell(f"{method}, {after}", task.goal, task.paths[-1], adapted=True),
    ]


_MAKERS: dict[str, tuple[type, Callable[..., Figure]]] = {
    "figure_2": (Samples, _one_wave),
    "figure_3": (Curve, _learning_curves),
    "figure_4": (Curve, _return_curves),
    "figure_4_paths": (Paths, _paths),
    "figure_5": (Curve, _return_curves),
    "figure_6": (Curve, _learning_curves),
    "figure_7": (Samples, _two_waves),
    "figure_7_half": (Samples, _two_waves),
}
"""Of each figure: the results that it shows, and how they are drawn."""
