"""Imports point one way."""

import ast
from pathlib import Path

import pytest

import maml_tf

PACKAGE = Path(maml_tf.__file__).parent
FLOORS = (
    {"patching", "checksums", "home", "arguments", "progress"},
    {"files"},
    {"types", "_version", "normalization", "patches", "fast_weights", "saved_models", "objectives"}
    | {"stop_signal", "strategies", "descriptions", "task_axis", "pooling", "vectorized"}
    | {"argument_types", "run_lock", "ranges", "texts"},
    {"second_derivatives", "model_inputs", "penalties", "losses", "networks", "compiled_loop"}
    | {
        "source_tracing",
        "learner_files",
        "history",
        "several_outputs",
        "labels",
        "cloning",
    },
    {"single_task", "config", "keras_objectives", "checks", "adaptation"}
    | {"task_checks", "supplies"},
    {"run", "result_schema", "result_names", "identity"},
    {"read_ahead", "functional", "keras_metrics", "optimizers", "settings", "result_files"},
    {"normalization_rules", "layer_rules", "operation_rules", "resolve", "sources"}
    | {"curvature_check", "learner_summary", "result_choice"},
    {"convolution_rules", "sequence_rules"},
    {"meta_learner", "paper"},
    {"serving_interface"},
    {"baselines", "checkpoints", "evaluation", "serving", "figures", "tables"},
    {"summaries", "task_figures", "resuming"},
    {"training", "export", "rl", "paper_figures"},
    {"rl_experiment"},
    {"experiment", "results"},
    {"cli"},
    {"__main__", "__init__"},
)
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name


def own_modules(path):
    """First names below `maml_tf` that a file imports."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("maml_tf.")}
    return {n for n in names if (PACKAGE / f"{n}.py").exists() or (PACKAGE / n).is_dir()}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_a_module_imports_from_lower_floors_only(path):
    assert path.stem in FLOOR, f"give {path.stem} a floor"
    if path.stem == "__init__":
        return
    for module in own_modules(path) - {"tasks"}:
        # Rules of layers register with `functional`, on whose floor they could not stand.
        assert FLOOR[module] < FLOOR[path.stem], f"{path.stem} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "tasks").glob("*.py")), ids=lambda p: p.stem)
def test_tasks_know_only_the_vocabulary(path):
    assert own_modules(path) <= {"types", "tasks", "files", "texts", "arguments", "progress"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "rl").rglob("*.py")), ids=lambda p: p.stem)
def test_reinforcement_learning_knows_neither_the_training_loop_nor_the_command_line(path):
    lower = {module for modules in FLOORS[:7] for module in modules} | {"tasks", "rl"}
    assert own_modules(path) <= lower | ({"evaluation"} if path.stem == "evaluation" else set())
    from_tasks = {name for name in imports(path) if name.startswith("maml_tf.tasks.")}
    assert all(name.startswith("maml_tf.tasks.seeds") for name in from_tasks)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_only_the_command_line_reads_flags(path):
    if "cli" not in path.relative_to(PACKAGE).parts:
        assert not any(name.startswith("absl") for name in imports(path))
        assert "cli" not in own_modules(path) or path.stem == "__main__"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_no_pickle_and_no_named_device(path):
    text = path.read_text()
    assert "import pickle" not in text and "allow_pickle=True" not in text
    assert "tf.device(" not in text
