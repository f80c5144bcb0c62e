"""What the paper reports (Finn, Abbeel & Levine 2017, arXiv 1703.03400v3), and how it measured it.

Numbers are written as they are printed there. The baselines of MiniImagenet are those of Ravi &
Larochelle 2017, which the paper cites. Returns are means over 40 tasks, taken from the result files
that come with the original program; those of the context vector are printed in the paper.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from matplotlib.figure import Figure

from maml_tf.results.choice import Wanted

METHODS = {
    "maml": "MAML",
    "fomaml": "MAML, first order",
    "pretrained": "pretrained",
    "random": "random initialisation",
    "oracle": "oracle",
    "context": "context vector",
    "multitask": "multi-task, no regularisation",
    "multitask_l2": "multi-task, L2",
    "multitask_mean": "multi-task, L2 towards the mean",
    "nearest_neighbour": "nearest neighbour",
}
"""Every method by its name in result files, with its name in figures and tables."""

_SUFFIXES = {"maml": "", "fomaml": "_first_order"}


class Piece(NamedTuple):
    """A figure or a table of the paper, as far as the result files allow."""

    name: str  # e.g. "figure_2"
    content: Figure | str | None  # a table is Markdown; None: no file allows anything of it
    missing: list[Wanted]


class Row(NamedTuple):
    """One row of a table."""

    data: str
    wanted: Wanted
    steps: tuple[int, ...]  # gradient steps that are quoted
    published: tuple[str, ...]  # the paper's number after each of them; "" where it has none


def experiment(wanted: Wanted) -> str:
    """Names what `run_experiments.sh` is to run for the wanted results: a file in `flags/`."""
    way = "" if wanted.ways is None else f"_{wanted.ways}way"
    shots = wanted.train_shots or (None if wanted.ways is None else wanted.shots)
    name = f"{wanted.datasource}{way}" + ("" if shots is None else f"_{shots}shot")
    name += "_dense" if wanted.conv is False else ""
    name += _SUFFIXES.get(wanted.method, f"_{wanted.method}")
    # Omniglot's 5-shot flagfiles evaluate the model trained 1-shot, as published.
    trained = wanted.datasource == "omniglot" and wanted.train_shots == 5
    return f"{name} --train_update_batch_size=-1" if trained else name


# --- sinusoid: Figures 2, 3, 6 and 7, Table 2 ---

SINUSOID_SHOTS = (5, 10, 20)
"""K of the evaluations; all models are trained with K = 10."""


def sinusoid(method: str, shots: int, **other) -> Wanted:
    """Names the results of one method on sine waves, by the paper's protocol."""
    return Wanted(method, "sinusoid", shots, train_shots=10, step=10, **other)


def _sinusoid_row(method: str, *published: str) -> Row:
    return Row("sinusoid", sinusoid(method, 5), (1, 5, 10), published)


TABLE_2 = (
    _sinusoid_row("maml", "0.67", "0.38", "0.35"),
    _sinusoid_row("pretrained", "2.41", "2.23", "2.19"),
    _sinusoid_row("multitask", "4.19", "3.85", "3.69"),
    _sinusoid_row("multitask_l2", "7.18", "5.69", "5.60"),
    _sinusoid_row("multitask_mean", "2.91", "2.72", "2.71"),
)

# --- classification: Tables 1 and 3 ---


def _omniglot(method: str, ways: int, conv: bool, one_shot: str, five_shot: str) -> list[Row]:
    """1-shot; 5-shot from the 1-shot model, as published; and trained 5-shot."""
    step = 3 if ways == 5 else 5
    data = f"Omniglot {ways}-way" + ("" if conv else ", no convolution")
    wanted = Wanted(method, "omniglot", 1, 1, step, ways, conv)
    return [
        Row(data, wanted, (step,), (one_shot,)),
        Row(data, dataclasses.replace(wanted, shots=5), (step,), (five_shot,)),
        Row(data, dataclasses.replace(wanted, shots=5, train_shots=5), (step,), ("",)),
    ]


def _miniimagenet(method: str, one_shot: str, five_shot: str) -> list[Row]:
    step = 0 if method == "nearest_neighbour" else 10  # it has no gradient
    joint = method in ("pretrained", "nearest_neighbour")  # trained on all classes at once
    return [
        Row(
            "MiniImagenet 5-way",
            Wanted(method, "miniimagenet", k, None if joint else k, step, 5),
            (step,),
            (value,),
        )
        for k, value in ((1, one_shot), (5, five_shot))
    ]


TABLE_1 = (
    *_omniglot("maml", 5, True, "98.7 ± 0.4", "99.9 ± 0.1"),
    *_omniglot("maml", 20, True, "95.8 ± 0.3", "98.9 ± 0.2"),
    *_omniglot("maml", 5, False, "89.7 ± 1.1", "97.5 ± 0.6"),
    *_miniimagenet("maml", "48.70 ± 1.84", "63.11 ± 0.92"),
    *_miniimagenet("fomaml", "48.07 ± 1.75", "63.15 ± 0.91"),
    *_miniimagenet("pretrained", "28.86 ± 0.54", "49.79 ± 0.79"),
    *_miniimagenet("nearest_neighbour", "41.08 ± 0.70", "51.04 ± 0.65"),
)
TABLE_3 = (
    *_omniglot("context", 5, True, "94.9 ± 0.9", "97.7 ± 0.3"),
    *_omniglot("maml", 5, True, "98.7 ± 0.4", "99.9 ± 0.1"),
)

# --- reinforcement learning: Figures 4 and 5, Tables 4 and 5 ---

RETURN_STEPS = (0, 1, 2, 3)
ENVIRONMENTS = {
    "navigation_2d": "2D navigation",
    "cheetah_velocity": "half-cheetah, goal velocity",
    "cheetah_direction": "half-cheetah, forward/backward",
    "ant_velocity": "ant, goal velocity",
    "ant_direction": "ant, forward/backward",
    "ant_goal": "ant, goal place",
}
"""Every environment by its name in result files; the paper does not have the last one."""

LOCOMOTION = tuple(ENVIRONMENTS)[1:5]

_RETURNS = """
navigation_2d      maml        −40.4±4.0   −11.7±2.2   −3.3±0.6    −3.2±0.6
navigation_2d      pretrained  −40.8       −19.7       −11.7       −8.5
navigation_2d      random      −82.7       −58.0       −53.8       −46.8
navigation_2d      oracle      −2.3
navigation_2d      context     −42.42      −13.90      −5.17       −3.18
cheetah_velocity   maml        −129.5±17   −78.6±10    −66.6±9     −60.8±9
cheetah_velocity   pretrained  −158.0      −135.4      −128.5      −133.6
cheetah_velocity   random      −254.8      −254.3      −246.8      −230.8
cheetah_velocity   oracle      −54.5
cheetah_direction  maml        −50.7±6     293.2±17    313.5±16    315.7±14
cheetah_direction  pretrained  −43.0       −24.8       −12.9       19.6
cheetah_direction  random      −35.7       21.8        62.3        86.2
cheetah_direction  oracle      442.7
cheetah_direction  context     −40.49      −44.08      −38.27      −42.50
ant_velocity       maml        30.6±30     96.7±21     100.1±21    101.4±21
ant_velocity       pretrained  −1.8        6.1         8.5         9.5
ant_velocity       random      −78.6       −62.8       −48.6       −35.6
ant_velocity       oracle      107.9
ant_direction      maml        8.7±14      499.2±32    500.7±32    499.1±33
ant_direction      pretrained  3.2         1.3         6.5         6.9
ant_direction      random      3.1         9.3         16.0        26.1
ant_direction      oracle      524.8
"""  # after 0, 1, 2 and 3 gradient steps


def returns(method: str, environment: str, **other) -> Wanted:
    """Names the returns of one method: after 3 gradient steps, or none for the oracle."""
    return Wanted(method, environment, step=0 if method == "oracle" else 3, **other)


def _returns_row(environment: str, method: str, *published: str) -> Row:
    steps = (0,) if method == "oracle" else RETURN_STEPS
    numbers = tuple(text.replace("±", " ± ") for text in published) or ("",) * len(steps)
    return Row(ENVIRONMENTS[environment], returns(method, environment), steps, numbers)


RETURNS = tuple(_returns_row(*line.split()) for line in _RETURNS.strip().splitlines())
TABLE_4, TABLE_5 = (
    tuple(row for row in RETURNS if row.wanted.datasource == name)
    for name in ("navigation_2d", "cheetah_direction")
)
MORE_RETURNS = tuple(
    _returns_row("ant_goal", method) for method in ("maml", "pretrained", "random", "oracle")
)
"""What the paper did not measure."""
