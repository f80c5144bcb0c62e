"""What each of some workers computes, and one process: `python -m tests.worker_program DIR True`.

It writes what it found into a file of its own, for tests/test_workers.py to compare.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import maml_tf
from maml_tf import losses, networks
from maml_tf.engine.workers import Workers, outside_scope
from maml_tf.rl import MetaProMP, MetaTRPO, Sampler, policy_for
from maml_tf.tasks import Episodes, Sinusoid

TASKS = 6
"""T: of one process, and of two or three."""


def sgd():
    """It shows a gradient that is twice too large, and makes no small one large."""
    return keras.optimizers.SGD(0.01)


def of(learner, history, name):
    """The weights that were learned, and what the last meta-step saw."""
    weights = [np.asarray(variable) for variable in learner.state]
    return {f"{name} weight {i}": w for i, w in enumerate(weights)} | {
        f"{name} {key}": np.asarray(values)[-1]
        for key, values in history.items()
        if len(values) and "seconds" not in key
    }


def start(shape):
    """Where weights begin: larger than the network's own, so that they move."""
    return np.random.default_rng(0).normal(size=shape)


def regression():
    """Sinusoids, in the graph, with a clipped gradient and validations."""
    model = networks.dense_network(1, 1, (8, 8))
    for weight in model.trainable_variables:
        weight.assign(0.5 * start(weight.shape))
    learner = maml_tf.MetaLearner(
        *(model, losses.mean_squared_error),
        inner_steps=2,
        meta_batch_size=TASKS,
        optimizer=sgd(),
        clip_norm=0.5,
    )
    held_out = Sinusoid(shots=5, queries=5, split="val")
    trained = maml_tf.train(
        *(learner, Sinusoid(shots=5, queries=5)),
        iterations=4,
        validation=held_out,
        validate_every=2,
        validation_tasks=50,
        validation_steps=2,
        restore_best=True,
        progress=False,
    )
    measured = maml_tf.evaluate(learner, held_out, num_tasks=100, steps=3)
    found = of(learner, trained.history, "sines")
    return learner, found | {"sines curve": measured.mean, "sines interval": measured.ci95}


def images(source=lambda episodes: episodes):
    """Small pictures: each replica gathers its own alone; or, drawn in Python, cuts them out."""
    pictures = np.random.default_rng(0).random([12, 4, 8, 8, 1], np.float32)
    model = networks.conv_network((8, 8, 1), 3, filters=4, norm="none")
    learner = maml_tf.MetaLearner(
        model, losses.cross_entropy, inner_steps=1, meta_batch_size=TASKS, optimizer=sgd()
    )
    episodes = Episodes(pictures, 3, (1, 2), 2, rotations=True)
    trained = maml_tf.train(learner, source(episodes), iterations=3, progress=False)
    return of(learner, trained.history, "images")


def in_python(episodes):
    """The same tasks, drawn outside of the graph."""

    def draw(index, num_tasks):
        return tf.nest.map_structure(np.asarray, episodes(int(index), num_tasks))

    return draw


def navigation(kind, environment="navigation_2d", **options):
    """Roll-outs shared, gradients and curvature summed, statistics of observations merged."""
    sampler = Sampler(environment, tasks=TASKS, episodes=3, horizon=12, seed=1)
    one = outside_scope(lambda: Sampler(environment, tasks=1, episodes=1, horizon=12))
    policy = policy_for(one, standardize=True, seed=2)
    learner = kind(policy, meta_batch_size=TASKS, **options)
    held_out = Sampler(environment, tasks=4, episodes=3, horizon=12, seed=1)
    trained = maml_tf.train(
        *(learner, sampler),
        iterations=2,
        validation=learner.evaluator(held_out, num_tasks=8, steps=1),
        validate_every=2,
        validation_steps=1,
        progress=False,
    )
    return of(learner, trained.history, f"{kind.__name__} {environment}")


def results(directory, in_full, strategy=None):
    """All that is compared, by name."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        learner, found = regression()
        found |= images()
        # Damped, for products with an all but singular curvature are not told to six digits.
        found |= navigation(MetaTRPO, damping=3.0)
        if in_full:
            found |= {f"python {k}": v for k, v in images(in_python).items()}
            found |= navigation(MetaProMP, optimizer=sgd())
        maml_tf.export(learner, directory / "export", steps=2)
    return found


def exchanges(workers):
    """What workers tell each other, checked here."""
    mine = workers.index
    every = np.arange(workers.count)
    np.testing.assert_array_equal(workers.gather([mine, 7]), np.stack([every, 0 * every + 7], 1))
    assert workers.gather(np.float32(mine)).dtype == np.float32
    assert workers.from_chief(mine + 3) == 3
    assert workers.texts("né" * mine) == ["né" * i for i in range(workers.count)]
    rows = workers.concatenate(np.full([mine, 2], mine))
    np.testing.assert_array_equal(rows[:, 0], np.repeat(every, every))
    np.testing.assert_allclose(workers.mean({"a": np.float32([mine])})["a"], every.mean())
    own = np.arange(7)[workers.share(7)]
    np.testing.assert_array_equal(workers.concatenate(own), np.arange(7))
    variables = [tf.Variable(mine + 0.1, dtype=tf.float64), tf.Variable([mine, -mine])]
    workers.take_from_chief(variables)
    assert [v.numpy().tolist() for v in variables] == [0.1, [0, 0]]
    assert workers.by_chief(lambda: "done") == ("done" if workers.is_chief else None)


def refused(workers):
    """Sentences of what is refused on all workers alike."""

    def difference():
        workers.refuse_difference("flags", ["--a=1", f"--b={workers.index}"])

    def fails():
        raise ValueError("There is no room.")

    def uneven():
        maml_tf.MetaLearner(networks.dense_network(1, 1), losses.mean_squared_error)

    def few():
        Sampler("navigation_2d", tasks=1, episodes=1, horizon=3)

    def undivided():
        uneven_sampler = Sampler("navigation_2d", tasks=7, episodes=1, horizon=3)
        policy = policy_for(outside_scope(lambda: Sampler("navigation_2d", tasks=1, episodes=1)))
        MetaTRPO(policy, meta_batch_size=7).check_tasks(uneven_sampler)

    sentences = {}
    tries = {"difference": difference, "chief": lambda: workers.by_chief(fails)}
    tries |= {"uneven": uneven, "few": few, "undivided": undivided}
    for name, attempt in tries.items():
        try:
            attempt()
        except ValueError as error:
            sentences[name] = str(error)
    return sentences


def called_back(workers, place):
    """Callbacks of one worker's own cut the compiled calls of all short; files are the chief's."""
    learner = maml_tf.MetaLearner(
        networks.dense_network(1, 1, (8,)), "mse", meta_batch_size=TASKS, optimizer=sgd()
    )
    callbacks = [keras.callbacks.Callback()] if workers.is_chief else []
    callbacks += [keras.callbacks.ModelCheckpoint(place / "model.keras")]
    settings = {"iterations": 20, "log_every": 3, "progress": False}
    maml_tf.train(learner, Sinusoid(shots=2), callbacks=callbacks, **settings)


def main(directory, in_full):
    """Computes, and writes `<index>.npz` and `<index>.json`."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = maml_tf.strategy("multiworker")
    workers = Workers(strategy)
    own = directory / str(workers.index)
    own.mkdir()
    exchanges(workers)
    np.savez(directory / f"{workers.index}.npz", **results(own, in_full, strategy))
    with strategy.scope():
        called_back(workers, own)
        sentences = refused(workers)
    (directory / f"{workers.index}.json").write_text(json.dumps(sentences))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "True")
