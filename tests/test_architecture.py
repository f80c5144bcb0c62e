"""Imports point one way: each wing knows those below it, and its neighbours do not know it."""

import ast
import re
from pathlib import Path

import pytest

import maml_tf

PACKAGE = Path(maml_tf.__file__).parent
VOCABULARY = {"_version", "arguments", "ranges", "seeds", "types"}
WINGS = {
    "system": {"arguments"},
    "estimates": VOCABULARY | {"system"},
    "engine": VOCABULARY | {"networks"},
    "networks": {"arguments"},
    "losses": {"objectives"},  # one wing, of which it is the public door
    "objectives": {"arguments", "losses", "types"},
    "tasks": VOCABULARY | {"system"},
    "sources": VOCABULARY | {"engine", "tasks"},
    "saving": VOCABULARY | {"system", "engine"},
    "supervised": VOCABULARY
    | {"system", "engine", "networks", "losses", "objectives", "sources", "estimates"}
    | {"saving"},
    "rl": VOCABULARY | {"system", "engine", "networks", "saving", "estimates"},
    "training": VOCABULARY | {"system", "engine", "saving", "estimates"},
    "experiments": VOCABULARY
    | {"system", "networks", "losses", "tasks", "saving", "supervised", "rl", "training"}
    | {"engine"},
    "results": VOCABULARY | {"system", "estimates", "experiments"},
    "plotting": VOCABULARY | {"system", "results", "training"},
    "paper": VOCABULARY | {"results", "plotting"},
}
"""What each wing may import, besides itself."""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name


def wings(path):
    """First names below `maml_tf` that a file imports."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("maml_tf.")}
    return {n for n in names if (PACKAGE / f"{n}.py").exists() or (PACKAGE / n).is_dir()}


def wing_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


def identify(path):
    return str(path.relative_to(PACKAGE).with_suffix(""))


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_a_wing_imports_from_those_below_it_only(path):
    wing = wing_of(path)
    if wing in ("__init__", "__main__", "cli", "loading"):  # They may know everything.
        return
    allowed = WINGS.get(wing, {"arguments"} if wing in VOCABULARY else None)
    assert allowed is not None, f"say in WINGS what {wing} may import"
    assert wings(path) <= allowed | {wing}, f"{wing} must not import this"


def test_no_two_wings_know_each_other():
    def below(wing, seen=()):
        direct = WINGS.get(wing, set()) - set(seen)
        return direct.union(*(below(w, (*seen, *direct)) for w in direct))

    pair = {"losses", "objectives"}
    circles = [w for w in WINGS if w in below(w) and w not in pair]
    assert not circles


def length(node):
    """Lines of a definition, its docstring not counted."""
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_classes_and_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            assert length(node) <= 250, node.name
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert length(node) <= 60, node.name


ASKING = re.compile(r"datasource ==|problem ==|\bmethod ==|\.method in|isinstance\(learner")


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_only_the_records_know_a_problem_or_a_method_by_name(path):
    if wing_of(path) != "paper":  # which is about the paper's own rows
        assert not ASKING.search(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_only_the_command_line_reads_flags(path):
    if wing_of(path) != "cli":
        assert not any(name.startswith("absl") for name in imports(path))


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_no_pickle_and_no_named_device(path):
    text = path.read_text()
    if path.stem != "numbers_only":  # which calls nothing that a file names
        assert not re.search(r"\bimport pickle|from pickle|allow_pickle=True", text)
    assert "tf.device(" not in text


def _starts_tensorflow(node):
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("start.on", "start.tensorflow")


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_commands_start_tensorflow_before_they_import_what_needs_it(path):
    """Else its messages reach the terminal."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        starts = [node.lineno for node in ast.walk(function) if _starts_tensorflow(node)]
        nodes = (n for n in ast.walk(function) if isinstance(n, (ast.Import, ast.ImportFrom)))
        imports = [node.lineno for node in nodes]
        if starts and imports:
            assert min(starts) < min(imports), f"{path.name}, {function.name}"
