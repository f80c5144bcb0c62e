import numpy as np
import pytest
import tensorflow as tf
from helpers import PointSampler, assert_is_the_derivative, normal, slow
from learners import SAMPLER, make_learner, random_batches

from maml_tf import train
from maml_tf.engine.adaptation import adapt, stack
from maml_tf.engine.conjugate_gradient import flatten
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.objectives import PolicyBatch, reinforce, surrogate
from maml_tf.rl.policy import Gaussian, GaussianPolicy
from maml_tf.rl.rollouts import Rollouts
from maml_tf.training.checkpoints import Checkpoints
from maml_tf.training.loop import NonFiniteLoss


def displaced(learner):
    """Values other than those whose trajectories are stored: a slope of the KL, too."""
    return [
        v.value + 0.1 * normal(500 + i, *v.shape) * v.value + 0.02
        for i, v in enumerate(learner.variables)
    ]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("inner_steps", "inner_loss"),
    [(0, "log_likelihood"), (1, "likelihood_ratio"), (2, "log_likelihood")]
    + [slow(0, "likelihood_ratio"), slow(1, "log_likelihood"), slow(2, "likelihood_ratio")],
)
@pytest.mark.cases(1)
def test_gradients_of_surrogate_and_divergence_are_their_derivatives(inner_steps, inner_loss):
    options = {"inner_steps": inner_steps, "inner_loss": inner_loss}
    learner = make_learner((4,), learn_step_size=True, step_size=0.1, **options)
    batches = random_batches(learner, inner_steps + 1)
    values, names = displaced(learner), [v.path for v in learner.variables]
    both = tf.function(lambda weights: learner.meta_objective(weights, batches), autograph=False)
    for which in (0, 1):
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = both(values)[which]
        gradient = tape.gradient(result, values, unconnected_gradients="zero")
        assert_is_the_derivative(
            gradient, lambda weights, which=which: both(weights)[which], values, names
        )
    used = tf.nest.map_structure(lambda g: bool(np.any(g)), gradient)
    assert used[-1] == bool(inner_steps)  # alpha matters as soon as there is a step


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("inner_steps", [0, 2])
def test_forward_mode_reverse_mode_twice_and_differences_give_one_product(inner_steps):
    learner = make_learner((4,), inner_steps=inner_steps)
    batches = random_batches(learner, inner_steps + 1)
    values = [tf.identity(v.value) for v in learner.variables]
    vector = normal(7, *flatten(values).shape)
    fisher, hessian, differences = (
        learner.kl_curvature(values, batches, method)(vector).numpy()
        for method in ("fisher", "hessian", "finite_differences")
    )
    np.testing.assert_allclose(fisher, hessian, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(fisher, differences, rtol=1e-2, atol=1e-4)
    assert vector.numpy() @ fisher > 0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "inner_loss, factor", [("log_likelihood", 1.0), ("likelihood_ratio", 1 - 2 * 0.2)]
)
def test_the_meta_gradient_of_a_quadratic_reward_in_closed_form(inner_loss, factor):
    """One action b + z of reward -(a - g)^2: the return's own gradient is by the ratio's factor.

    Its inner step is b' = b - 2 alpha (b - g), so that d b' / d b is 1 - 2 alpha; the second
    derivative of log pi is constant, and weighs centred rewards to 0.
    """
    place, goal, alpha = 0.7, -0.4, 0.2
    options = {"step_size": alpha, "inner_loss": inner_loss, "meta_batch_size": 1}
    policy = GaussianPolicy(1, 1, ())
    learner = MetaTRPO(policy, adapts=lambda v: "bias" in v.path, **options)
    [bias] = [v for v in learner.variables if "bias" in v.path]
    bias.assign([place])
    nodes, shares = np.polynomial.hermite_e.hermegauss(12)  # exact means of polynomials

    def batch(mean):
        actions = mean + nodes
        gains = -np.square(actions - goal)
        gains -= np.sum(shares * gains) / np.sum(shares)
        old = Gaussian(tf.fill([1, 12, 1], mean), tf.zeros([1, 1], tf.float64))
        rows = (tf.constant(row[np.newaxis]) for row in (actions[:, None], gains, shares))
        return PolicyBatch(tf.zeros([1, 12, 1], tf.float64), *rows, old)

    adapted = place - 2 * alpha * (place - goal)
    batches = [batch(np.float64(place)), batch(np.float64(adapted))]
    with tf.GradientTape() as tape:
        values = [tf.identity(v.value) for v in learner.variables]
        tape.watch(values)
        loss, _ = learner.meta_objective(values, batches)
    gradient = tape.gradient(loss, values)[learner.variables.index(bias)]
    np.testing.assert_allclose(gradient, [2 * (adapted - goal) * factor], rtol=1e-9)


def test_the_meta_objective_is_the_loss_after_adapt_from_the_stored_trajectories():
    learner = make_learner(inner_steps=1, first_order=True)
    batches = random_batches(learner, 2)
    values = displaced(learner)
    adapted = adapt(
        reinforce(learner.policy), stack(values, 3, None), batches[:1], step_size=0.5
    ).weights[-1]
    expected = surrogate(learner.policy(adapted, batches[1].observations), batches[1])
    got, _ = learner.meta_objective(values, batches)
    np.testing.assert_allclose(got, np.mean(expected), rtol=1e-5)


def test_a_meta_step_lowers_the_surrogate_within_the_trust_region():
    learner = make_learner()
    before = [np.asarray(v) for v in learner.variables]
    rollouts = learner.roll_out_and_adapt(SAMPLER, 0, [None])
    first = learner.meta_steps(SAMPLER, 0, 1)
    assert first.returns.shape == (1, 2) and first.backtracks[0] >= 0
    np.testing.assert_allclose(first.returns[0], rollouts.returns.mean(0), rtol=1e-6)
    loss, apart = learner.meta_objective(learner.inner.values(), rollouts.batches)
    assert float(loss) == pytest.approx(first.surrogate_after[0], rel=1e-3)
    assert float(apart) == pytest.approx(first.kl[0], rel=1e-3) and 0 < apart <= 0.01
    assert first.surrogate_after[0] < first.surrogate_before[0]
    loss, apart = learner.meta_objective([tf.constant(v) for v in before], rollouts.batches)
    assert float(loss) == pytest.approx(first.surrogate_before[0], abs=1e-6)
    assert float(apart) == pytest.approx(0, abs=1e-6)


class Counted(GaussianPolicy):
    """Counts how often Python computes it: at every tracing."""

    calls = 0

    def __call__(self, *arguments):
        self.calls += 1
        return super().__call__(*arguments)


def test_meta_steps_and_evaluations_are_traced_once():
    learner = MetaTRPO(Counted(2, 2, (8,)), meta_batch_size=4)
    learner.meta_steps(SAMPLER, 0, 1)
    traced = learner.policy.calls
    learner.meta_steps(SAMPLER, 1, 2)
    learner.evaluator(SAMPLER, num_tasks=4, steps=1, step_size=0.3)()
    assert learner.policy.calls == traced > 0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "options",
    [
        {"inner_steps": 0},
        {"inner_steps": 2, "learn_step_size": True, "adapts": lambda v: "kernel" in v.path},
        slow({"inner_steps": 2, "learn_step_size": "layer_and_step"}),
        slow({"first_order": True, "curvature": "hessian"}),
    ],
)
@pytest.mark.cases(1)
def test_a_trust_region_step_is_the_same_in_any_number_of_pieces(options):
    options = {"curvature_share": 0.5, **options}
    learners = [make_learner((4,), pieces=number, **options) for number in (1, 4)]
    batches = random_batches(learners[0], learners[0].inner_steps + 1, tasks=4)
    rollouts = Rollouts(batches, np.zeros((4, len(batches))), 1, 0, 0, 0.0, 0.0)
    whole, cut = (learner.improve(rollouts) for learner in learners)
    assert whole["backtracks"] >= 0 and whole["surrogate_after"] < whole["surrogate_before"]
    both = [(whole[name], cut[name]) for name in whole]
    both += zip(learners[0].variables, learners[1].variables, strict=True)
    for one, other in both:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_share_of_the_episodes_for_the_curvature_alone():
    learner = make_learner(curvature_share=0.4)
    rollouts = learner.roll_out_and_adapt(SAMPLER, 0, [None])
    assert [batch.mask.shape for batch in rollouts.share(0.4)] == [(4, 20)] * 2
    metrics = learner.meta_steps(SAMPLER, 0, 1)
    assert metrics.kl[0] <= 0.01 and metrics.backtracks[0] >= 0


@pytest.mark.slow
def test_only_chosen_weights_adapt_and_all_are_meta_learned():
    learner = make_learner(adapts=lambda v: "bias" in v.path, learn_step_size=True)
    assert [len(v.shape) for v in learner.step_sizes] == [1, 1]
    before = [np.asarray(v) for v in learner.variables]
    learner.meta_steps(SAMPLER, 0, 1)
    moved = [(np.asarray(v) != b).any() for v, b in zip(learner.variables, before, strict=True)]
    assert moved == [True] * len(moved)


def run(directory, iterations, **options):
    learner = make_learner()
    evaluator = learner.evaluator(SAMPLER, num_tasks=4, steps=1)
    options = {"log_every": 1, "save_every": 2, "validate_every": 2, **options}
    result = train(
        *(learner, SAMPLER), iterations=iterations, logdir=directory, validation=evaluator,
        progress=False, **options,
    )  # fmt: skip
    return learner, result


@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(tmp_path):
    straight, whole = run(tmp_path / "straight", 4)
    run(tmp_path / "resumed", 3)
    resumed, result = run(tmp_path / "resumed", 4)
    assert result == whole and result.iteration == 4
    for a, b in zip(straight.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert Checkpoints(tmp_path / "resumed" / "checkpoints", make_learner()).restore_best()
    events = [
        value.tag
        for path in (tmp_path / "straight").glob("events.*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    for name in ("after_step_0_return", "after_step_1_return", "kl", "backtracks"):
        assert events.count(f"train/{name}") == 4
    assert events.count("validation/after_step_1_return") == 2


@pytest.mark.slow
def test_a_policy_is_saved_and_loaded_with_its_step_sizes(tmp_path):
    learner, again = make_learner(learn_step_size=True), make_learner(seed=2, learn_step_size=True)
    learner.meta_steps(SAMPLER, 0, 1)
    learner.save(tmp_path / "policy.weights.h5")
    again.load(tmp_path / "policy.weights.h5")
    for a, b in zip(learner.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="5 arrays beside .* learner 0 .* learn_step_size"):
        make_learner().load(tmp_path / "policy.weights.h5")


@pytest.mark.parametrize("kind", [slow("layer"), "layer_and_step"])
@pytest.mark.slow
def test_fewer_step_sizes_move_and_are_saved(kind, tmp_path):
    options = {"learn_step_size": kind, "inner_steps": 2}
    learner, again = make_learner(**options), make_learner(seed=2, **options)
    before = [np.asarray(v).copy() for v in learner.step_sizes]
    learner.meta_steps(SAMPLER, 0, 1)
    assert all(np.any(a != np.asarray(b)) for a, b in zip(before, learner.step_sizes, strict=True))
    learner.save(tmp_path / "policy.weights.h5")
    again.load(tmp_path / "policy.weights.h5")
    for a, b in zip(learner.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="other arrays beside .* than this learner"):
        make_learner(learn_step_size=True).load(tmp_path / "policy.weights.h5")
    with pytest.raises(ValueError, match="learn_step_size must be True or False, not 'x', nor"):
        make_learner(learn_step_size="x")
    with pytest.raises(ValueError, match="each inner step, and inner_steps is 0"):
        make_learner(learn_step_size="layer_and_step", inner_steps=0)


@pytest.mark.slow
def test_the_run_of_another_trpo_or_of_other_actions_is_refused(tmp_path):
    run(tmp_path, 2)
    other = make_learner(max_kl=0.02, discount=0.9)
    with pytest.raises(ValueError, match="discount=0.99, now 0.9; max_kl=0.01, now 0.02"):
        train(other, SAMPLER, iterations=4, logdir=tmp_path, progress=False)
    other = MetaTRPO(GaussianPolicy(2, 2, (8,), squash=True), meta_batch_size=4, step_size=0.5)
    with pytest.raises(ValueError, match="squash=False.*, now .*squash=True"):
        train(other, SAMPLER, iterations=4, logdir=tmp_path, progress=False)


class Poisoned(PointSampler):
    """Its rewards are no numbers from the second meta-batch on."""

    def sample(self, act, tasks, index, stage=0, split="train"):
        taken = super().sample(act, tasks, index, stage, split)
        return taken if index == 0 else taken._replace(rewards=np.nan * taken.rewards)


@pytest.mark.slow
def test_returns_that_are_not_finite_name_the_iteration_and_the_remedy(tmp_path):
    told = "iteration 1; the checkpoint of iteration 1 is intact. Lower the inner step size, or max"
    with pytest.raises(NonFiniteLoss, match=told):
        train(
            *(make_learner(), Poisoned(tasks=4, episodes=5, horizon=10)), iterations=3,
            logdir=tmp_path, save_every=1, log_every=1, progress=False,
        )  # fmt: skip


@pytest.mark.slow
def test_training_raises_the_return_after_adaptation():
    sampler = PointSampler(tasks=10, episodes=10, horizon=30)
    learner = make_learner((32,), meta_batch_size=10)
    evaluator = learner.evaluator(sampler, num_tasks=20, steps=1)
    before = evaluator()
    learner.meta_steps(sampler, 0, 15)
    after = evaluator()
    assert after.mean[1] - before.mean[1] > before.ci95[1]
    assert after.mean[1] > after.mean[0] + after.ci95[0]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"inner_steps": -1}, "inner_steps >= 0"),
        ({"meta_batch_size": 0}, "meta_batch_size >= 1"),
        ({"step_size": 0.0}, "step_size > 0"),
        ({"curvature_share": 0.0}, "0 < curvature_share <= 1"),
        ({"pieces": 0}, "4 tasks do not divide into pieces=0"),
        ({"pieces": 3}, "4 tasks do not divide into pieces=3"),
        ({"inner_loss": "exact"}, "log_likelihood, likelihood_ratio; not 'exact'"),
        ({"curvature": "exact"}, "fisher, hessian, finite_differences"),
        ({"adapts": lambda v: False}, "No variable adapts"),
    ],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make_learner(**options)


def test_at_least_one_meta_step():
    with pytest.raises(ValueError, match="count must be 1 or more"):
        make_learner().meta_steps(SAMPLER, 0, 0)
