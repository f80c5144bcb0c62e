"""Methods with a meta-gradient of their own, from training to release, and what does not go."""

import json

import pytest
from helpers import error_of, slow

from maml_tf.cli.main import run
from maml_tf.experiments.settings import make

METHODS = {"reptile": [], "imaml": ["--imaml_lambda=0.5", "--cg_steps=2"]}


def means(directory):
    """What the evaluation of a run measured after each step."""
    (path,) = (directory / "results").glob("test_*.json")
    return json.loads(path.read_text())["mean"]


@pytest.mark.parametrize("method", ["reptile", slow("imaml")])
def test_it_trains_resumes_evaluates_exports_and_releases(method, tmp_path, capsys):
    line = [f"--logdir={tmp_path}", f"--method={method}", *METHODS[method], "--shots=8"]
    line += ["--inner_steps=2", "--norm=none", "--progress=False", "--jit_compile=False"]
    line += ["--run_name=mine", "--validation_tasks=4", "--pretrain_iterations=2"]
    assert run(["train", *line, "--iterations=4"]) == 0
    assert run(["train", *line, "--iterations=6"]) == 0
    assert "Resuming after iteration 4" in capsys.readouterr().err
    few = ["--split=test", "--test_tasks=24", "--test_shots=5", "--test_steps=3"]
    few += ["--progress=False"]
    assert run(["evaluate", str(tmp_path / "mine"), *few]) == 0
    assert "iteration 6" in capsys.readouterr().out
    assert run(["figures", str(tmp_path / "mine")]) == 0
    assert run(["export", str(tmp_path / "mine")]) == 0
    release = tmp_path / "models" / "it"
    assert run(["release", str(tmp_path / "mine"), f"--to={release}"]) == 0
    assert run(["evaluate", f"--init={release}", f"--logdir={tmp_path / 'again'}", *few]) == 0
    assert means(tmp_path / "again" / "it") == means(tmp_path / "mine")
    assert means(tmp_path / "mine")[0] != means(tmp_path / "mine")[-1]
    message = error_of(["train", *line, "--iterations=7", "--method=maml"], capsys)
    assert f"--method={method}" in message
    message = error_of(["train", *line, "--iterations=7", "--learn_step_size"], capsys)
    assert message.endswith("; drop --learn_step_size.")


@pytest.mark.parametrize("method", [slow("reptile"), "imaml"])
@pytest.mark.slow
def test_classification_with_batch_normalisation(method, tmp_path):
    """Folders of pictures, the quickest images that there are."""
    Image = pytest.importorskip("PIL.Image")
    for name in "abcdefghijkl":
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            picture = Image.new("L", (12, 12), 40 * number + ord(name))
            picture.save(tmp_path / "data" / name / f"{number}.png")
    line = ["--problem=folder", f"--data_dir={tmp_path / 'data'}", f"--logdir={tmp_path / 'logs'}"]
    line += ["--ways=2", "--shots=1", "--queries=1", "--image_size=12", "--color=grey"]
    line += ["--filters=4", "--meta_batch_size=2", "--inner_steps=2", "--validation_tasks=4"]
    line += [f"--method={method}", *METHODS[method], "--progress=False", "--run_name=it"]
    assert run(["train", *line, "--iterations=2"]) == 0
    assert run(["evaluate", *line, "--test_tasks=4", "--test_steps=2"]) == 0


@pytest.mark.slow
def test_another_lambda_is_another_run(tmp_path, capsys):
    line = ["--method=imaml", f"--logdir={tmp_path}", "--progress=False", "--jit_compile=False"]
    line += ["--validation_tasks=4", "--run_name=it", "--iterations=1"]
    assert run(["train", *line, "--imaml_lambda=0.5"]) == 0
    message = error_of(["train", *line], capsys)
    assert "--imaml_lambda=0.5, now 2.0" in message


REFUSED = {
    "reptile": [
        ({"learn_step_size": "layer"}, "learns no step sizes; drop --learn_step_size"),
        ({"multi_step_loss": 5}, "learns from no query loss; drop --multi_step_loss"),
        ({"second_order_after": 5}, "has no second derivatives; drop --second_order_after"),
        ({"per_step_normalization": True}, "only what its inner steps move; drop --per_step"),
        ({"adapt": "head"}, "learns only what its inner steps move; drop --adapt"),
    ],
    "imaml": [
        ({"learn_step_size": "weight"}, "differentiates no inner step; drop --learn_step_size"),
        ({"multi_step_loss": 5}, "differentiates no inner step; drop --multi_step_loss"),
        ({"second_order_after": 5}, "differentiates no inner step; drop --second_order_after"),
        ({"per_step_normalization": True}, "one loss in all inner steps; drop --per_step"),
        ({"inner_optimizer": "adam"}, "takes plain gradient steps; drop --inner_optimizer"),
        ({"inner_optimizer": "momentum", "inner_momentum": 0.5}, "drop --inner_optimizer"),
        ({"inner_clip": 1.0}, "takes plain gradient steps; drop --inner_clip"),
    ],
}
CASES = [(method, *case) for method, cases in REFUSED.items() for case in cases]


@pytest.mark.parametrize(("method", "given", "message"), CASES, ids=lambda case: str(case)[:40])
def test_what_does_not_go_with_it_is_refused_with_the_mend(method, given, message):
    with pytest.raises(ValueError, match=f"^--method={method} .*{message}"):
        make({"method": method, **given})


@pytest.mark.parametrize("method", METHODS)
def test_nor_do_policies(method):
    with pytest.raises(ValueError, match="one support set in all inner steps; use it with --prob"):
        make({"method": method, "problem": "navigation_2d"})


@pytest.mark.parametrize("name", ["imaml_lambda", "cg_steps"])
@pytest.mark.parametrize("method", ["maml", "reptile", "pretrained"])
def test_what_imaml_alone_reads(method, name):
    with pytest.raises(ValueError, match=f"--{name} is for --method=imaml, not {method}; drop --"):
        make({"method": method, name: 3})
    with pytest.raises(ValueError, match=f"--{name} must be "):
        make({"method": "imaml", name: 0})
