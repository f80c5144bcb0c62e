import pytest
from helpers import paper_results, result_content, write_result

from maml_tf.experiments.methods import METHODS
from maml_tf.paper.numbers import TABLES, Layout, Row, Table, fills
from maml_tf.paper.protocol import cell
from maml_tf.paper.tables import make

REST = ["60000", "0", "600"]
EMPTY = ["—"] * 4
LAST = ["trajectories", "iterations", "environment steps", "seeds", "tasks"]
OMNIGLOT_5WAY = [
    ["Omniglot 5-way", "MAML", "1-shot", "1-shot", "3", "98.7 ± 0.4", "97.61 ± 0.64", *REST],
    ["Omniglot 5-way", "MAML", "5-shot", "1-shot", "3", "99.9 ± 0.1", "98.55 ± 0.64", *REST],
    ["Omniglot 5-way", "MAML", "5-shot", "5-shot", "3", "—", "99.22 ± 0.64", *REST],
]
DENSE = "Omniglot 5-way, no convolution"
MINI = "MiniImagenet 5-way"
NUMBERS = ("paper", "measured")
CONTEXT = ["−40.49", "—", "−44.08", "—", "−38.27", "—", "−42.50", "—"]


def rows(piece):
    lines = [line for line in piece.content.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1 and set(cells[1]) == {"---"}
    return cells[0], cells[2:]


def test_table_1():
    piece = make("table_1", paper_results())
    heading, cells = rows(piece)
    assert heading[:7] == "data,method,shots,trained with,steps,paper,measured".split(",")
    assert heading[7:] == ["iterations", "seeds", "tasks"]
    assert cells == [
        *OMNIGLOT_5WAY,
        ["Omniglot 20-way", "MAML", "1-shot", "1-shot", "5", "95.8 ± 0.3", "91.71 ± 0.64", *REST],
        ["Omniglot 20-way", "MAML", "5-shot", "1-shot", "5", "98.9 ± 0.2", *EMPTY],
        ["Omniglot 20-way", "MAML", "5-shot", "5-shot", "5", "—", *EMPTY],
        [DENSE, "MAML", "1-shot", "1-shot", "3", "89.7 ± 1.1", "87.44 ± 0.64", *REST],
        [DENSE, "MAML", "5-shot", "1-shot", "3", "97.5 ± 0.6", *EMPTY],
        [DENSE, "MAML", "5-shot", "5-shot", "3", "—", *EMPTY],
        [MINI, "MAML", "1-shot", "1-shot", "10", "48.70 ± 1.84", "47.16 ± 0.64", *REST],
        [MINI, "MAML", "5-shot", "5-shot", "10", "63.11 ± 0.92", *EMPTY],
        [MINI, "MAML, first order", "1-shot", "1-shot", "10", "48.07 ± 1.75", *EMPTY],
        [MINI, "MAML, first order", "5-shot", "5-shot", "10", "63.15 ± 0.91", *EMPTY],
        [MINI, "pretrained", "1-shot", "all classes", "10", "28.86 ± 0.54", *EMPTY],
        [MINI, "pretrained", "5-shot", "all classes", "10", "49.79 ± 0.79", "46.61 ± 0.64", *REST],
        [MINI, "nearest neighbour", "1-shot", "all classes", "—", "41.08 ± 0.70", *EMPTY],
        [MINI, "nearest neighbour", "5-shot", "all classes", "—", "51.04 ± 0.65", *EMPTY],
    ]
    for said in ("3 gradient steps", "5 for Omniglot 20-way", "10 for MiniImagenet", "95 %"):
        assert said in piece.content.splitlines()[0]
    assert len(piece.missing) == sum(row[-4:] == EMPTY for row in cells) == 10


def test_a_cell_is_the_files_number_at_the_quoted_step():
    said = result_content("omniglot_5way_1shot", "test_1shot_stepsize0.4")
    assert f"{100 * said['mean'][3]:.2f} ± {100 * said['ci95'][3]:.2f}" == OMNIGLOT_5WAY[0][6]


def test_table_2():
    piece = make("table_2", paper_results())
    heading, cells = rows(piece)
    assert heading[1:5] == ["paper, 1 step", "measured, 1 step", "paper, 5 steps"] + [
        "measured, 5 steps"
    ]
    expected = []
    for row in TABLES["table_2"].rows:
        line = [METHODS[row.cell.method].title]
        there = row.cell.method != "multitask_mean"
        if there:
            suffix = "" if row.cell.method == "maml" else f"_{row.cell.method}"
            alpha = "0.02" if row.cell.method == "pretrained" else "0.01"
            said = result_content(f"sinusoid_10shot{suffix}", f"test_5shot_stepsize{alpha}")
        for step, published in zip((1, 5, 10), row.published, strict=True):
            ours = f"{said['mean'][step]:.2f} ± {said['ci95'][step]:.2f}" if there else "—"
            line += [published, ours]
        expected.append(line + (["70000", "0", "600"] if there else ["—"] * 3))
    assert cells == expected
    assert cells[0][:4] == ["MAML", "0.67", "0.78 ± 0.07", "0.38"]
    assert [cell.method for cell in piece.missing] == ["multitask_mean"]


def test_table_3():
    piece = make("table_3", paper_results())
    _, cells = rows(piece)
    context = ["Omniglot 5-way", "context vector"]
    assert cells == [
        [*context, "1-shot", "1-shot", "3", "94.9 ± 0.9", "93.52 ± 0.64", *REST],
        [*context, "5-shot", "1-shot", "3", "97.7 ± 0.3", *EMPTY],
        [*context, "5-shot", "5-shot", "3", "—", *EMPTY],
        *OMNIGLOT_5WAY,
    ]


NAVIGATION = [
    ["MAML", "−40.4 ± 4.0", "−40.1 ± 4.5", "−11.7 ± 2.2", "−12.3 ± 4.0", "−3.3 ± 0.6"]
    + ["−4.1 ± 3.5", "−3.2 ± 0.6", "−3.6 ± 3.0", "40", "500", "—", "0", "40"],
    ["oracle", "−2.3", "−2.4 ± 0.4", *["—"] * 6, "40", "500", "—", "0", "40"],
]


def test_table_4():
    piece = make("table_4", paper_results())
    heading, cells = rows(piece)
    by_step = [f"{w}, {s}" for s in ("0 steps", "1 step", "2 steps", "3 steps") for w in NUMBERS]
    assert heading == ["method", *by_step, *LAST]
    assert [row[0] for row in cells] == [
        METHODS[name].title for name in ("maml", "pretrained", "random", "oracle", "context")
    ]
    assert [cells[0], cells[3]] == NAVIGATION and not piece.missing
    assert cells[4][1:7:2] == ["−42.42", "−13.90", "−5.17"]
    assert "2D navigation" in piece.content.splitlines()[0]


def test_table_5():
    piece = make("table_5", paper_results())
    _, cells = rows(piece)
    assert cells[0][1:3] == ["−50.7 ± 6", "−48.2 ± 18.6"]
    assert cells[4] == ["context vector", *CONTEXT, *["—"] * 5]
    assert [w.method for w in piece.missing] == ["random", "context"]


def test_returns_of_every_environment(tmp_path):
    piece = make("returns", paper_results())
    heading, cells = rows(piece)
    assert heading[:2] == ["environment", "method"] and len(cells) == 22
    assert [row[1:] for row in cells if row[0] == "2D navigation"][::3] == NAVIGATION
    assert len(piece.missing) == sum(row[-4:] == EMPTY for row in cells) == 7
    name = "test_40trajectories_stepsize0.1"
    write_result(tmp_path / "results" / "a.json", "ant_direction", name, datasource="ant_goal")
    _, cells = rows(make("returns", paper_results(tmp_path)))  # which the paper has not
    assert len(cells) == 23
    assert cells[-1][:4] == ["ant, goal place", "MAML", "—", "7.9 ± 37.2"]


def test_what_a_training_took_of_the_environment_is_shown(tmp_path):
    name = "test_40trajectories_stepsize0.1"
    place, said = tmp_path / "results" / "a.json", {"datasource": "ant_goal"}
    write_result(place, "ant_direction", name, environment_steps=12_345_678, **said)
    _, cells = rows(make("returns", paper_results(tmp_path)))
    assert cells[-1][-3] == "12.3 M"


@pytest.mark.parametrize("other", [{"dynamics": "gymnasium"}, {"horizon": 100}])
def test_returns_by_other_dynamics_or_of_shorter_episodes_are_not_the_paper_s(other, tmp_path):
    name, said = "test_40trajectories_stepsize0.1", {"datasource": "ant_goal"}
    write_result(tmp_path / "results" / "a.json", "ant_direction", name, **said, **other)
    assert make("returns", paper_results(tmp_path)).content is None


def test_seeds_share_a_row(tmp_path):
    for seed in (0, 1):
        write_result(tmp_path / "results" / f"{seed}.json", seed=seed)
    _, cells = rows(make("table_1", paper_results(tmp_path)))
    assert cells[0][6:] == ["97.61 ± 0.45", "60000", "0, 1", "1200"]  # 0.64 / sqrt(2)


@pytest.mark.parametrize("name", TABLES)
def test_without_files_there_is_no_table(name):
    piece = make(name, [])
    assert piece.content is None and len(piece.missing) >= 5


def test_a_new_table_is_one_entry(monkeypatch):
    row = Row("sinusoid", cell("sinusoid_10shot_oracle", 20), (0, 10), ("0.00", ""))
    table = Table("Table 6: the oracle.", Layout(("method", "shots"), (0, 10)), (row,))
    monkeypatch.setitem(TABLES, "table_6", table)
    heading, cells = rows(make("table_6", paper_results()))
    assert heading[:4] == ["method", "shots", "paper, 0 steps", "measured, 0 steps"]
    assert cells[0][:3] == ["oracle", "20-shot", "0.00"] and cells[0][4] == "—"
    assert "table_6" in fills("sinusoid_10shot_oracle")


def test_every_method_of_the_tables_has_a_name():
    cells = [cell for table in TABLES.values() for cell in table.cells]
    assert {cell.method for cell in cells} <= set(METHODS)
    assert all(cell.evaluation.steps in (0, 3, 5, 10) for cell in cells)
