import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal

from maml_tf import MetaLearner, MultitaskLearner, evaluate, losses, networks, train
from maml_tf.engine.adaptation import stack
from maml_tf.supervised.baselines import JointClassifier
from maml_tf.tasks import Episodes, JointBatches, Sinusoid
from maml_tf.training.checkpoints import Checkpoints

T, STEPS = 3, 4
TASKS = Sinusoid(shots=5, fixed=True)


def network(seed=1, **options):
    return networks.dense_network(1, 1, (6,), seed=seed, **options)


def multitask(**options):
    options = {"meta_batch_size": T, "optimizer": keras.optimizers.Adam(0.01), **options}
    return MultitaskLearner(network(), losses.mean_squared_error, **options)


# --- multi-task ---


def regressor_alone(learner, t, steps):
    """One Keras model, one task, plain Keras training steps."""
    model, optimizer = network(), keras.optimizers.Adam(0.01)
    for variable, regressors in zip(model.trainable_variables, learner.regressors, strict=True):
        variable.assign(regressors.value[t])
    seen = []
    for index in range(steps):
        task = TASKS(index, T)
        pairs = zip(task.support[:2], task.query[:2], strict=True)
        x, y = (tf.concat([s[t], q[t]], 0) for s, q in pairs)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
            if learner.penalty:
                squares = [tf.reduce_sum(v.value**2) for v in model.trainable_variables]
                loss += learner.penalty * tf.add_n(squares)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        seen.append(float(loss))
    return model.get_weights(), seen


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.cases(1)
def test_the_regressors_train_as_if_each_were_alone_and_the_model_is_their_average(penalty):
    learner = multitask(penalty=penalty)
    alone = [regressor_alone(learner, t, STEPS) for t in range(T)]
    metrics = learner.meta_steps(TASKS, 0, STEPS)
    for i, regressors in enumerate(learner.regressors):
        expected = np.stack([weights[i] for weights, _ in alone])
        np.testing.assert_allclose(regressors.value, expected, rtol=1e-4, atol=1e-6)
        average = learner.model.trainable_variables[i].value
        np.testing.assert_allclose(average, expected.mean(0), rtol=1e-4, atol=1e-6)
    if not penalty:
        means = np.mean([seen for _, seen in alone], 0)
        np.testing.assert_allclose(metrics.query_loss, means, rtol=1e-4)


@pytest.mark.parametrize("pull, expected", [("zero", [1.0, 3.0, 8.0]), ("mean", [0.0, 2.0, 6.0])])
def test_the_penalties_by_hand(pull, expected):
    """Three regressors with weights 1, 3 and 8 in every place.

    lambda d/dw w^2 = 0.5 * 2 * (1, 3, 8). The means of those before are none, 1 and (1 + 3) / 2:
    0.5 * 2 * (0, 3 - 1, 8 - 2).
    """
    gradients = []
    for penalty in (0.0, 0.5):
        learner = multitask(penalty=penalty, pull=pull)
        for variable in learner.regressors:
            ones = tf.ones(variable.shape[1:])
            variable.assign(tf.stack([ones, 3 * ones, 8 * ones]))
        gradients.append(learner.meta_gradient(TASKS(0, T))[0])
    for without, penalised in zip(*gradients, strict=True):
        added = (penalised - without).numpy().reshape(T, -1)
        # The loss's own gradients are in the hundreds.
        np.testing.assert_allclose(added, np.tile(expected, [added.shape[1], 1]).T, atol=1e-2)


def test_each_regressor_starts_from_its_own_weights_which_depend_on_the_seed_alone():
    one, again = multitask(), multitask()
    other = MultitaskLearner(network(seed=2), losses.mean_squared_error, meta_batch_size=T)
    for a, b, c in zip(one.regressors, again.regressors, other.regressors, strict=True):
        np.testing.assert_array_equal(a.value, b.value)
        if "kernel" in a.name:
            values = np.concatenate([np.ravel(a.value), np.ravel(c.value)])
            assert len(np.unique(values)) == len(values)
        else:
            assert not np.any(a.value)


def test_many_starts_are_distributed_as_the_initializer_says():
    kernel = multitask(meta_batch_size=200).regressors[2].value.numpy()  # [200, 6, 1]
    # Truncated at two standard deviations: 0.88 of the standard deviation remains.
    assert kernel.std() == pytest.approx(0.01 * 0.88, rel=0.05)
    assert abs(kernel).max() <= 0.02 and abs(kernel.mean()) < 0.001


def test_the_regressors_tasks_stay_and_their_points_are_fresh():
    first, second = TASKS(0, T), TASKS(1, T)
    np.testing.assert_array_equal(TASKS.parameters(0, T), TASKS.parameters(1, T))
    assert not np.isin(first.query.x, second.query.x).any()
    amplitude, phase = TASKS.parameters(0, T)
    expected = amplitude[:, None, None] * tf.sin(second.query.x - phase[:, None, None])
    np.testing.assert_allclose(second.query.y, expected, atol=1e-6)


def state(learner):
    return [np.asarray(v) for v in [*learner.state, *learner.optimizer.variables]]


@pytest.mark.parametrize("pull", ["zero", "mean"])
@pytest.mark.slow
def test_the_training_loop_resumes_bit_for_bit(tmp_path, pull):
    held_out = Sinusoid(shots=5, split="val")

    def run(directory, iterations):
        learner = multitask(penalty=0.1, pull=pull, jit_compile=False)
        options = {"save_every": 10, "validate_every": 10, "validation_tasks": 24}
        result = train(
            learner,
            TASKS,
            iterations=iterations,
            logdir=tmp_path / directory,
            validation=held_out,
            validation_steps=1,
            progress=False,
            **options,
        )
        return learner, result

    straight, whole = run("straight", 23)
    run("resumed", 13)
    resumed, result = run("resumed", 23)
    assert result == whole
    for a, b in zip(state(straight), state(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    fresh = multitask()
    assert Checkpoints(tmp_path / "straight" / "checkpoints", fresh).restore_latest()
    for a, b in zip(fresh.model.get_weights(), straight.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{"pull": "up"}, {"penalty": -1.0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match="Choose pull from zero, mean and penalty >= 0"):
        multitask(**options)


def test_no_step_sizes_are_learned():
    with pytest.raises(ValueError, match="takes no inner step; drop learn_step_size"):
        multitask(learn_step_size=True)


# --- context ---


def context_learner(**options):
    return MetaLearner(
        network(context=True),
        losses.mean_squared_error,
        adapts=lambda variable: "context/" in variable.path,
        meta_batch_size=4,
        **options,
    )


def test_only_the_context_adapts_and_everything_is_meta_learned():
    learner = context_learner(step_size=0.5)
    for seed, variable in enumerate(learner.model.trainable_variables):
        variable.assign(normal(seed, *variable.shape))
    support = TASKS(0, T).support
    before = stack(learner.initial_weights(), T, learner.adapts)
    after = learner.adapt_weights(support, 2).weights[-1]
    moved = [bool(np.any(a != b)) for a, b in zip(before, after, strict=True)]
    assert moved == ["context/" in v.path for v in learner.model.trainable_variables]
    assert sum(moved) == 1
    start = learner.model.get_weights()
    learner.meta_steps(Sinusoid(shots=5), 0, 2)
    for a, b in zip(start, learner.model.get_weights(), strict=True):
        assert np.any(a != b)


def test_the_context_stands_beside_the_input():
    layer = networks.Context(2)
    layer.build((None, 3))
    layer.vector.assign([7.0, 8.0])
    np.testing.assert_array_equal(layer(np.ones([2, 3], np.float32))[1], [1, 1, 1, 7, 8])
    image = networks.Context(3)
    assert image(np.zeros([2, 5, 4, 1], np.float32)).shape == (2, 5, 4, 4)
    assert image.vector.shape == (5, 4, 3)


@pytest.mark.parametrize("kind", ["sinusoid", "dense", "conv"])
def test_a_context_network_is_an_ordinary_keras_model(kind, tmp_path):
    model = {
        "sinusoid": lambda: networks.dense_network(1, 1, (4,), context=True),
        "dense": lambda: networks.dense_network((6, 6, 1), 3, (4,), context=True),
        "conv": lambda: networks.conv_network((16, 16, 1), 3, filters=2, context=True),
    }[kind]()
    context = model.get_layer("context").vector
    assert context.shape == ((16, 16, 3) if kind == "conv" else (5,))
    context.assign(normal(0, *context.shape))
    x = normal(1, 2, *model.input_shape[1:])
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(x), model(x))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


# --- one classifier of all training classes ---


def coloured(classes, seed):
    """Images [C, 12, 16, 16, 3]: each class has a colour of its own; noise on top."""
    random = np.random.default_rng(seed)
    colours = random.integers(30, 220, (classes, 1, 1, 1, 3))
    images = colours + random.integers(-20, 20, (classes, 12, 16, 16, 3))
    return images.clip(0, 255).astype(np.uint8)


def colour_network(ways, seed=0):
    return networks.conv_network((16, 16, 3), ways, filters=8, max_pool=True, seed=seed)


def joint_classifier(classes, **options):
    return JointClassifier(
        colour_network(classes),
        losses.cross_entropy,
        meta_batch_size=4,
        optimizer=keras.optimizers.Adam(0.01),
        **options,
    )


@pytest.mark.parametrize("inductive", [False, True])
@pytest.mark.cases(1)
def test_the_nearest_neighbour_by_a_loop_over_pairs(inductive):
    learner = joint_classifier(5)
    support, query = Episodes(coloured(7, 0), 5, shots=3, queries=4, scale=1 / 255)(0, 3)
    weights = stack(learner.initial_weights(), 3, learner.adapts)
    predicted = learner.predict(weights, support, query.x, inductive=inductive).numpy()
    assert predicted.shape == (3, 20, 5)
    body = keras.Model(learner.model.inputs, learner.model.layers[-2].output)
    for t in range(3):
        known = body(support.x[t], training=True).numpy()
        if inductive:  # an example alone, normalised as the support set was
            adapted = learner.adapt(support.x[t], support.y[t], steps=0)
            alone = keras.Model(adapted.inputs, adapted.layers[-2].output)
            asked = np.concatenate([alone(x[None]) for x in query.x[t]])
        else:
            asked = body(query.x[t], training=True).numpy()
        for q in range(20):
            distances = [np.sum((asked[q] - known[b]) ** 2) for b in range(15)]
            label = int(support.y[t, int(np.argmin(distances))])
            np.testing.assert_array_equal(predicted[t, q], np.eye(5)[label])


@pytest.mark.slow
def test_it_learns_all_classes_and_then_the_ones_it_never_saw(tmp_path):
    """Classes differ by colour: 8 of training, 6 others; accuracy by chance is 1/8 and 1/3."""
    sizes = {"ways": 3, "shots": 1, "queries": 5, "scale": 1 / 255}
    batches = JointBatches(Episodes(coloured(8, 1), **sizes))
    held_out = Episodes(coloured(6, 2), **sizes, split="val")
    learner = joint_classifier(8)
    before = evaluate(learner, held_out, num_tasks=96, steps=0).mean[0]
    result = train(
        learner,
        batches,
        iterations=60,
        logdir=tmp_path,
        validation=held_out,
        validation_steps=0,
        validate_every=60,
        progress=False,
    )
    assert learner.meta_steps(batches, 60, 1).query_metric.numpy()[0] > 0.7
    assert before < result.best_score and result.best_score > 0.6  # nearest neighbour
    fine_tuned = MetaLearner(colour_network(3, seed=5), losses.cross_entropy, inner_steps=0)
    head = fine_tuned.model.layers[-1].variables
    fresh = [v.numpy() for v in head]
    checkpoints = Checkpoints(tmp_path / "checkpoints", fine_tuned, without=head)
    assert checkpoints.restore_latest()
    for variable, kept in zip(head, fresh, strict=True):
        np.testing.assert_array_equal(variable, kept)
    other = joint_classifier(8)
    Checkpoints(tmp_path / "checkpoints", other).restore_latest()
    bodies = (fine_tuned.model.layers[:-1], other.model.layers[:-1])
    for one, trained in zip(*bodies, strict=True):
        for a, b in zip(one.get_weights(), trained.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    curve = evaluate(fine_tuned, held_out, num_tasks=96, steps=5, step_size=0.1).mean
    assert abs(curve[0] - 1 / 3) < 0.15 and curve[5] > curve[0] + 0.25
