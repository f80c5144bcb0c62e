"""What the documentation says runs: programs, command lines, links, and the site itself.

A page's Python blocks share a namespace, in order; CONTRIBUTING.md says which comments a page may
hold for this test. Trainings are cut short unless a page needs them in full.
"""

import contextlib
import functools
import html
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf.cli import flags, main, original
from maml_tf.engine.outer_step import PARTS
from maml_tf.experiments import settings
from maml_tf.experiments.settings import SETTINGS
from maml_tf.paper import protocol
from maml_tf.training.summaries import legible
from maml_tf.training.window import means

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [
    *(ROOT / name for name in ("RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *(ROOT / "benchmarks").rglob("README.md"),
    *(ROOT / "data").glob("*/README.md"),
    *(ROOT / "examples").rglob("README.md"),
]
ITERATIONS = 1
"""Of a training, unless the page says "in full"."""

_BLOCK = re.compile(
    r"^<!-- test: (?P<mark>.*?)-->|^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.S | re.M
)
_HIDDEN = re.compile(r"<!--.*?-->|^```.*?^```$", re.S | re.M)
_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
_NUMBER = re.compile(r"\d+\.\d+")


class Block(NamedTuple):
    """A block of a page, or a comment for this test."""

    kind: str  # "mark", or the language
    text: str
    line: int  # of its first line in the page


def blocks(page):
    """All blocks and marks of a page, in order."""
    text, found = page.read_text("utf-8"), []
    for match in _BLOCK.finditer(text):
        kind = "mark" if match["mark"] is not None else match["language"]
        start = match.start("mark" if kind == "mark" else "text")
        content = match["mark"] if kind == "mark" else match["text"]
        found.append(Block(kind, content, text.count("\n", 0, start) + 1))
    return found


# --- programs ---


def _stand_ins():
    """What the README's programs take as given: images of ten classes, and a task of five."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [10, 4, 28, 28, 1]).astype("uint8")
    support_x = rng.uniform(size=[5, 28, 28, 1]).astype("float32")
    return {
        "images": images,
        "other_images": images[::-1],
        "support_x": support_x,
        "support_y": np.arange(5),
        "query_x": support_x[:3],
    }


@pytest.fixture
def cut_short(monkeypatch):
    """Makes trainings of `ITERATIONS`."""
    whole = maml_tf.train

    @functools.wraps(whole)
    def few(learner, tasks, *, iterations, **options):
        options = {"progress": False, **options}
        return whole(learner, tasks, iterations=min(iterations, ITERATIONS), **options)

    monkeypatch.setattr(maml_tf, "train", few)


@pytest.fixture
def rules_as_before():
    """Forgets the layer rules that a page registers."""
    known = set(maml_tf.stacked.registry)
    yield
    names = maml_tf.stacked.register.__code__.co_freevars
    cells = dict(zip(names, maml_tf.stacked.register.__closure__, strict=True))
    for kind in set(maml_tf.stacked.registry) - known:
        del cells["registry"].cell_contents[kind]


def _with_python(page):
    return any(block.kind == "python" for block in blocks(page))


@pytest.mark.parametrize("page", list(filter(_with_python, PAGES)), ids=lambda page: page.stem)
def test_programs_run(page, tmp_path, monkeypatch, request, rules_as_before):
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(ROOT / "models")
    if "rl" in page.read_text("utf-8").split():
        pytest.importorskip("gymnasium")
    found = blocks(page)
    if "MirroredStrategy" in page.read_text("utf-8"):  # One for all tests of a process.
        two = request.getfixturevalue("two")
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: two)
    if not any(block.kind == "mark" and block.text.strip() == "in full" for block in found):
        request.getfixturevalue("cut_short")
    namespace = {"__name__": "page", "Path": Path} | (_stand_ins() if page.stem == "README" else {})
    printed, run = None, True
    for kind, text, line in found:
        word, _, rest = text.partition("\n" if text.startswith("setup") else " ")
        if kind == "mark" and word == "setup":
            _run(rest, page, line + 1, namespace)
        elif kind == "mark" and word == "skip":
            assert re.match(r"because \w+ ", rest), f"{page.name}, line {line}: say why"
            run = False
        elif kind == "mark" and word == "needs":
            run = importlib.util.find_spec(rest.strip()) is not None
        elif kind == "python":
            printed = _run(text, page, line, namespace if run else None)
            run = True
        elif kind == "text" and printed:
            assert _alike(text, printed), f"{page.name}, line {line}: it prints\n{printed}"
        if kind != "mark":
            printed = printed if kind == "python" else None


def _run(text, page, line, namespace):
    """Runs a block with the page's line numbers, or only compiles it; what it prints."""
    code = compile("\n" * (line - 1) + text, str(page), "exec")
    out = io.StringIO()
    if namespace is not None:
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
    return out.getvalue()


def _alike(said, printed):
    """Whether two texts are the same but for a tenth of their numbers."""
    if _NUMBER.sub("#", said).strip() != _NUMBER.sub("#", printed).strip():
        return False
    pairs = zip(_NUMBER.findall(said), _NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= 0.1 * abs(float(a)) + 0.011 for a, b in pairs)


def test_alike():
    assert _alike("0.50 ± 0.05\n", "0.52 ± 0.05\n") and not _alike("0.50\n", "0.60\n")
    assert not _alike("loss 0.50\n", "error 0.50\n") and not _alike("(4, 1)\n", "(4, 2)\n")


# --- command lines ---


def commands(page):
    """The command lines in a page's shell blocks, as lists of words."""
    for block in blocks(page):
        if block.kind != "sh":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words:
                yield words


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_command_lines_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
            assert (ROOT / f"{words[2].replace('.', '/')}.py").exists(), words
        for start in ["maml-tf"], ["python", "-m", "maml_tf"], ["./run_experiments.sh"]:
            if words[: len(start)] == start:
                rest = words[len(start) :]
                _check(["reproduce", *rest] if start[0].endswith(".sh") else rest)


def _check(words):
    command = words.pop(0) if words and words[0] in main.COMMANDS else "train"
    made_here = [w for w in words if w.startswith("--flagfile=logs/")]  # By an earlier line.
    said = flags.parse([w for w in words if w not in (*made_here, "--help")])
    release = str(said.given.get("init", ""))
    assert not release.startswith("models/") or (ROOT / release).is_dir(), release
    if command == "reproduce":
        names = {"quick", "all", "list", *protocol.EXPERIMENTS}
        assert set(said.words) <= names, said.words
    elif command in ("train", "prepare"):
        assert not said.words, said.words
        if not made_here:
            settings.make(original.translate(said.given))


def _flag_names():
    known = {*SETTINGS, *original.RENAMED, *original.REPLACED, flags.VERBOSITY}
    return known | {"flagfile", flags.RECIPE, "help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_in_the_text_exist(page):
    text = _HIDDEN.sub("", page.read_text("utf-8"))
    spans = [s for s in re.findall(r"`([^`]+)`", text) if re.match(r"--|maml-tf ", s)]
    named = {name for span in spans for name in re.findall(r"(?<!\S)--([a-z]\w*)", span)}
    assert named <= _flag_names() | {"flag"}  # "--flag=value"


def test_the_table_of_symbols_is_that_of_the_program():
    text = (ROOT / "docs/command_line.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    start = next(i for i, row in enumerate(rows) if "original program" in row[2 % len(row)])
    of_earlier = {}
    for row in rows[start:]:
        today, earlier = (row[1], row[2]) if len(row) == 4 else (row[1], row[0])
        for name in re.findall(r"--(\w+)", earlier):
            of_earlier.setdefault(name, set()).update(re.findall(r"--(\w+)", today))
    for old, new in original.RENAMED.items():
        assert new in of_earlier.get(old, ()), old
    assert set(original.REPLACED) <= set(of_earlier)
    assert {name for today in of_earlier.values() for name in today} <= set(SETTINGS)


def _scalars(metrics, per_step):
    """What a training writes of a learner's metrics."""
    fields = {f: np.zeros([1, 2] if f in per_step else [1]) for f in metrics._fields}
    fields |= {f: np.zeros([1, len(PARTS)]) for f in fields if f.endswith("_norms")}
    return {legible(n if "/" in n else f"train/{n}") for n in means("accuracy", fields)}


def test_every_scalar_of_tensorboard_is_explained():
    rl = pytest.importorskip("maml_tf.rl", reason="pip install maml-tf[rl]")
    text = (ROOT / "docs/tensorboard.md").read_text("utf-8")
    seen = _scalars(maml_tf.StepMetrics, {"support_loss"}) | _scalars(rl.TrpoMetrics, {"returns"})
    seen |= _scalars(rl.GradientMetrics, {"returns", "kl"})
    first = {name for name in seen if not re.search("after_step_1|before_step_2", name)}
    assert not {name for name in first if f"`{name}`" not in text}


# --- links ---


def slugs(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", _HIDDEN.sub("", page.read_text("utf-8")), re.M)
    return [re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings]


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link, anchor in _LINK.findall(_HIDDEN.sub("", page.read_text("utf-8"))):
        if "://" in link:
            continue
        target = Path(os.path.normpath(page.parent / link)) if link else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in slugs(target), f"{link}#{anchor}"


def test_every_public_name_is_in_the_reference():
    pages = "".join(p.read_text("utf-8") for p in sorted((ROOT / "docs/api").glob("*.md")))
    documented = set(re.findall(r"^::: (\S+)$", pages, re.M))
    for stub in (ROOT / "maml_tf").rglob("__init__.pyi"):
        package = ".".join(stub.parent.relative_to(ROOT).parts)
        names = re.findall(r"^from \S+ import \w+ as (\w+)$", stub.read_text("utf-8"), re.M)
        public = {f"{package}.{name}" for name in names} - {"maml_tf.rl", "maml_tf.tasks"}
        assert public - {"maml_tf.__version__"} <= documented


# --- the site and the project's files ---


def test_the_site_builds_and_fetches_nothing(tmp_path):
    for needed in "mkdocs", "material", "mkdocstrings":
        pytest.importorskip(needed, reason="pip install maml-tf[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text("utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="?(https?:[^" >]*)', text)
        fetched += re.findall(r'<link[^>]* href="?(https?:[^" >]*)', text)
        assert not fetched, (page, fetched)
    start = html.unescape(re.sub("<[^>]+>", "", (tmp_path / "start/index.html").read_text("utf-8")))
    assert "test: " not in start
    for notebook in (ROOT / "docs/tutorials").glob("*.ipynb"):
        text = (tmp_path / "tutorials" / notebook.stem / "index.html").read_text("utf-8")
        pictures = re.findall(rf'<img [^>]*src="?\.\./({notebook.stem}_\d+\.png)', text)
        assert pictures and all((tmp_path / "tutorials" / p).is_file() for p in pictures)
        assert (tmp_path / "tutorials" / notebook.name).is_file()
    assert 'href="images/"' in (tmp_path / "tutorials/index.html").read_text("utf-8")


def test_the_projects_files_parse():
    yaml = pytest.importorskip("yaml", reason="pre-commit brings it")
    parsed = {p.name: yaml.safe_load(p.read_text()) for p in (ROOT / ".github").rglob("*.yml")}
    assert {"tests.yml", "docs.yml", "release.yml", "bug.yml", "question.yml"} <= set(parsed)
    jobs = parsed["tests.yml"]["jobs"]["tests"]
    assert jobs["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert any(step.get("run") == "./run_tests.sh" for step in jobs["steps"])
    for name in "bug.yml", "question.yml":
        assert all(field["attributes"]["label"] for field in parsed[name]["body"])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert str(citation["version"]) == maml_tf.__version__
    assert "https://arxiv.org/abs/1703.03400" in str(citation["references"])


def test_the_container_is_given_what_it_copies():
    kept = (ROOT / ".dockerignore").read_text().split()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists() and f"!{source}" in kept, source
