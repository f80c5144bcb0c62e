import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, slow
from learners import make_learner, random_batches

from maml_tf.engine import pieces
from maml_tf.engine.conjugate_gradient import flatten, unflatten
from maml_tf.rl import trust_region


@pytest.mark.parametrize(
    "tasks, steps, expected",
    [(40, 4000, 20), (40, 8000, 40), (20, 2000, 5), (7, 2000, 1), (4, 50, 1), (1, 10**6, 1)],
)
def test_as_many_pieces_as_leave_each_enough_steps(tasks, steps, expected):
    assert pieces.default_number(tasks, steps) == expected


def test_pieces_are_slices_of_every_tensor_in_order():
    whole = {"a": normal(0, 6, 3), "b": [normal(1, 6)]}
    second = pieces.cut(whole, 3)[1]
    np.testing.assert_array_equal(second["a"], whole["a"][2:4])
    np.testing.assert_array_equal(second["b"][0], whole["b"][0][2:4])


@pytest.mark.parametrize("tasks, number", [(6, 4), (3, 3)])
def test_only_what_has_an_axis_of_tasks_is_cut(tasks, number):
    with pytest.raises(ValueError, match=f"a multiple of {number}"):
        pieces.cut([normal(0, 6, 3), normal(1, tasks)], number)


def test_the_mean_is_over_pieces_and_any_number_at_a_time_gives_the_same(monkeypatch):
    parts = pieces.cut(normal(0, 12, 5), 6)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(
            tf.config.threading, "get_inter_op_parallelism_threads", lambda threads=threads: threads
        )
        mean = pieces.mean(lambda x, part: (tf.reduce_sum(tf.exp(x * part)), x))
        results.append(tf.function(mean, autograph=False)(tf.constant(0.3, parts[0].dtype), parts))
    expected = np.exp(0.3 * normal(0, 12, 5)).sum() / 6
    for total, same in results:
        np.testing.assert_allclose(total, expected, rtol=1e-6)
        assert total == results[0][0] and same == results[0][1]


def by_forward_mode(learner, values, batches, vector):
    """J' M J v with nothing shared between products: forward through all, then back."""
    with (
        tf.autodiff.ForwardAccumulator(values, unflatten(vector, values)) as forward,
        tf.GradientTape() as tape,
    ):
        tape.watch(values)
        new = learner.adapted_policy(values, batches)
    zero = tf.UnconnectedGradients.ZERO
    means, log_stds = forward.jvp(new, unconnected_gradients=zero)
    variances = tf.exp(2 * new.log_stds)
    mask = batches[-1].mask / tf.reduce_sum(batches[-1].mask, 1, keepdims=True) / len(means)
    upstream = [
        mask[..., None] * means / tf.reshape(variances, [-1, 1, variances.shape[-1]]),
        2 * log_stds,
    ]
    weight = tf.reduce_sum(mask, 1)[:, None] if log_stds.shape.rank == 2 else 1.0
    upstream[1] *= weight
    return flatten(tape.gradient(list(new), values, upstream, unconnected_gradients=zero))


OTHERS = [
    {"inner_steps": 2, "learn_step_size": True, "step_size": 0.1},
    {"inner_steps": 0},
    {"inner_steps": 1, "adapts": lambda v: "bias" in v.path},
    {"inner_steps": 1, "first_order": True},
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("options", "method"),
    [
        *(({"inner_steps": 1}, method) for method in trust_region.CURVATURES),
        (OTHERS[0], "fisher"),
        *(slow(OTHERS[0], method) for method in trust_region.CURVATURES if method != "fisher"),
        *(slow(options, method) for options in OTHERS[1:] for method in trust_region.CURVATURES),
    ],
)
@pytest.mark.slow
def test_products_that_share_their_work_equal_those_that_do_not(options, method):
    learner = make_learner((4,), **options)
    batches = random_batches(learner, learner.inner_steps + 1, tasks=4)
    values = [tf.identity(v.value) for v in learner.variables]
    vectors = normal(7, 3, *flatten(values).shape)

    @tf.function(autograph=False)
    def all_products():
        product = pieces.MeanProduct(
            lambda at, piece: learner.kl_curvature(at, piece, method), values
        )
        kept = product.prepare(pieces.cut(batches, 2))
        # In a graph loop, as conjugate gradients are.
        return tf.map_fn(lambda vector: product(vector, kept), vectors)

    for got, vector in zip(all_products(), vectors, strict=True):
        if method == "finite_differences":
            expected = learner.kl_curvature(values, batches, method)(vector)
        else:
            expected = by_forward_mode(learner, values, batches, vector)
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_what_products_share_is_computed_outside_their_loop():
    learner = make_learner((4,))
    batches = random_batches(learner, 2, tasks=4)
    values = [tf.identity(v.value) for v in learner.variables]
    size = flatten(values).shape[0]
    kept = pieces._TwoStages(learner.kl_curvature, tf.TensorSpec([size], values[0].dtype))
    kept.prepare(values, batches)
    kinds = {operation.type for operation in kept._inner.graph.get_operations()}
    assert "MatMul" in kinds or "BatchMatMulV2" in kinds
    assert not kinds & {"Relu", "Exp", "Log"}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_each_piece_in_a_loop_of_the_graph_is_what_it_is_alone(jit_compile):
    whole, traced = {"a": normal(0, 6, 3), "b": [normal(1, 6)]}, []

    @tf.function(autograph=False)
    def compiled(piece):
        traced.append(1)
        return {"sum": piece["a"] * piece["b"][0][:, None], "first": piece["a"][0, 0]}

    for number in (1, 2, 3, 6):

        @tf.function(autograph=False, jit_compile=jit_compile)
        def all_of_them(whole, number=number):
            return pieces.each(compiled, pieces.stacked(whole, number), number)

        results = all_of_them(whole)
        parts = pieces.cut(whole, number)
        assert len(results) == number
        for result, part in zip(results, parts, strict=True):
            np.testing.assert_array_equal(result["sum"], part["a"] * part["b"][0][:, None])
            np.testing.assert_array_equal(result["first"], part["a"][0, 0])
    assert len(traced) == 4  # once for each size
