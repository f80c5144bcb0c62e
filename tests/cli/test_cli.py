"""The command line, as a user types it; in this process, so that it is quick."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import error_of, make_settings, slow
from PIL import Image

from benchmarks import generated_images
from maml_tf import tasks as task_sources
from maml_tf.cli import flags, original, runs
from maml_tf.cli.main import run
from maml_tf.experiments import build as experiment
from maml_tf.experiments import machine
from maml_tf.experiments.records import Kind
from maml_tf.experiments.settings import SETTINGS
from maml_tf.supervised import evaluation
from maml_tf.tasks import Episodes

ROOT = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("MAML_TF_DATA", ROOT.parent / "shared" / "data"))
needs_omniglot = pytest.mark.skipif(
    not (REAL_DATA / "omniglot").is_dir(),
    reason="needs the real Omniglot: set MAML_TF_DATA (data/omniglot/README.md)",
)


QUICK = ["--norm=None", "--update_batch_size=10", "--validation_tasks=24", "--progress=False"]
QUICK += ["--jit_compile=False"]  # XLA takes seconds to compile


def sinusoid(logdir, *more):
    return [f"--logdir={logdir}", "--metatrain_iterations=20", *QUICK, *more]


def test_train_evaluate_figures_export_and_resume(tmp_path, capsys):
    flags = sinusoid(tmp_path)
    assert run(["train", *flags]) == 0
    (directory,) = tmp_path.iterdir()
    assert run(["evaluate", "--test_set", "--num_test_tasks=48", *flags]) == 0
    table = capsys.readouterr().out
    assert "± 95 %" in table and "(48 tasks)" in table and "iteration 20" in table
    assert {p.name for p in (directory / "results").iterdir()} == {
        "test_10shot_stepsize0.01.json",
        "samples_10shot.json",
    }
    result = json.loads((directory / "results" / "test_10shot_stepsize0.01.json").read_text())
    assert result["split"] == "test" and result["shots"] == 10 and result["metric"] == "loss"
    assert len(result["mean"]) == len(result["ci95"]) == len(result["std"]) == 11
    rows = list(csv.reader((directory / "test_ubs10_stepsize0.01.csv").open()))
    assert rows[0][:2] == ["update0", "update1"]
    np.testing.assert_allclose([float(v) for v in rows[1]], result["mean"])
    assert run(["figures", str(directory)]) == 0
    assert (directory / "figures" / "adaptation_loss.png").stat().st_size > 1000
    assert run(["export", *flags]) == 0
    assert (directory / "export" / "saved_model.pb").exists()
    assert run(sinusoid(tmp_path, "--metatrain_iterations=25")) == 0
    assert run(["evaluate", str(directory), "--num_test_tasks=24", "--progress=False"]) == 0
    assert "iteration 25, val split" in capsys.readouterr().out


@pytest.mark.slow
def test_a_resumed_run_says_so_once_and_one_that_is_done_says_that(tmp_path, capsys):
    flags = sinusoid(tmp_path, "--run_name=mine")
    assert run(["train", *flags]) == 0
    assert run(["train", *flags, "--metatrain_iterations=25"]) == 0
    said = capsys.readouterr()
    assert said.err.count("Resuming after iteration 20") == 1 and "Resuming" not in said.out
    assert run(["train", *flags]) == 0
    assert "mine has done 25 iterations, more than the 20 asked." in capsys.readouterr().err
    description = json.loads((tmp_path / "mine" / "learner.json").read_text())
    assert description["step_size"] == 0.01 and description["tasks"]["shots"] == 10


@pytest.mark.slow
def test_an_evaluation_says_that_it_is_not_distributed(tmp_path, capsys):
    flags = sinusoid(tmp_path, "--run_name=mine")
    assert run(["train", *flags]) == 0
    line = ["evaluate", *flags, "--num_test_tasks=24"]
    assert run(line) == 0
    assert "one device" not in capsys.readouterr().err
    assert run([*line, "--distribute=mirrored"]) == 0
    told = "Evaluating on one device: --distribute=mirrored is for training."
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_pretraining_and_the_oracle_as_the_original_spelled_them(tmp_path):
    flags = sinusoid(tmp_path, "--pretrain_iterations=5", "--metatrain_iterations=0")
    assert run([*flags]) == 0
    assert run([*flags, "--baseline=oracle"]) == 0
    assert run(sinusoid(tmp_path, "--pretrain_iterations=5", "--metatrain_iterations=5")) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.split(".")[1] for name in names] == ["maml", "oracle", "pretrained"]
    assert run([*flags, "--train=False", "--num_test_tasks=24"]) == 0


ORIGINAL = {
    "sinusoid 10-shot": "--datasource=sinusoid --metatrain_iterations=70000 --norm=None "
    "--update_batch_size=10",
    "Omniglot 5-way 1-shot": "--datasource=omniglot --metatrain_iterations=60000 "
    "--meta_batch_size=32 --update_batch_size=1 --update_lr=0.4 --num_updates=1",
    "Omniglot 20-way 1-shot": "--datasource=omniglot --metatrain_iterations=60000 "
    "--meta_batch_size=16 --update_batch_size=1 --num_classes=20 --update_lr=0.1 --num_updates=5",
}
FEW = ["--metatrain_iterations=2", "--validation_tasks=24", "--test_steps=1", "--num_test_tasks=24"]


@pytest.mark.parametrize(
    "name",
    [
        "sinusoid 10-shot",
        pytest.param("Omniglot 5-way 1-shot", marks=[needs_omniglot, pytest.mark.slow]),
        pytest.param("Omniglot 20-way 1-shot", marks=[needs_omniglot, pytest.mark.slow]),
    ],
)
def test_the_originals_command_lines(name, tmp_path, capsys):
    line = [*ORIGINAL[name].split(), f"--logdir={tmp_path}/", f"--data_dir={REAL_DATA}", *FEW]
    assert run(line) == 0
    assert run([*line, "--train=False", "--test_set=True"]) == 0
    assert "iteration 2, test split" in capsys.readouterr().out


MINIIMAGENET = (
    "--datasource=miniimagenet --metatrain_iterations=60000 --meta_batch_size=4 "
    "--update_batch_size=1 --update_lr=0.01 --num_updates=5 --num_classes=5 "
    "--num_filters=32 --max_pool=True"
).split()


def test_miniimagenet_says_what_is_missing(tmp_path, capsys):
    line = [*MINIIMAGENET, f"--logdir={tmp_path}", f"--data_dir={tmp_path}"]
    message = error_of(line, capsys)
    assert "data/miniimagenet/README.md" in message


def without_a_split(folder):
    (folder / "val.csv").unlink()


def without_a_named_image(folder):
    min((folder / "images").iterdir()).unlink()


def with_a_small_class(folder):
    (folder / "train" / "n00000002" / "n0000000200000001.png").unlink()


def with_another_mode(folder):
    pixels = np.full((84, 84), 30_000, np.uint16)
    Image.fromarray(pixels).save(folder / "train" / "n00000002" / "n0000000200000001.png")


def with_another_size(folder):
    np.savez(folder / "train.npz", images=np.zeros((3, 3, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    "layout, damage, message",
    [
        ("csv", without_a_split, "but no val.csv; data/miniimagenet/README.md says how"),
        ("csv", without_a_named_image, "train.csv names 1 of 9 images that"),
        ("folders", with_a_small_class, "class n00000002 of the 'train' split has 2"),
        ("folders", with_another_mode, "has pixels of more than 8 bits; save it as 8-bit RGB"),
        ("npz", with_another_size, "an image is uint8 [32, 32, 3]; resize and convert them"),
    ],
)
def test_damaged_miniimagenet(layout, damage, message, tmp_path, capsys):
    generated_images.write(tmp_path / "miniimagenet", layout, (3, 2, 2), examples=3)
    damage(tmp_path / "miniimagenet")
    line = [*MINIIMAGENET, f"--data_dir={tmp_path}", f"--logdir={tmp_path / 'logs'}", *SMALL]
    assert message in error_of(["train", *line], capsys)
    assert not (tmp_path / "logs").exists()


SMALL = ["--num_filters=4", "--num_updates=1", "--task_chunks=1", "--queries=2"]
SMALL += ["--num_classes=2", "--test_steps=1", "--progress=False"]


@pytest.mark.parametrize(
    "layout, order",
    [
        pytest.param("folders", [], marks=pytest.mark.slow),
        ("npy", ["--stop_grad"]),
        pytest.param("csv", [], marks=pytest.mark.slow),
        pytest.param("npz", [], marks=pytest.mark.slow),
    ],
    ids=["folders", "npy, first order", "csv", "npz"],
)
def test_miniimagenet(layout, order, tmp_path, capsys):
    generated_images.write(tmp_path / "miniimagenet", layout, (3, 2, 2), examples=3)
    flags = [*MINIIMAGENET, f"--data_dir={tmp_path}", f"--logdir={tmp_path / 'logs'}", *FEW, *SMALL]
    assert run(["prepare", *flags]) == 0
    assert "miniimagenet is ready" in capsys.readouterr().err
    assert run([*flags, *order]) == 0
    assert "Done: 2 iterations" in capsys.readouterr().err


def few_episodes(*image_shape, classes=None):
    def episodes(data_dir, split, *, ways, shots, queries, seed, download):
        size = (classes or ways, 20, *image_shape)
        images = np.random.default_rng(0).integers(0, 255, size, np.uint8)
        return Episodes(images, ways, shots, queries, seed=seed, split=split, scale=1 / 255)

    return episodes


FLAGFILES = sorted((ROOT / "flags").glob("*.flags"))


def flagfile_names(settings):
    """The experiment as it is evaluated, which names the file."""
    shots = settings.evaluation.shots
    return settings.replace(shots=shots).experiment


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda p: p.stem)
def test_every_flagfile_is_named_by_its_experiment(path):
    given, _, words = flags.parse([f"--flagfile={path}"])
    assert not words and path.stem.startswith(flagfile_names(make_settings(**given)))


def first_of_each(paths):
    """The first flagfile of each problem and of each method; the others take minutes together.

    The multi-task baselines, which differ by a penalty, are one method.
    """
    seen = set()
    for path in paths:
        settings = make_settings(**flags.parse([f"--flagfile={path}"])[0])
        names = {settings.problem.name, settings.method.name.split("_")[0]}
        yield pytest.param(path, marks=() if names - seen else pytest.mark.slow, id=path.stem)
        seen |= names


@pytest.mark.parametrize("path", list(first_of_each(FLAGFILES)))
@pytest.mark.cases(2)
def test_every_flagfile_trains_and_is_evaluated(path, tmp_path, capsys, monkeypatch):
    """From any working directory: two iterations on small data, and one step of evaluation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "require_data", lambda settings: None)
    monkeypatch.setattr(task_sources, "omniglot_episodes", few_episodes(28, 28, 1))
    monkeypatch.setattr(task_sources, "miniimagenet_episodes", few_episodes(84, 84, 3))
    for name in ("cifar_fs", "fc100"):
        monkeypatch.setattr(task_sources, f"{name}_episodes", few_episodes(32, 32, 3))
    monkeypatch.setattr(evaluation, "DRAW", 2)
    line = [f"--flagfile={path}", "--logdir=logs", *FEW, "--meta_batch_size=2", "--num_filters=2"]
    line += [
        "--validation_tasks=2",
        "--num_test_tasks=2",
        "--progress=False",
        "--jit_compile=False",
        "--task_chunks=1",
        "--inner_steps=1",
    ]
    settings = make_settings(**flags.parse(line)[0])
    if settings.problem.kind is Kind.POLICY:
        pytest.importorskip("mujoco", reason="needs the extra rl")
        line += ["--update_batch_size=2", "--horizon=3"]
        settings = make_settings(**flags.parse(line)[0])
    assert run(["train", *line]) == 0
    assert run(["evaluate", "--test_set", *line]) == 0
    method = settings.method.name
    told = f"{settings.experiment}, {method}, iteration {settings.run.iterations}, test"
    assert told in capsys.readouterr().out
    (directory,) = Path("logs").iterdir()
    (curve,) = (directory / "results").glob("test_*.json")
    result = json.loads(curve.read_text())
    assert result["shots"] == settings.evaluation.shots and result["method"] == method
    assert result["train_shots"] == (None if settings.joint else settings.training.shots)
    assert len(result["mean"]) == (1 if method == "nearest_neighbour" else 2)
    assert np.isfinite(result["mean"]).all()


def results_of(directory):
    return {p.name: json.loads(p.read_text()) for p in (directory / "results").iterdir()}


@pytest.mark.slow
def test_other_weights_and_other_tasks_have_files_of_their_own(tmp_path):
    assert run(sinusoid(tmp_path, "--validate_every=5", "--save_every=5")) == 0
    (directory,) = tmp_path.iterdir()
    release = tmp_path / "models" / "sine"
    line = ["evaluate", str(directory), "--test_set", "--num_test_tasks=24", "--progress=False"]
    for more in ([], ["--use_best"], ["--test_iter=10"]):
        assert run([*line, *more]) == 0
    assert run(["release", str(directory), f"--to={release}"]) == 0
    line[1] = f"--logdir={tmp_path / 'again'}"
    for seed in (0, 1):
        assert run([*line, f"--init={release}", f"--seed={seed}"]) == 0
    name = "test_10shot_stepsize0.01"
    results = results_of(directory)
    ends = ("", "_best", "_iteration10")
    assert set(results) == {f"{n}{e}.json" for n in (name, "samples_10shot") for e in ends}
    assert results[f"{name}.json"]["iteration"] == 20
    assert results[f"{name}_iteration10.json"]["iteration"] == 10
    again = results_of(tmp_path / "again" / "sine")
    assert set(again) == {f"{n}{e}.json" for n in (name, "samples_10shot") for e in ("", "_seed1")}
    assert again[f"{name}.json"]["mean"] == results[f"{name}.json"]["mean"]
    assert again[f"{name}_seed1.json"]["mean"] != again[f"{name}.json"]["mean"]


@pytest.mark.slow
def test_the_result_files_hold_what_a_reader_needs(tmp_path):
    assert run(sinusoid(tmp_path)) == 0
    (directory,) = tmp_path.iterdir()
    line = [str(directory), "--test_set", "--num_test_tasks=24", "--inputs=half"]
    assert run(["evaluate", *line, "--update_batch_size=5", "--update_lr=0.02"]) == 0
    results = results_of(directory)
    assert set(results) == {"test_5shot_stepsize0.02_half.json", "samples_5shot_half.json"}
    expected = {
        "version": 1,
        "datasource": "sinusoid",
        "experiment": "sinusoid_10shot",
        "method": "maml",
        "split": "test",
        "seed": 0,
        "shots": 5,
        "train_shots": 10,
        "inputs": "half",
        "step_size": 0.02,
        "iteration": 20,
    }
    curve = results["test_5shot_stepsize0.02_half.json"]
    assert curve["kind"] == "curve" and curve["conv"] is False and curve["tuning"] is None
    assert curve["steps"] == list(range(11)) and curve["queries"] == 5 and curve["seconds"] > 0
    samples = results["samples_5shot_half.json"]
    assert samples["kind"] == "samples" and samples["steps"] == [0, 1, 10]
    for result in (curve, samples):
        assert {key: result[key] for key in expected} == expected
    assert len(samples["tasks"]) == 4
    for task in samples["tasks"]:
        x, y = np.array(task["x"]), np.array(task["y"])
        assert x.shape == (100,) and (x[0], x[-1]) == (-5, 5)
        np.testing.assert_allclose(y, task["amplitude"] * np.sin(x - task["phase"]), atol=1e-5)
        assert len(task["support_x"]) == len(task["support_y"]) == 5 and min(task["support_x"]) >= 0
        assert np.shape(task["predictions"]) == (3, 100)
    first = np.array([task["predictions"] for task in samples["tasks"]])[:, 0]
    np.testing.assert_array_equal(first, np.tile(first[0], [4, 1]))  # not adapted yet
    assert run(["figures", str(directory)]) == 0


@pytest.mark.slow
def test_the_random_baseline_is_evaluated_without_training(tmp_path, capsys):
    line = sinusoid(tmp_path, "--method=random", "--num_test_tasks=24", "--test_steps=2")
    assert run(["train", *line]) == 0
    assert "Nothing to train: --method=random" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert run(["evaluate", *line]) == 0
    assert "sinusoid_10shot, random, iteration 0, val split" in capsys.readouterr().out
    (directory,) = tmp_path.iterdir()
    assert ".random." in directory.name and (directory / "flags.txt").exists()
    (first,) = (r for r in results_of(directory).values() if r["kind"] == "curve")
    # Weights of standard deviation 0.01 predict about 0, so that what is left is the mean of y^2.
    tasks = experiment.make_tasks(make_settings(shots=10), "val")(0, 24)
    assert first["mean"][0] == pytest.approx(np.mean(tasks.query.y.numpy() ** 2), rel=0.01)
    assert run(["evaluate", str(directory), "--progress=False"]) == 0
    assert run(["export", str(directory)]) == 0


@pytest.mark.slow
def test_a_baseline_is_fine_tuned_with_a_step_size_tuned_on_validation_tasks(tmp_path, capsys):
    line = sinusoid(tmp_path, "--method=pretrained", "--num_test_tasks=24", "--test_steps=2")
    assert run(line) == 0
    assert run(["evaluate", "--test_set", *line]) == 0
    assert "(the best on validation tasks)" in capsys.readouterr().out
    (directory,) = tmp_path.iterdir()
    result = results_of(directory)["test_10shot_stepsizetuned.json"]
    best = int(np.argmin(result["tuning"]["scores"]))
    assert result["step_size"] == result["tuning"]["step_sizes"][best]
    fixed = [f"--update_lr={result['step_size']}", "--progress=False", "--num_test_tasks=24"]
    # The scores are those of the validation split, and the curve that of the test split.
    assert run(["evaluate", str(directory), "--tune_step_size=False", *fixed]) == 0
    name = f"10shot_stepsize{result['step_size']:g}.json"
    validated = results_of(directory)[f"val_{name}"]["mean"][-1]
    assert validated == pytest.approx(result["tuning"]["scores"][best], rel=1e-4)
    assert run(["evaluate", str(directory), "--test_set", "--tune_step_size=False", *fixed]) == 0
    np.testing.assert_allclose(results_of(directory)[f"test_{name}"]["mean"], result["mean"], 1e-4)


def with_six_classes(patch, problem):
    """Small data in place of a problem's own."""
    shape = (28, 28, 1) if problem == "omniglot" else (84, 84, 3)
    patch.setattr(experiment, "require_data", lambda settings: None)
    patch.setattr(task_sources, f"{problem}_episodes", few_episodes(*shape, classes=6))
    patch.setattr(evaluation, "DRAW", 2)


@pytest.fixture(scope="module", params=["omniglot", slow("miniimagenet")])
def trained_jointly(request, tmp_path_factory):
    logs = tmp_path_factory.mktemp("joint")
    line = [f"--flagfile={ROOT / 'flags' / request.param}_5way_1shot_pretrained.flags", *FEW]
    line += [f"--logdir={logs}", "--meta_batch_size=2", "--num_filters=2"]
    line += ["--num_test_tasks=2", "--validation_tasks=2", "--progress=False", "--task_chunks=1"]
    line += ["--num_classes=3", "--queries=4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_up", lambda settings: None)
        with_six_classes(patch, request.param)
        assert run(["train", *line]) == 0
    (directory,) = logs.iterdir()
    return request.param, line, directory


@pytest.fixture
def joint_run(trained_jointly, monkeypatch):
    """A classifier of all classes of small data, trained a little: its flags and its directory."""
    problem, line, directory = trained_jointly
    with_six_classes(monkeypatch, problem)
    return line, directory


@pytest.mark.slow
def test_one_joint_run_serves_both_baselines_every_k_and_a_release(joint_run, tmp_path, capsys):
    line, directory = joint_run
    other_k = ["--update_batch_size=5", "--train_update_batch_size=1"]
    for more in ([], other_k):
        assert run(["evaluate", "--test_set", *line, *more]) == 0
        assert run(["evaluate", "--test_set", *line, *more, "--method=nearest_neighbour"]) == 0
    name = "test_1shot_nearest_neighbour.json"
    results = results_of(directory)
    assert set(results) == {
        f"test_{k}shot_{how}.json" for k in (1, 5) for how in ("stepsizetuned", "nearest_neighbour")
    }
    nearest = results[name]
    assert nearest["method"] == "nearest_neighbour" and nearest["steps"] == [0]
    assert nearest["step_size"] is None and nearest["tuning"] is None
    assert run(["evaluate", str(directory), "--test_set", "--method=nearest_neighbour"]) == 0
    assert results_of(directory)[name]["mean"] == nearest["mean"]
    assert run(["figures", str(directory)]) == 0
    # A release holds the body, and the head that every task starts from.
    place = tmp_path / "release"
    assert run(["release", str(directory), f"--to={place}"]) == 0
    init = [f"--init={place}", "--test_set", f"--logdir={tmp_path / 'again'}"]
    assert run(["evaluate", *init]) == 0
    assert run(["evaluate", *init, "--method=nearest_neighbour"]) == 0
    again = results_of(tmp_path / "again" / "release")
    for name in again:
        assert again[name]["mean"] == results[name]["mean"]
    assert len(again) == 2
    capsys.readouterr()
    for where in ([str(directory)], [f"--init={place}"]):
        message = error_of(["evaluate", *where, "--method=maml"], capsys)
        assert "was made by --method=pretrained; drop --method" in message
        message = error_of(["export", *where, "--method=nearest_neighbour"], capsys)
        assert "nothing to export; use --method=pretrained" in message


@pytest.mark.slow
def test_the_head_of_a_joint_run_is_fresh_and_depends_on_the_seed_alone(joint_run):
    line, directory = joint_run
    given, *_ = flags.parse(line)
    settings = make_settings(**given)
    learner, iteration = runs.restore(directory, settings)
    fresh = experiment.make_learner(settings).model
    for i, layer in enumerate(learner.model.layers):
        same = [
            np.array_equal(a, b)
            for a, b in zip(layer.get_weights(), fresh.layers[i].get_weights(), strict=True)
        ]
        if layer.name == "head":
            assert all(same) and layer.kernel.shape[-1] == 3
        elif layer.name.startswith("conv"):
            assert not any(same)
    assert iteration == 2
    kernels = [
        experiment.make_learner(settings.replace(seed=seed)).model.layers[-1].kernel.numpy()
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(learner.model.layers[-1].kernel, kernels[0])
    assert np.any(kernels[0] != kernels[1])


@pytest.mark.slow
def test_an_exported_joint_run_adapts_its_head_by_default(joint_run):
    line, directory = joint_run
    assert run(["export", str(directory), "--test_steps=3"]) == 0
    assert json.loads((directory / "export" / "maml_tf.json").read_text())["defaults"]["steps"] == 3


def test_a_flagfile_names_another_beside_it(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "common.flags").write_text("--seed=3\n--num_updates=2\n")
    (tmp_path / "a" / "own.flags").write_text("--flagfile=common.flags\n--num_updates=7\n")
    monkeypatch.chdir(tmp_path)
    given, *_ = flags.parse(["--flagfile=a/own.flags", "--meta_lr=0.5"])
    assert given == {"seed": 3, "inner_steps": 7, "meta_step_size": 0.5}


def test_help_explains_every_flag(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for each in SETTINGS.values():
        assert f"--{each.flag}={'derived' if each.default is None else each.default}\n" in text
    assert "Seed of everything random. From 0 to 4294967295." in text
    for old in (*original.RENAMED, *original.REPLACED):
        assert f"--{old}: " in text


def test_help_shows_what_is_derived_from_the_other_flags(capsys):
    assert run(["train", "--problem=miniimagenet", "--method=pretrained", "--help"]) == 0
    text = capsys.readouterr().out
    for line in ("queries=15", "clip=10.0", "classes=all", "test_steps=10", "validate_every=500"):
        assert f"--{line}\n" in text
    assert run(["--problem=cheetah_velocity", "--help"]) == 0
    assert "--test_tasks=40\n" in capsys.readouterr().out


# --- mistakes: one line, the fault and the mend, exit code 1, nothing lost ---


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--datasource=mnist"],
            "must be one of sinusoid, omniglot, miniimagenet, cifar_fs, fc100, folder, navigation",
        ),
        (["--meta_batch_size=-1"], "--meta_batch_size must be from 1 to 1000000; got -1"),
        (["--meta_batch_size=many"], "meta_batch_size"),
        (["--seed=1e3"], "write a whole number of at most 100 digits"),
        (["--seed=0x10"], "write a whole number"),
        (["--seed=１２"], "write a whole number"),
        (["--seed=1_0"], "write a whole number"),
        (["--seed="], "write a whole number"),
        (["--seed=" + "9" * 5000], "write a whole number"),
        (["--seed=4294967296"], "--seed must be from 0 to 4294967295; got 4294967296"),
        (["--intra_op_threads=-999999999"], "--intra_op_threads must be from 0 to 1024, or None"),
        (["--inter_op_threads=2147483647"], "--inter_op_threads must be from 0 to 1024, or None"),
        (["--fps=0"], "--fps must be from 1 to 50"),
        (["--update_lr=nan"], "write a number, such as 0.01"),
        (["--update_lr=1e999"], "--update_lr must be above 0 to 1e+30; got inf"),
        (["--update_lr=0x1p3"], "write a number"),
        (["--logdir=a\nb"], "--logdir must be one line of plain text"),
        (["--no_such_flag=1"], "Unknown command line flag 'no_such_flag'"),
        (["--flagfile=nowhere.flags"], "nowhere.flags"),
        (["trian"], "Unknown command 'trian'; there are train, evaluate"),
        (["train", "logs/x"], "train takes flags only"),
        (["--metatrain_iterations=0"], "Nothing to train"),
        (["--method=context", "--stop_grad"], "--method=context contradicts --stop_grad"),
        (["--method=multitask", "--datasource=omniglot"], "averages regressors of sinusoids"),
        (["--datasource=omniglot", "--data_dir=nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "No run in nowhere"),
        (["figures", "nowhere"], "No result files under nowhere"),
        (["export", "--seed=99"], "No trained run in"),
        (["evaluate", "--init=nowhere"], "No release in nowhere"),
        (["evaluate", "run", "--init=nowhere"], "drop run"),
        (["release", "--init=nowhere", "--to=there"], "No release in nowhere"),
        (
            ["--datasource=omniglot", "--baseline=oracle"],
            "--baseline is for --datasource=sinusoid, not --datasource=omniglot; drop --baseline.",
        ),
        (["--train_update_batch_size=0"], "--train_update_batch_size must be from 1"),
    ],
)
def test_mistakes(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(arguments, capsys)
    assert not list(tmp_path.iterdir())


def test_a_log_directory_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    message = error_of(sinusoid(tmp_path / "file" / "logs"), capsys)
    assert "Cannot write to" in message and "--logdir" in message


@pytest.mark.slow
def test_a_run_is_not_continued_with_other_settings(tmp_path, capsys):
    flags = sinusoid(tmp_path, "--run_name=mine")
    assert run(flags) == 0
    message = error_of([*flags, "--update_lr=0.5"], capsys)
    assert "--update_lr=0.01, now 0.5" in message
    assert "now 0.5" not in (tmp_path / "mine" / "flags.txt").read_text()
    assert run([*flags, "--update_lr=0.5", "--resume=False"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "mine.old1"}


def test_pretraining_on_a_problem_of_ones_own_is_of_n_way_tasks(monkeypatch):
    monkeypatch.chdir(ROOT)
    given = flags.parse(["--flagfile=examples/custom_dataset/shapes.flags"]).given
    given |= {"pretrain_iterations": 1, "iterations": 0}
    assert original.translate(given)["classes"] == "task"


@pytest.mark.slow
def test_a_runs_method_is_its_own(tmp_path, capsys):
    assert run(sinusoid(tmp_path, "--run_name=mine")) == 0
    name = str(tmp_path / "mine")
    message = error_of(["evaluate", name, "--method=pretrained"], capsys)
    assert "was made by --method=maml; drop --method" in message
    # Earlier versions' flag for "its own"; and a K of the training that is known already.
    more = ["--method=auto", "--train_update_batch_size=3", "--num_test_tasks=2", "--test_steps=1"]
    assert run(["evaluate", name, *more]) == 0
    assert "K = 10" in capsys.readouterr().out


@pytest.mark.slow
def test_another_network_in_the_same_directory(tmp_path, capsys):
    flags = sinusoid(tmp_path, "--run_name=mine")
    assert run(flags) == 0
    (tmp_path / "mine" / "flags.txt").unlink()
    assert "another network" in error_of([*flags, "--norm=batch_norm"], capsys)


@pytest.mark.slow
def test_all_checkpoints_broken(tmp_path, capsys):
    flags = sinusoid(tmp_path, "--run_name=mine")
    assert run(flags) == 0
    for file in (tmp_path / "mine" / "checkpoints").glob("ckpt-*.index"):
        file.write_bytes(b"broken")
    assert "can be read" in error_of(flags, capsys)


@needs_omniglot
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--update_batch_size=15", "--queries=10"], "20"),
        (["--num_classes=2000"], "2000-way episodes need 2000 classes"),
    ],
)
def test_more_than_the_data_has(flags, message, tmp_path, capsys):
    line = ["--datasource=omniglot", f"--data_dir={REAL_DATA}", f"--logdir={tmp_path}", *flags]
    assert message in error_of(line, capsys)
    assert not list(tmp_path.iterdir())


def test_a_truncated_zip(tmp_path, capsys):
    folder = tmp_path / "data" / "omniglot"
    folder.mkdir(parents=True)
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}/A/character01/0001_01.png", os.urandom(5000))
        whole = (folder / f"{name}.zip").read_bytes()
        (folder / f"{name}.zip").write_bytes(whole[: len(whole) // 2])
    line = ["--datasource=omniglot", f"--data_dir={tmp_path / 'data'}", "--update_batch_size=1"]
    assert "images_background.zip" in error_of([*line, f"--logdir={tmp_path / 'logs'}"], capsys)


@pytest.mark.parametrize("command", ["train", "evaluate", "prepare"])
@pytest.mark.parametrize("problem", ["omniglot", "miniimagenet"])
def test_a_missing_data_set_is_known_without_tensorflow(command, problem, tmp_path):
    init = f"'--init={ROOT}/models/omniglot_5way_1shot', " if command == "evaluate" else ""
    if init and problem != "omniglot":
        pytest.skip("there is no release of it")
    code = (
        "import sys; from maml_tf.cli.main import run; "
        f"status = run(['{command}', {init}'--problem={problem}', '--data_dir={tmp_path}']); "
        "assert status == 1 and 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "has no " in done.stderr and str(tmp_path) in done.stderr
