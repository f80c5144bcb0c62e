"""Meta-RL by the same commands as supervised learning."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import error_of, make_settings

from maml_tf.cli.main import run
from maml_tf.estimates import STEP_SIZES
from maml_tf.experiments import build as experiment
from maml_tf.experiments import machine

pytest.importorskip("mujoco", reason="needs the extra rl")
gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")

FLAGS = Path(__file__).parents[2] / "flags"
SMALL = ["--meta_batch_size=2", "--update_batch_size=3", "--horizon=8", "--validation_tasks=2"]
SMALL += ["--num_test_tasks=3", "--test_steps=1", "--progress=False", "--run_name=run"]


def line(name, logdir, *more):
    return [f"--flagfile={FLAGS / name}.flags", f"--logdir={logdir}", *SMALL, *more]


def weights(directory, iteration):
    reader = tf.train.load_checkpoint(str(directory / "checkpoints" / f"ckpt-{iteration}"))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith("weights/")]
    return {name: reader.get_tensor(name) for name in names}


def assert_same(one, other):
    assert one.keys() == other.keys() and len(one) == 7
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def run_all(*commands):
    """What a fixture of the module's runs, which comes before conftest's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_up", lambda settings: None)
        assert all(run(command) == 0 for command in commands)


@pytest.fixture(scope="module")
def navigation(tmp_path_factory):
    """The whole of a small run: four iterations, in one go."""
    logdir = tmp_path_factory.mktemp("whole")
    run_all(["train", *line("navigation_2d", logdir, "--metatrain_iterations=4")])
    return logdir / "run"


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(navigation, tmp_path):
    for iterations in (2, 4):
        flags = line("navigation_2d", tmp_path, f"--metatrain_iterations={iterations}")
        assert run(["train", *flags]) == 0
    assert (tmp_path / "run" / "checkpoints" / "ckpt-2.index").exists()
    assert_same(weights(tmp_path / "run", 4), weights(navigation, 4))


def test_what_an_evaluation_leaves(navigation, capsys):
    flags = ["--test_set", "--update_batch_size=6", "--update_lr=0.25", "--num_test_tasks=4"]
    assert run(["evaluate", str(navigation), *flags]) == 0
    assert "navigation_2d, maml, iteration 4, test split, 6 trajectories" in capsys.readouterr().out
    results = {p.name: json.loads(p.read_text()) for p in (navigation / "results").iterdir()}
    assert set(results) == {"test_6trajectories_stepsize0.25.json", "paths_6trajectories.json"}
    curve = results["test_6trajectories_stepsize0.25.json"]
    common = {"version": 1, "datasource": "navigation_2d", "experiment": "navigation_2d"}
    common |= {"method": "maml", "split": "test", "seed": 0, "shots": 6, "train_shots": 3}
    common |= {"inputs": "all", "step_size": 0.25, "iteration": 4, "steps": [0, 1]}
    own = {"kind": "curve", "metric": "return", "num_tasks": 4, "ways": None, "queries": None}
    own |= {"conv": False, "batch_statistics": "transductive", "tuning": None}
    assert {key: curve[key] for key in common | own} == common | own
    assert len(curve["mean"]) == len(curve["ci95"]) == len(curve["std"]) == 2
    paths = results["paths_6trajectories.json"]
    assert {key: paths[key] for key in common} == common and paths["kind"] == "paths"
    assert len(paths["tasks"]) == 3
    for task in paths["tasks"]:
        assert len(task["goal"]) == 2 and len(task["paths"]) == 2
        for episodes in task["paths"]:
            assert len(episodes) == 5
            for path in map(np.array, episodes):
                arrived = np.linalg.norm(path[-1] - task["goal"]) < 0.01
                assert (len(path) == 9 or arrived) and (path[0] == 0).all()
                assert np.abs(np.diff(path, axis=0)).max() <= 0.1001  # rounded to 4 digits


def test_a_run_is_exported_drawn_and_tabulated(navigation, tmp_path, capsys):
    assert run(["export", str(navigation), f"--to={tmp_path}/export"]) == 0
    model = tf.saved_model.load(str(tmp_path / "export"))
    own = weights(navigation, 4).values()
    exported = model.initial_weights()
    for value in own:
        assert any(np.array_equal(value, other) for other in exported.values())
    gif = tmp_path / "task.gif"
    flags = ["--test_set", "--task=1", "--fps=20", f"--to={gif}"]
    assert run(["render", str(navigation), *flags]) == 0
    assert "Task 1, iteration 4: return -" in capsys.readouterr().err
    assert gif.read_bytes().startswith(b"GIF89a")
    assert run(["evaluate", str(navigation), "--test_set", "--test_steps=3"]) == 0
    results = tmp_path / "run" / "results"
    results.mkdir(parents=True)
    for path in (navigation / "results").glob("*.json"):
        of_whole_episodes = {**json.loads(path.read_text()), "horizon": None}
        (results / path.name).write_text(json.dumps(of_whole_episodes))
    assert run(["figures", str(results.parent), f"--to={tmp_path}/paper"]) == 0
    made = {path.name for path in (tmp_path / "paper").iterdir()}
    assert {"figure_4.png", "figure_4_paths.pdf", "table_4.md", "returns.md"} <= made
    (row,) = [x for x in (tmp_path / "paper/table_4.md").read_text().splitlines() if "MAML" in x]
    # 2 tasks x 3 episodes x 8 steps, before and after a gradient step, four times, but for the end
    assert (steps := re.search(r"\| 3 \| 4 \| (\d+) \| 0 \| 3 \|$", row)) is not None
    assert 200 < int(steps[1]) <= 2 * 3 * 8 * 2 * 4


def test_the_best_weights_and_a_tuned_step_size(navigation, capsys):
    flags = ["--use_best", "--tune_step_size=True", "--update_lr=0.25"]
    assert run(["evaluate", str(navigation), *flags]) == 0
    assert "(the best on validation tasks)" in capsys.readouterr().out
    path = navigation / "results" / "val_3trajectories_stepsizetuned_best.json"
    result = json.loads(path.read_text())
    path.unlink()
    tuning = result["tuning"]
    assert tuning["step_sizes"] == list(STEP_SIZES)
    assert result["step_size"] == tuning["step_sizes"][int(np.argmax(tuning["scores"]))]
    assert result["mean"][-1] == pytest.approx(max(tuning["scores"]), rel=1e-5)


@pytest.mark.slow
def test_as_many_threads_of_robots_as_one_likes(tmp_path):
    for threads in (1, 2):
        flags = line("cheetah_velocity", tmp_path / str(threads), "--metatrain_iterations=1")
        assert run(["train", *flags, f"--inter_op_threads={threads}"]) == 0
    assert_same(weights(tmp_path / "1" / "run", 1), weights(tmp_path / "2" / "run", 1))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Two iterations of a cheetah, evaluated and released."""
    logdir = tmp_path_factory.mktemp("released")
    flags = line("cheetah_velocity_pretrained", logdir, "--metatrain_iterations=2")
    target = logdir / "models" / "cheetah"
    release = ["release", str(logdir / "run"), f"--to={target}"]
    run_all(["train", *flags], ["evaluate", "--test_set", *flags], release)
    return target


@pytest.mark.slow
def test_a_release_gives_the_same_numbers(release, tmp_path):
    flags = ["--test_set", f"--logdir={tmp_path}", "--run_name="]
    assert run(["evaluate", f"--init={release}", *flags]) == 0
    name = "test_3trajectories_stepsize0.02.json"
    again = json.loads((tmp_path / "cheetah" / "results" / name).read_text())
    (first,) = json.loads((release / "result.json").read_text())["results"]
    assert again["mean"] == first["mean"] and again["iteration"] == 2


@pytest.mark.slow
def test_a_run_starts_from_a_release_and_then_goes_its_own_way(release, tmp_path, capsys):
    start = line("cheetah_direction_pretrained", tmp_path, f"--init={release}", "--run_name=")
    assert run(["train", *start, "--metatrain_iterations=1"]) == 0
    assert f"Starting from the weights of {release}, iteration 2" in capsys.readouterr().err
    (directory,) = tmp_path.iterdir()
    assert directory.name.endswith(".init_cheetah")
    log_std = "weights/v006_log_std/.ATTRIBUTES/VARIABLE_VALUE"
    trained = weights(release.parent.parent / "run", 2)[log_std]
    one = weights(directory, 1)[log_std]
    assert 0 < np.abs(one - trained).max() < 0.5 * np.abs(trained).max()
    assert run(["train", *start, "--metatrain_iterations=2"]) == 0
    assert "Starting from" not in capsys.readouterr().err
    assert run(["evaluate", *start]) == 0
    assert "cheetah_direction, pretrained, iteration 2, val" in capsys.readouterr().out


def test_a_policy_of_another_environment(release, tmp_path, capsys):
    flags = line("ant_velocity_pretrained", tmp_path, f"--init={release}")
    message = error_of(["train", *flags], capsys)
    assert "initial.weights.h5 does not fit this network" in message
    assert not list(tmp_path.iterdir())


def test_another_policy_than_the_trained_one_is_refused(release, tmp_path, capsys):
    """Squashing and standardizing change what weights mean, and not always their shapes."""
    trained = str(release.parent.parent / "run")
    for flag, command in (
        ("--squash", ["evaluate", trained]),
        ("--squash", ["evaluate", f"--init={release}", f"--logdir={tmp_path}"]),
        ("--standardize", ["export", f"--init={release}", f"--to={tmp_path / 'export'}"]),
        ("--squash", ["train", *line("cheetah_velocity", tmp_path, f"--init={release}")]),
    ):
        message = error_of([*command, flag], capsys)
        assert f"was trained with {flag}=False; say so, or nothing of {flag}" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_environment_steps_of_a_pre_training_count(tmp_path):
    flags = line("navigation_2d", tmp_path, "--pretrain_iterations=2", "--iterations=1")
    assert run(["train", *flags, "--run_name=", "--horizon=8"]) == 0
    steps = {}
    for checkpoints in tmp_path.glob("*/checkpoints"):
        (newest,) = checkpoints.glob("ckpt-*.index")
        reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
        count = "count_environment_steps/.ATTRIBUTES/VARIABLE_VALUE"
        steps[".pretrained." not in checkpoints.parent.name] = int(reader.get_tensor(count))
    assert 0 < steps[False] < steps[True]


def scalars(directory):
    """What TensorBoard's file holds of each name, in order."""
    found = {}
    for path in map(str, directory.glob("events.*")):
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            for value in tf.compat.v1.Event.FromString(record).summary.value:
                if value.tag.startswith("train/"):
                    found.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name, iterations", [("navigation_2d", 3), ("cheetah_velocity", 1)])
def test_the_paper_s_sizes_from_end_to_end(name, iterations, tmp_path, capsys):
    """The flagfile's own tasks, trajectories and horizon; fewer iterations."""
    flags = [f"--flagfile={FLAGS / name}.flags", f"--logdir={tmp_path}", "--progress=False"]
    flags += [f"--metatrain_iterations={iterations}", "--num_test_tasks=10"]
    assert run(["train", *flags]) == run(["evaluate", "--test_set", *flags]) == 0
    assert f"{name}, maml, iteration {iterations}, test split" in capsys.readouterr().out
    (directory,) = tmp_path.iterdir()
    found = scalars(directory)
    for before, after in zip(
        found["train/surrogate_before"], found["train/surrogate_after"], strict=True
    ):
        assert after < before - 1e-4
    assert len(found["train/kl"]) == iterations and 1e-4 < max(found["train/kl"]) <= 0.01
    assert found["train/diverged"] == [0] * iterations
    (path,) = (directory / "results").glob("test_*.json")
    result = json.loads(path.read_text())
    assert len(result["mean"]) == (5 if name == "navigation_2d" else 4)
    assert result["mean"][-1] > result["mean"][0]  # even random weights adapt


MODULE = """
import gymnasium, numpy as np
from gymnasium.spaces import Box, Text

class Line(gymnasium.Env):
    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float64)

    def sample_tasks(self, rng, num_tasks):
        return rng.uniform(-1, 1, (num_tasks, 1))

    def set_task(self, task):
        self.goal = float(task[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return np.array([self.x]), {}

    def step(self, action):
        self.x += float(action[0])
        return np.array([self.x]), -abs(self.x - self.goal), False, False, {}

class Choice(Line):
    action_space = Text(2)

gymnasium.register("Line-v0", Line, max_episode_steps=5)
gymnasium.register("Choice-v0", Choice, max_episode_steps=5)
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my_line.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    yield "my_line"
    sys.modules.pop("my_line", None)
    for name in ("Line-v0", "Choice-v0"):
        gymnasium.registry.pop(name, None)


@pytest.mark.slow
def test_an_environment_of_ones_own(own_module, tmp_path, capsys):
    flags = ["--datasource=gymnasium", f"--environment={own_module}:Line-v0", *SMALL]
    flags += [f"--logdir={tmp_path / 'logs'}", "--metatrain_iterations=1", "--run_name="]
    assert run(["train", *flags]) == run(["evaluate", *flags]) == 0
    assert "my_line_Line-v0, maml, iteration 1" in capsys.readouterr().out
    (directory,) = (tmp_path / "logs").iterdir()
    assert directory.name.startswith("my_line_Line-v0.maml.mbs_2.ubs_3.")


@pytest.mark.parametrize(
    "environment, message",
    [
        ("CartPole-v1", "CartPole-v1 has no tasks; give it sample_tasks and set_task"),
        ("my_line:Choice-v0", "a policy has no distribution of such; let it be a Box"),
        ("Nowhere-v0", "environment 'Nowhere-v0' is unknown"),
        ("no_such_module:Line-v0", "No module named 'no_such_module'"),
    ],
)
def test_environments_that_do_not_do(environment, message, own_module, tmp_path, capsys):
    flags = ["--datasource=gymnasium", f"--environment={environment}", *SMALL]
    assert message in error_of(["train", *flags, f"--logdir={tmp_path / 'logs'}"], capsys)
    assert not (tmp_path / "logs").exists()


BENT = {
    "absent package": ("import nothing_there", r"my_bent cannot be imported.*nothing_there"),
    "syntax": ("def (:", r"my_bent cannot be imported, for it raised SyntaxError"),
    "error": ("1 / 0", r"my_bent cannot be imported, for it raised ZeroDivisionError"),
    "exit": ("import sys; sys.exit(2)", r"my_bent cannot be imported, for it raised SystemExit"),
    "no id": ("", r"'Bent-v0' is unknown, for my_bent does not register it"),
    "no class": (
        "import gymnasium; gymnasium.register('Bent-v0', 'nowhere:Bent', max_episode_steps=5)",
        "Bent-v0 raised ModuleNotFoundError",
    ),
    "__init__": (
        ["def __init__(self):", "    raise OSError('no robot')"],
        r"Bent-v0 raised OSError \(no robot\) in __init__",
    ),
    "four values": (
        ["def step(self, action):", "    return super().step(action)[:4]"],
        "Bent-v0 raised ValueError .*step 1 of an episode with task .*not the old Gym's four",
    ),
    "no seed": (
        ["def reset(self):", "    return super().reset()"],
        "Bent-v0 raised TypeError .*in reset with task",
    ),
    "later": (
        ["k = 0", "def step(self, action):", "    self.k += 1", "    1 / (4 - self.k)"]
        + ["    return super().step(action)"],
        r"Bent-v0 raised ZeroDivisionError .* in step 4 of an episode with task",
    ),
    "nan": (
        ["def step(self, action):", "    return np.array([np.nan]), 0.0, False, False, {}"],
        "Bent-v0 returned an observation that is not finite in step 1 of every episode with task",
    ),
}


@pytest.fixture
def bent_module(own_module, tmp_path):
    """Writes `my_bent`: a module, or the methods of a class of its own."""

    def write(text):
        if not isinstance(text, str):
            body = "\n    ".join(["class Bent(my_line.Line):", *text])
            register = "gymnasium.register('Bent-v0', Bent, max_episode_steps=5)"
            text = f"import gymnasium, numpy as np, my_line\n{body}\n{register}\n"
        (tmp_path / "own" / "my_bent.py").write_text(text)
        return "--datasource=gymnasium", "--environment=my_bent:Bent-v0", *SMALL

    yield write
    sys.modules.pop("my_bent", None)
    gymnasium.registry.pop("Bent-v0", None)


@pytest.mark.parametrize("fault", BENT)
def test_what_an_environment_of_ones_own_does_wrong_is_one_line(
    fault, bent_module, tmp_path, capsys
):
    text, message = BENT[fault]
    flags = [*bent_module(text), "--metatrain_iterations=1", f"--logdir={tmp_path / 'logs'}"]
    assert re.search(message, error_of(["train", *flags], capsys))
    assert not list(tmp_path.glob("logs/*/checkpoints/*"))


@pytest.mark.slow
def test_tasks_without_a_generator_that_are_names(bent_module, tmp_path, capsys):
    names = ["def sample_tasks(self, n):", "    return [f'{x:.2f}' for x in np.random.rand(n)]"]
    names += ["def set_task(self, task):", "    self.goal = float(task)", "    task.upper()"]
    flags = [*bent_module(names), "--metatrain_iterations=1"]
    for logs in "ab":
        assert run(["train", *flags, f"--logdir={tmp_path / logs}"]) == 0
    assert_same(weights(tmp_path / "a" / "run", 1), weights(tmp_path / "b" / "run", 1))
    message = error_of(["train", *flags, "--method=oracle", f"--logdir={tmp_path / 'c'}"], capsys)
    assert "not made of numbers" in message


def test_an_interrupt_in_an_environment_of_ones_own(bent_module, tmp_path):
    flags = bent_module(["def step(self, action):", "    raise KeyboardInterrupt"])
    assert run(["train", *flags, f"--logdir={tmp_path / 'logs'}"]) == 130


def test_help_says_that_a_module_s_code_runs(capsys):
    assert run(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("whose code is run") == 2  # of --environment and of --problem


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--horizon=0"], "--horizon must be from 1 to 1000000, or None"),
        (["--method=multitask"], "averages regressors of sinusoids"),
        (["--environment=Line-v0"], "drop --environment"),
        (["--datasource=gymnasium"], "needs --environment=Id-v0"),
        (["--max_kl=0"], "--max_kl must be above 0"),
        (["--clip=1"], "--clip is for --problem=sinusoid, omniglot"),
        (["--method=pretrained", "--sampling_correction=1"], "drop --sampling_correction"),
    ],
)
def test_mistakes(flags, message, tmp_path, capsys):
    assert message in error_of([*line("navigation_2d", tmp_path), *flags], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["gymnasium", "mujoco"])
def test_without_the_extra(missing, tmp_path, capsys, monkeypatch):
    monkeypatch.delattr("maml_tf.experiments.policies", raising=False)
    for name in [n for n in sys.modules if n.startswith(("maml_tf.rl.", "maml_tf.rl_"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    message = error_of(line("cheetah_velocity", tmp_path), capsys)
    assert missing in message and "maml-tf[rl]" in message
    assert not list(tmp_path.iterdir())
    experiment.make_tasks(make_settings(), "val")  # needs no extra
