"""`--recipe`: flags that go behind those of any supervised problem."""

import pytest

from maml_tf.cli import flags, original
from maml_tf.cli.main import run
from maml_tf.experiments import problems
from maml_tf.experiments.records import Kind
from maml_tf.experiments.settings import make
from maml_tf.system import bundled

RECIPES = [path.stem for path in bundled.entries("recipes")]
SUPERVISED = [name for name in problems.known() if problems.find(name).kind is not Kind.POLICY]


def settings(*words):
    return make(original.translate(flags.parse(list(words)).given))


@pytest.mark.parametrize("problem", SUPERVISED)
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_goes_with_every_supervised_problem(recipe, problem, tmp_path):
    named = ["--data_dir=."] if problem == "folder" else []
    training = settings(f"--problem={problem}", f"--recipe={recipe}", *named).training
    assert training.inner_steps == 5 and training.learn_step_size == "layer_and_step"
    assert training.meta_lr_schedule == "cosine" and training.multi_step_loss == 7500
    assert training.final_meta_step_size == 1e-5 and training.meta_step_size == 1e-3


def test_the_later_of_two_values_counts():
    words = ["--inner_steps=2", "--recipe", "maml++", "--multi_step_loss=10"]
    training = settings(*words).training
    assert (training.inner_steps, training.multi_step_loss) == (5, 10)


@pytest.mark.parametrize("word", ["--recipe=maml", "--recipe="])
def test_another_is_refused_in_one_line(word, capsys):
    assert run(["train", word]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "There is no recipe" in said[0] and "maml++" in said[0]


def test_a_policy_has_other_levers(capsys):
    assert run(["train", "--problem=navigation_2d", "--recipe=maml++"]) == 1
    assert "is for --problem=sinusoid, omniglot, " in capsys.readouterr().err


def test_list_says_what_it_is(capsys):
    assert run(["list"]) == 0
    assert "  maml++  What MAML++ adds to MAML\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_short_training(tmp_path):
    line = ["--flagfile=flags/sinusoid_10shot.flags", "--recipe=maml++", f"--logdir={tmp_path}"]
    line += ["--iterations=4", "--multi_step_loss=2", "--validation_tasks=4", "--progress=False"]
    line += ["--jit_compile=False"]
    assert run(["train", *line]) == 0
    assert run(["evaluate", *line, "--test_tasks=8", "--test_steps=7"]) == 0
