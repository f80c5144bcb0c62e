"""Wrong calls of the reinforcement learner's API are refused in one line."""

import pytest
from helpers import PointSampler
from learners import make_learner

pytest.importorskip("gymnasium", reason="needs the extra rl")

from maml_tf import train
from maml_tf.networks import dense_network
from maml_tf.rl import envs
from maml_tf.rl.evaluation import ReturnEvaluator
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import GaussianPolicy, Policy
from maml_tf.rl.sampler import Sampler
from maml_tf.saving.export import export

WHOLE, NUMBER = "must be a whole number", "must be one number"


def navigation(**options):
    return Sampler("navigation_2d", **{"tasks": 2, "episodes": 3, "horizon": 4, **options})


def judged(**options):
    return make_learner().evaluator(PointSampler(), **options)


CALLS = {
    "policy": (lambda: MetaTRPO(dense_network(4, 3), meta_batch_size=2), "make a GaussianPolicy"),
    "a class": (lambda: MetaTRPO(GaussianPolicy, meta_batch_size=2), "is the class GaussianPolicy"),
    "batch": (lambda: make_learner(meta_batch_size=2.0), f"meta_batch_size {WHOLE}, not 2.0"),
    "steps": (lambda: make_learner(inner_steps="1"), f"inner_steps {WHOLE}, not '1'"),
    "pieces": (lambda: make_learner(pieces=True), f"pieces {WHOLE}, not True"),
    "step_size": (lambda: make_learner(step_size=[0.1]), f"step_size {NUMBER}"),
    "max_kl": (lambda: make_learner(max_kl="a"), f"max_kl {NUMBER}"),
    "discount": (lambda: make_learner(discount=None), f"discount {NUMBER}"),
    "damping": (lambda: make_learner(damping=float("nan")), "damping must be a finite number"),
    "order": (lambda: make_learner(first_order="yes"), "first_order must be True or False"),
    "names": (lambda: make_learner(adapts=["head"]), "adapts must be a function of one argument"),
    "sizes": (lambda: GaussianPolicy(2.0, 1), f"observation_size {WHOLE}"),
    "head": (lambda: Policy(2, 3), "head is 3; give one of maml_tf.rl.heads"),
    "hidden": (lambda: GaussianPolicy(2, 1, 100), "hidden must be a tuple of whole numbers"),
    "seed": (lambda: GaussianPolicy(2, 1, seed="a"), f"seed {WHOLE}"),
    "count": (lambda: make_learner().meta_steps(PointSampler(), 0, 1.5), f"count {WHOLE}"),
    "no sampler": (lambda: make_learner().meta_steps(3, 0, 1), "give a sampler of trajectories"),
    "sizes of a meta-batch": (
        lambda: make_learner(meta_batch_size=3).meta_steps(PointSampler(tasks=4), 0, 1),
        r"draws 4 tasks \(tasks=4\), and the learner was made with meta_batch_size=3; give both",
    ),
    "train": (
        lambda: train(make_learner(), None, iterations=1),
        "The tasks given are None; give a sampler",
    ),
    "validation": (
        lambda: train(make_learner(), PointSampler(), iterations=1, validation=3),
        "The tasks given are 3; give a sampler of trajectories",
    ),
    "evaluated model": (
        lambda: ReturnEvaluator(dense_network(4, 3), PointSampler()),
        "The learner given is <Sequential",
    ),
    "evaluated on 3": (lambda: ReturnEvaluator(make_learner(), 3), "The tasks given are 3"),
    "num_tasks": (lambda: judged(num_tasks=2.5), f"num_tasks {WHOLE}"),
    "evaluated steps": (lambda: judged(steps="1"), f"steps {WHOLE}"),
    "split": (lambda: judged(split="all"), "split is 'all'; use one of"),
    "alpha": (lambda: judged(step_size=-1), "step_size must be positive"),
    "export": (lambda: export(dense_network(4, 3), "nowhere"), "The learner given is <Sequential"),
    "export steps": (lambda: export(make_learner(), "nowhere", steps=1.5), f"steps {WHOLE}"),
    "tasks": (lambda: navigation(tasks=2.0), f"tasks {WHOLE}, not 2.0"),
    "episodes": (lambda: navigation(episodes="3"), f"episodes {WHOLE}"),
    "horizon": (lambda: navigation(horizon=True), f"horizon {WHOLE}"),
    "sampler's seed": (lambda: navigation(seed=None), f"seed {WHOLE}"),
    "a seed below 0": (lambda: navigation(seed=-1), "seed must be 0 or more, not -1"),
    "a policy's below 0": (lambda: GaussianPolicy(2, 1, seed=-1), "seed must be 0 or more, not -1"),
    "dynamics": (lambda: navigation(dynamics="x"), "dynamics is 'x'; use 'paper' or 'gymnasium'"),
    "no dynamics": (lambda: navigation(dynamics=None), "dynamics is None; use 'paper'"),
    "a point's dynamics": (
        lambda: navigation(dynamics="gymnasium"),
        "dynamics is for cheetah_velocity, .*; drop it",
    ),
    "a robot's square": (
        lambda: Sampler("cheetah_velocity", tasks=1, episodes=1, squared_reward=True),
        "squared_reward is for navigation_2d; drop it",
    ),
    "a made one's oracle": (
        lambda: Sampler(envs.make_vector("navigation_2d", 6), tasks=2, episodes=3, oracle=True),
        "Navigation2D is made already without its tasks",
    ),
    "a task of NaN": (
        lambda: navigation(oracle=True).sample(None, [[float("nan"), 0.0]] * 2, 0),
        "tasks hold numbers that are not finite",
    ),
    "tasks beyond floats": (
        lambda: navigation().sample(None, [[10**400, 0]] * 2, 0),
        "tasks are no numbers",
    ),
    "oracle": (lambda: navigation(oracle="yes"), "oracle must be True or False"),
    "index": (lambda: navigation().sample_tasks(0.5), f"index {WHOLE}"),
    "names as tasks": (
        lambda: navigation().sample(None, ["a", "b"], 0),
        "tasks are no numbers",
    ),
    "no tasks": (lambda: navigation().sample(None, None, 0), "the tasks given are None"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong, message = CALLS[call]
    with pytest.raises(ValueError, match=message) as raised:
        wrong()
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
