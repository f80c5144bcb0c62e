"""Tasks of fewer classes than the head has outputs: only what they have is predicted."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import error_of, randomize
from keras import layers
from PIL import Image

from maml_tf import Batch, MetaLearner, Task, evaluate, losses
from maml_tf.cli.main import run
from maml_tf.results import rows
from maml_tf.supervised.ensemble import Ensemble
from maml_tf.supervised.evaluation import DRAW, predictions_while_adapting
from maml_tf.tasks import ConstantTasks, Episodes

ROOM = dict(rtol=1e-6)


def learner_of(outputs=5, loss=losses.cross_entropy, **options):
    parts = [keras.Input([4]), layers.Dense(6, "tanh"), layers.Dense(outputs)]
    return MetaLearner(randomize(keras.Sequential(parts)), loss, step_size=0.3, **options)


def three_ways():
    examples = np.random.default_rng(0).normal(size=[9, 8, 4]) + np.arange(9)[:, None, None]
    return Episodes(examples, ways=3, shots=2, queries=4, split="test")


def test_the_share_of_hits_by_hand():
    """Logits are [0, 1, 0, 5, 0] for every example: 3 is never right; of the first three, 1 is."""
    learner = learner_of()
    kernel, bias = learner.model.trainable_variables[-2:]
    kernel.assign(tf.zeros_like(kernel)), bias.assign([0.0, 1.0, 0.0, 5.0, 0.0])
    assert evaluate(learner, three_ways(), num_tasks=24, steps=0).mean[0] == 0
    estimate = evaluate(learner, three_ways(), num_tasks=24, steps=0, ways=3)
    np.testing.assert_allclose([estimate.mean[0], estimate.std[0]], [1 / 3, 0], atol=1e-7)


def test_the_inner_loop_is_that_of_all_outputs_and_the_prediction_of_the_tasks_own():
    learner, tasks = learner_of(), three_ways()
    task = tasks(0, DRAW)
    outputs = predictions_while_adapting(learner, task.support, task.query.x, 2)  # [S+1, T, Q, 5]
    hits = outputs[..., :3].argmax(-1) == task.query.y.numpy()
    estimate = evaluate(learner, tasks, num_tasks=DRAW, steps=2, ways=3)
    np.testing.assert_allclose(estimate.mean, hits.mean((1, 2)), **ROOM)
    all_outputs = evaluate(learner, tasks, num_tasks=DRAW, steps=2).mean
    hits = outputs.argmax(-1) == task.query.y.numpy()
    np.testing.assert_allclose(all_outputs, hits.mean((1, 2)), **ROOM)
    assert (estimate.mean >= all_outputs).all() and (estimate.mean > all_outputs).any()


def test_an_ensemble_predicts_the_tasks_own_classes_too():
    learner, tasks = learner_of(), three_ways()
    members = [[np.asarray(v) * scale for v in learner.state] for scale in (1.0, 0.5)]
    task, shares = tasks(0, DRAW), 0.0
    for member in members:
        for variable, value in zip(learner.state, member, strict=True):
            variable.assign(value)
        outputs = predictions_while_adapting(learner, task.support, task.query.x, 1)
        shares = shares + tf.nn.softmax(outputs).numpy() / 2
    estimate = evaluate(Ensemble(learner, members), tasks, num_tasks=DRAW, steps=1, ways=3)
    hits = shares[..., :3].argmax(-1) == task.query.y.numpy()
    np.testing.assert_allclose(estimate.mean, hits.mean((1, 2)), **ROOM)


def one_hot():
    task = three_ways()(0, DRAW)
    y = tf.one_hot(task.query.y, 5)
    support = task.support._replace(y=tf.one_hot(task.support.y, 5))
    return ConstantTasks(Task(support, Batch(task.query.x, y)))


@pytest.mark.parametrize(
    ("ways", "make", "tasks", "message"),
    [
        (6, learner_of, three_ways, "ways is 6, and the model has 5 outputs; give no more"),
        (2, learner_of, three_ways, "holds 2, and ways is 2: give class indices 0 ... 1, or more"),
        (0, learner_of, three_ways, "ways must be 1 or more, not 0"),
        (3.0, learner_of, three_ways, "ways must be a whole number, not 3.0"),
        (
            *(3, lambda: learner_of(loss=keras.losses.CategoricalCrossentropy(from_logits=True))),
            *(one_hot, r"ways takes class indices, and y has shape \(12, 5\); drop ways"),
        ),
    ],
)
def test_what_does_not_fit_is_refused(ways, make, tasks, message):
    with pytest.raises(ValueError, match=message):
        evaluate(make(), tasks(), num_tasks=24, steps=1, ways=ways)


# --- the command line ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A 3-way run on folders of images: 20 classes, of which 4 are for the test."""
    place = tmp_path_factory.mktemp("ways")
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = place / "photos" / f"class_{number}"
        folder.mkdir(parents=True)
        for i in range(3):
            pixels = (12 * number + rng.integers(0, 12, [8, 8, 3])).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{i}.png")
    line = ["--problem=folder", f"--data_dir={place / 'photos'}", "--image_size=8", "--ways=3"]
    line += ["--shots=1", "--queries=2", "--filters=2", "--meta_batch_size=2", "--iterations=1"]
    line += ["--inner_steps=1"]
    line += ["--validation_tasks=2", "--progress=False", f"--logdir={place / 'logs'}"]
    assert run(["train", *line, "--run_name=run", "--test_ways=2"]) == 0
    return place, line


@pytest.mark.slow
def test_a_run_is_evaluated_with_fewer_ways(trained, capsys):
    place, line = trained
    directory = place / "logs" / "run"
    few = ["--test_tasks=3", "--test_steps=1", "--progress=False", "--split=test"]
    assert run(["evaluate", str(directory), *few, "--ways=2"]) == 0
    told = capsys.readouterr().out
    assert "folder_3way_1shot, maml" in told and "2 ways of 3 outputs" in told
    name = "test_1shot_2way_stepsize0.01.json"
    assert [path.name for path in (directory / "results").iterdir()] == [name]
    assert not list(directory.glob("*.csv"))  # the original's has a name for one number of ways
    content = json.loads((directory / "results" / name).read_text())
    assert (content["ways"], content["outputs"], content["queries"]) == (2, 3, 2)
    assert run(["evaluate", str(directory), *few, "--test_ways=3"]) == 0
    ways = {(row["ways"], row["outputs"]) for row in rows(directory)}
    assert ways == {(2, 3), (3, 3)}
    assert run(["runs", str(place / "logs")]) == 0
    assert "3 tasks, test" in capsys.readouterr().out
    release = place / "release"
    assert run(["release", str(directory), f"--to={release}"]) == 0
    assert "| test, 1-shot, 2-way, " in (release / "README.md").read_text()
    where = [f"--data_dir={place / 'photos'}", f"--logdir={place / 'again'}"]
    assert run(["evaluate", f"--init={release}", *few, *where, "--ways=2"]) == 0


@pytest.mark.slow
def test_more_ways_than_outputs_are_one_line_before_any_work(trained, capsys):
    place, line = trained
    told = "--test_ways=4 is more than the 3 outputs that --ways gives the network; give at most 3"
    assert told in error_of(["evaluate", str(place / "logs" / "run"), "--ways=4"], capsys)
    assert told in error_of(["train", *line, "--test_ways=4"], capsys)
    assert "--test_ways is for --problem=omniglot" in error_of(["train", "--test_ways=2"], capsys)


@pytest.mark.slow
def test_a_training_validates_with_its_own_ways(trained):
    """`--test_ways` is of evaluations: best weights are those of the tasks that were trained."""
    from maml_tf.experiments.build import make_tasks, make_validation
    from maml_tf.experiments.settings import make

    place, _ = trained
    given = {"problem": "folder", "data_dir": str(place / "photos"), "image_size": 8, "shots": 1}
    settings = make({**given, "ways": 3, "test_ways": 2})
    assert make_validation(settings, None).ways == make_tasks(settings, "train").ways == 3
    assert make_tasks(settings, "val").ways == 2
