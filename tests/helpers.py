"""What tests share: random numbers, one task at a time, central differences, result files."""

import gc
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.framework.func_graph import FuncGraph

from maml_tf import Batch, Task, adapt, stack, train
from maml_tf.cli import original
from maml_tf.cli.main import run
from maml_tf.experiments.settings import make
from maml_tf.results import files as result_files
from maml_tf.types import Trajectories

RESULTS = Path(__file__).parent / "data" / "results"


def values(learner):
    """All numbers of a learner and of its optimizer."""
    return [np.array(np.asarray(v)) for v in [*learner.state, *learner.optimizer.variables]]


def resumes_bit_for_bit(make, tasks, place):
    """Trains six iterations straight, and three and three; returns the learner of the former."""

    def trained(folder, iterations):
        learner, quiet = make(), {"progress": False, "save_every": 3}
        train(learner, tasks, iterations=iterations, logdir=place / folder, **quiet)
        return learner

    straight = trained("straight", 6)
    trained("resumed", 3)
    for one, other in zip(values(straight), values(trained("resumed", 6)), strict=True):
        np.testing.assert_array_equal(one, other)
    return straight


def left_behind(use):
    """The graphs and registered derivatives that are still there after a second use."""

    def there():
        gc.collect()
        graphs = sum(isinstance(one, FuncGraph) for one in gc.get_objects())
        return np.array([graphs, len(ops.gradient_registry._registry)])

    use()
    before = there()
    use()
    return tuple(there() - before)


def slow(*values):
    """A case of a parametrized test that is run with `-m slow` alone."""
    return pytest.param(*values, marks=pytest.mark.slow)


def slow_but(fast, names):
    """The names of cases, all of which are slow but those of `fast`."""
    assert set(fast) <= set(names), set(fast) - set(names)
    return [name if name in fast else slow(name) for name in names]


def error_of(arguments, capsys):
    """The one line of a command that fails, without a traceback."""
    capsys.readouterr()
    assert run(arguments) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("maml-tf: ")
    return line


def make_settings(**given):
    """Settings, of today's flags or earlier ones."""
    return make(original.translate(given))


def normal(seed, *shape):
    """Standard normal numbers in Keras' float type, a function of the seed."""
    return tf.constant(np.random.default_rng(seed).normal(size=shape), keras.config.floatx())


def positive_definite(size, seed=0):
    """A random symmetric matrix whose eigenvalues are 1 or more."""
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T + np.eye(size)


def randomize(model, scale=0.5):
    """Gives every weight random values, so that none is zero by initialisation."""
    for seed, variable in enumerate(model.trainable_variables):
        variable.assign(scale * normal(seed, *variable.shape))
    return model


def own_weights(model, num_tasks):
    """The model's weights plus noise, another for each task: `[T, *shape]`."""
    return [
        v.value + tf.cast(0.3 * normal(seed, num_tasks, *v.shape), v.dtype)
        for seed, v in enumerate(model.trainable_variables)
    ]


def one_task_at_a_time(model, weights, x, training=False):
    """Keras' own answer: put a task's weights into the model, call it, take the next task."""
    kept = model.get_weights()
    outputs = []
    for t in range(tf.nest.flatten(x)[0].shape[0]):
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value[t])
        outputs.append(model(tf.nest.map_structure(lambda a, t=t: a[t], x), training=training))
    model.set_weights(kept)
    return tf.stack(outputs)


def random_batch(model, num_tasks, examples, seed):
    """Random inputs, and random targets of the model's output shape."""
    x = normal(seed, num_tasks, examples, *model.input_shape[1:])
    return Batch(x, normal(seed + 1, num_tasks, examples, *model.output_shape[1:]))


def random_task(model, num_tasks=2, examples=3, seed=100):
    support = random_batch(model, num_tasks, examples, seed)
    return Task(support, random_batch(model, num_tasks, examples, seed + 10))


def meta_objective(learner, task):
    """`weights -> mean query loss after the inner steps`, in plain calls of `adapt`."""
    num_tasks = tf.nest.flatten(task)[0].shape[0]

    @tf.function(autograph=False)
    def objective(weights):
        adapted = adapt(
            learner.task_loss,
            stack(weights, num_tasks, learner.adapts),
            [task.support] * learner.inner_steps,
            step_size=learner.step_size,
            adapts=learner.adapts,
        )
        return tf.reduce_mean(learner.task_loss(adapted.weights[-1], task.query))

    return objective


def central_difference(objective, weights, index, direction, step=1e-6):
    """d objective / d weights[index] along `direction`, from two values of the objective."""
    ahead, behind = list(weights), list(weights)
    ahead[index] = weights[index] + step * direction
    behind[index] = weights[index] - step * direction
    return float(objective(ahead) - objective(behind)) / (2 * step)


def assert_is_the_derivative(gradient, objective, weights, names, rtol=1e-5, atol=1e-8):
    """Compares each weight's gradient with a central difference along a random direction."""
    for index, name in enumerate(names):
        direction = normal(1000 + index, *weights[index].shape)
        direction /= tf.norm(direction)
        expected = central_difference(objective, weights, index, direction)
        got = float(tf.reduce_sum(gradient[index] * direction))
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=name)


def paper_results(place=RESULTS):
    """Reads all result files in a place; those of tests/data/results, if no other."""
    return [result for path in result_files.find([place]) for result in result_files.read(path)]


def result_content(experiment, name):
    """What stands in one file of tests/data/results."""
    return json.loads((RESULTS / experiment / "results" / f"{name}.json").read_text())


def write_result(path, experiment="omniglot_5way_1shot", name="test_1shot_stepsize0.4", **changes):
    """Writes one file of tests/data/results anew, with changes; a change to None removes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**result_content(experiment, name), **changes}
    removed = {name for name, value in changes.items() if value is None}
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in removed}))


class PointSampler:
    """A point on a plane, to be steered to a goal of the task's own; in numpy, ends on arrival."""

    def __init__(self, tasks=4, episodes=5, horizon=10, seed=0):
        self.tasks, self.episodes, self.horizon, self.seed = tasks, episodes, horizon, seed

    def _random(self, purpose, index, split):
        split = ("train", "val", "test").index(split)
        return np.random.default_rng([self.seed, split, purpose, index])

    def sample_tasks(self, index, split="train"):
        random = self._random(0, index, split)
        return random.uniform(-0.5, 0.5, (self.tasks, 2)).astype(np.float32)

    def sample(self, act, tasks, index, stage=0, split="train"):
        random = self._random(1 + stage, index, split)
        place = np.zeros((self.tasks, self.episodes, 2), np.float32)
        alive = np.ones((self.tasks, self.episodes), np.float32)
        steps = []
        for _ in range(self.horizon):
            noise = random.standard_normal(place.shape).astype(np.float32)
            actions, means = act(place, noise)
            following = place + np.clip(actions, -0.1, 0.1)
            distance = np.linalg.norm(following - tasks[:, None], axis=-1)
            steps.append((place, actions, -distance * alive, alive, means))
            alive = alive * (distance > 0.01)
            place = following
        columns = (np.stack(c, 2).astype(np.float32) for c in zip(*steps, strict=True))
        return Trajectories(*columns, np.array(act.log_stds, np.float32))
