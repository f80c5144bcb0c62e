"""The paper's figures of sinusoid regression, as far as result files allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from maml_tf import figures, paper
from maml_tf.paper import Piece
from maml_tf.result_files import Result, Samples, Wanted, choose, step_size_text


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


ALL = (figure_2, figure_3, figure_6, figure_7, figure_7_half)


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
        cells: list[figures.SampleCell | None] = []
        for method, shots, task in row:
            wanted = paper.sinusoid(method, shots, inputs=inputs, samples=True)
            chosen = choose(results, wanted)
            cells.append(_cell(chosen[0], task) if chosen else None)
            if not chosen:
                missing[wanted] = None
        if any(cells):
            rows.append(cells)
    return Piece(name, figures.sample_grid(rows) if rows else None, list(missing))


def _cell(samples: Samples, task: int | None) -> figures.SampleCell | None:
    if task is None:
        tall = (i for i, t in enumerate(samples.tasks) if t.amplitude >= 2)
        task = next(tall, 0)
    if task >= len(samples.tasks):
        return None
    title = f"{paper.METHODS[samples.method]}, K = {samples.shots}, {step_size_text(samples)}"
    return figures.SampleCell(title, samples, task)
