"""Environments of users': tasks of every form as they are, and every fault in one sentence."""

import itertools
import random

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")

import numpy as np
from gymnasium.spaces import Box

from maml_tf.rl import envs
from maml_tf.rl.sampler import Sampler


class Noise:
    def __init__(self, tasks, action_size):
        self.log_stds = np.zeros((tasks, action_size), np.float32)

    def __call__(self, observations, noise):
        return noise, noise


class Line(gymnasium.Env):
    """x' = x + a; remembers the tasks that it was given."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float64)

    def sample_tasks(self, rng, n):
        return rng.uniform(-1, 1, (n, 1))

    def set_task(self, task):
        self.seen.append(task)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return np.array([self.x]), {}

    def step(self, action):
        self.x += float(action[0])
        return np.array([self.x]), -abs(self.x), False, False, {}


def kind(**methods):
    """A class of lines with other methods, and its own list of tasks."""
    return type("Bent", (Line,), {"seen": [], **methods})


def roll(make, **options):
    sampler = Sampler(make, **{"tasks": 2, "episodes": 3, "horizon": 5, **options})
    tasks = sampler.sample_tasks(0)
    trajectories = sampler.sample(Noise(2, sampler.action_size), tasks, 0)
    sampler.close()
    return tasks, trajectories


# --- tasks of every form ---


class Goal:
    def __init__(self, place):
        self.place = place


FORMS = {
    "vectors": lambda rng, n: rng.uniform(size=(n, 2)),
    "numbers": lambda rng, n: rng.uniform(size=n),
    "float32": lambda rng, n: rng.uniform(size=(n, 3)).astype(np.float32),
    "matrices": lambda rng, n: rng.uniform(size=(n, 2, 3)),
    "indices": lambda rng, n: rng.integers(2**62, 2**63 - 1, size=n),
    "python integers": lambda rng, n: [int(i) for i in rng.integers(9, size=n)],
    "python numbers": lambda rng, n: rng.uniform(size=n).tolist(),
    "lists": lambda rng, n: rng.uniform(size=(n, 2)).tolist(),
    "names": lambda rng, n: [f"task {i}" for i in rng.integers(9, size=n)],
    "dictionaries": lambda rng, n: [{"b": np.array([i, 2.0]), "a": True} for i in range(n)],
    "objects": lambda rng, n: [Goal(p) for p in rng.uniform(size=n)],
    "of several lengths": lambda rng, n: [np.arange(i + 1) for i in range(n)],
    "generator": lambda rng, n: (i for i in rng.integers(9, size=n).tolist()),
}


def plain(task):
    return vars(task) if isinstance(task, Goal) else task


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_set_task_receives_what_sample_tasks_gave(form, resample):
    drawn = []

    def sample_tasks(self, rng, n):
        drawn[:] = list(FORMS[form](rng, n))
        return _again(form, drawn)

    made = kind(sample_tasks=sample_tasks)
    tasks, _ = roll(made, resample=resample)
    assert len(tasks) == 2
    given = made.seen[-6:]
    expected = drawn if resample else [task for task in drawn for _ in range(3)]
    assert len(given) == len(expected) == 6
    for got, meant in zip(given, expected, strict=True):
        assert type(got) is type(meant)
        assert np.shape(got) == np.shape(meant)
        assert getattr(got, "dtype", None) == getattr(meant, "dtype", None)
        assert envs.task_forms.same(plain(got), plain(meant))


def _again(form, drawn):
    """The tasks drawn, in the container that the form has."""
    arrays = ("vectors", "numbers", "float32", "matrices", "indices")
    if form in arrays:
        return np.stack(drawn)
    return iter(drawn) if form == "generator" else drawn


def test_a_number_that_is_indexed_comes_as_a_vector():
    def set_task(self, task):
        self.goal = task[0]
        self.seen.append(task)

    made = kind(set_task=set_task, sample_tasks=lambda self, rng, n: rng.uniform(size=n))
    tasks, _ = roll(made)
    np.testing.assert_array_equal(made.seen[-6:], np.repeat(tasks, 3, axis=0))


@pytest.mark.parametrize(
    "form, numbers",
    [("matrices", 6), ("indices", 1), ("lists", 2), ("dictionaries", 3), ("python numbers", 1)],
)
def test_an_oracle_observes_the_numbers_of_a_task(form, numbers):
    made = kind(sample_tasks=lambda self, rng, n: FORMS[form](rng, n))
    tasks, trajectories = roll(made, oracle=True)
    shown = trajectories.observations[..., 1:]
    assert shown.shape[-1] == numbers
    for row, task in enumerate(tasks):
        if form == "dictionaries":  # in the order of the keys
            task = [task["a"], *task["b"]]
        expected = np.asarray(task, np.float32).ravel()
        np.testing.assert_array_equal(
            shown[row], np.broadcast_to(expected, (3, 5, numbers)), err_msg=form
        )


@pytest.mark.parametrize("form", ["names", "objects", "of several lengths"])
def test_an_oracle_cannot_observe_other_tasks(form):
    made = kind(sample_tasks=lambda self, rng, n: FORMS[form](rng, n))
    message = "different numbers" if form == "of several lengths" else "not made of numbers"
    with pytest.raises(ValueError, match=f"{message}.*leave the oracle") as raised:
        roll(made, oracle=True)
    assert "\n" not in str(raised.value)


# --- chance ---


def by_keywords(self, *, rng, num_tasks):
    return rng.uniform(size=(num_tasks, 1))


def with_more(self, number, scale=2.0, *, generator=None):
    return scale * generator.uniform(size=(number, 1))


def positional(self, a, b, /):
    return a.uniform(size=(b, 1))


def own_generator(self, n):
    if not hasattr(self, "rng"):
        self.rng = np.random.default_rng()
    return self.rng.uniform(size=(n, 1))


def seeds_own_generator(self, *, seed=None, options=None):
    if seed is not None:
        self.rng = np.random.default_rng(seed)
    return Line.reset(self, seed=seed)


CHANCES = {
    "(rng, n)": {},
    "(n, rng)": {"sample_tasks": lambda self, n, rng: rng.uniform(size=(n, 1))},
    "(a, b)": {"sample_tasks": positional},
    "keywords": {"sample_tasks": by_keywords},
    "more": {"sample_tasks": with_more},
    "any": {"sample_tasks": lambda self, *args: args[0].uniform(size=(args[1], 1))},
    "(n, seed)": {
        "sample_tasks": lambda self, n, seed: np.random.default_rng(seed).uniform(size=(n, 1))
    },
    "random_state": {"sample_tasks": lambda self, n, random_state: random_state.rand(n, 1)},
    "np_random": {"sample_tasks": lambda self, n: self.np_random.uniform(size=(n, 1))},
    "numpy": {"sample_tasks": lambda self, num_tasks: np.random.rand(num_tasks, 1)},
    "python": {"sample_tasks": lambda self, n: [random.random() for _ in range(n)]},
    "reset": {"sample_tasks": own_generator, "reset": seeds_own_generator},
}


@pytest.mark.parametrize("way", CHANCES)
def test_tasks_are_a_function_of_seed_split_and_index(way):
    def drawn(seed=0, split="train", index=0, before=0):
        sampler = Sampler(kind(**CHANCES[way]), tasks=4, episodes=1, horizon=3, seed=seed)
        for other in range(before):
            sampler.sample_tasks(other + 1)
        np.random.rand(before + 1)
        return np.asarray(sampler.sample_tasks(index, split), float)

    first = drawn()
    np.testing.assert_array_equal(first, drawn(before=2))
    assert len(np.unique(first)) == 4
    for other in drawn(seed=1), drawn(split="val"), drawn(index=1):
        assert not np.isin(other, first).any()


def test_generators_of_the_whole_program_go_on_as_they_were():
    np.random.seed(3)
    random.seed(3)
    expected = np.random.rand(), random.random()
    sampler = Sampler(kind(**CHANCES["numpy"]), tasks=2, episodes=1, horizon=3)
    np.random.seed(3)
    random.seed(3)
    sampler.sample_tasks(0)
    assert (np.random.rand(), random.random()) == expected


def test_a_wrapper_may_have_the_tasks():
    class Bare(gymnasium.Env):
        observation_space, action_space = Line.observation_space, Line.action_space

        def reset(self, *, seed=None, options=None):
            return np.zeros(1), {}

        def step(self, action):
            return np.zeros(1), 0.0, False, False, {}

    class Tasks(gymnasium.Wrapper):
        given = []

        def sample_tasks(self, rng, n):
            return rng.uniform(size=(n, 1))

        def set_task(self, task):
            self.given.append(task)

    tasks, _ = roll(lambda: gymnasium.wrappers.TimeLimit(Tasks(Bare()), 4))
    np.testing.assert_array_equal(Tasks.given[-6:], np.repeat(tasks, 3, axis=0))


# --- faults ---


def boom(self, *args, **kwargs):
    raise RuntimeError("no device\nand a second line")


def stepping(**changes):
    def step(self, action):
        made = dict(zip("orti", Line.step(self, action), strict=False), t=False, u=False)
        return tuple((made | changes)[name] for name in "ortu") + ({},)

    return step


def resetting(observation):
    return lambda self, *, seed=None, options=None: (observation, {})


def later(self, action):
    self.steps = getattr(self, "steps", 0) + 1
    return boom(self) if self.steps == 3 else Line.step(self, action)


TASK = r"with task array\(\["
FAULTS = {
    "__init__": ({"__init__": boom}, r"Bent raised RuntimeError \(no device\) in __init__"),
    "reset": ({"reset": boom}, rf"Bent raised RuntimeError \(no device\) in reset {TASK}"),
    "set_task": ({"set_task": boom}, rf"raised RuntimeError \(no device\) in set_task {TASK}"),
    "sample_tasks": ({"sample_tasks": boom}, "raised RuntimeError .* in sample_tasks"),
    "step": ({"step": boom}, rf"Bent raised RuntimeError \(no device\) in step 1 .*{TASK}"),
    "a later step": ({"step": later}, rf"RuntimeError \(no device\) in step 3 .*{TASK}"),
    "exit": ({"step": lambda self, a: exit(3)}, r"raised SystemExit \(3\) in step 1"),
    "four values": (
        {"step": lambda self, a: Line.step(self, a)[:4]},
        rf"in step 1 .*{TASK}.*returned 4 values, as the old Gym did",
    ),
    "a list": ({"step": lambda self, a: [*Line.step(self, a)]}, "returned .*in step 1|step 1.*ret"),
    "old reset": (
        {"reset": lambda self, seed=None, options=None: np.zeros(1)},
        rf"in reset {TASK}.*returned array\(\[0.\]\) alone, as the old Gym did",
    ),
    "no seed": ({"reset": lambda self: (np.zeros(1), {})}, "raised TypeError .*'seed'.* in reset"),
    "no options": (
        {"reset": lambda self, seed=None: (np.zeros(1), {})},
        "raised TypeError .*'options'.* in reset",
    ),
    "shape": ({"reset": resetting(np.zeros(2))}, r"shape \(2,\) where its space has \(1,\)"),
    "scalar": ({"reset": resetting(0.0)}, r"shape \(\) where its space has \(1,\)"),
    "rank": ({"step": stepping(o=np.zeros((1, 1)))}, r"shape \(1, 1\) where its space has"),
    "text": ({"reset": resetting(np.array(["a"]))}, "no real numbers but <U1"),
    "none": ({"step": stepping(o=None)}, "no real numbers but object"),
    "ragged": ({"step": stepping(o=[[1.0], [1.0, 2.0]])}, "is no array"),
    "reward none": ({"step": stepping(r=None)}, "the reward None, which is not one number"),
    "reward array": ({"step": stepping(r=np.zeros(1))}, r"the reward array\(\[0.\]\)"),
    "reward complex": ({"step": stepping(r=1j)}, "the reward 1j"),
    "terminated": ({"step": stepping(t=1)}, "terminated=1, which is not a bool"),
    "truncated": ({"step": stepping(u=None)}, "truncated=None, which is not a bool"),
    "nan": ({"step": stepping(o=np.array([np.nan]))}, rf"not finite in step 1 of every .*{TASK}"),
    "infinite": (
        {"step": stepping(r=-np.inf)},
        rf"reward -inf that is not finite in step 1.*{TASK}",
    ),
    "nan of reset": ({"reset": resetting(np.array([np.nan]))}, rf"reset {TASK}.*is not finite"),
    "other tasks": ({"sample_tasks": own_generator}, "different tasks from the same seed"),
    "no count": ({"sample_tasks": lambda self, rng: []}, "takes rng; let it take"),
    "no parameter": ({"sample_tasks": lambda self: []}, "takes nothing; let it take"),
    "three": ({"sample_tasks": lambda self, rng, n, x: []}, "takes rng, n, x; let it"),
    "too few": ({"sample_tasks": lambda self, rng, n: [1.0]}, "gave 1 tasks where 6 were asked"),
    "no list": ({"sample_tasks": lambda self, rng, n: None}, "gave None where 6 tasks"),
    "one dictionary": (
        {"sample_tasks": lambda self, n: {"a": [1] * n}},
        "where 6 tasks were asked",
    ),
    "one name": ({"sample_tasks": lambda self, n: "a" * n}, "where 6 tasks were asked"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence(fault):
    methods, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as raised:
        roll(kind(**methods))
    assert "\n" not in str(raised.value) and ";" in str(raised.value)
    assert "Bent" in str(raised.value)


def test_faults_of_a_process_of_its_own_are_the_same_sentence():
    vector = envs.ForeignTasks(kind(step=later), 6, asynchronous=True)
    with pytest.raises(ValueError, match=r"Bent raised RuntimeError \(no device\) in step 3"):
        with pytest.warns(UserWarning):  # Gymnasium's own account
            roll(vector)


ONE, FOUR = kind()(), itertools.cycle([kind()() for _ in range(4)])


@pytest.mark.parametrize(
    "make, message",
    [
        (Line(), "Line is no function that makes environments"),
        (3, "3 is no function that makes environments"),
        (None, "None is no function"),
        (lambda: None, "made None, which is no gymnasium.Env"),
        (lambda: Line, "made <class .*, which is no gymnasium.Env"),
        (lambda: ONE, "Bent is one object for several tasks; let the function make a new"),
        (lambda: next(FOUR), "is one object for several tasks"),
        (lambda x: Line(), "raised TypeError"),
        (kind(action_space=property(boom)), r"raised RuntimeError \(no device\) in __init__"),
        (kind(observation_space=None), "has observations None; a Gaussian policy needs a Box"),
    ],
)
def test_what_makes_no_environments_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as raised:
        roll(make)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("method", ["__init__", "reset", "set_task", "sample_tasks", "step"])
def test_an_interrupt_passes_through(method):
    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roll(kind(**{method: interrupted}))


def test_an_error_in_close_is_told_and_loses_nothing(caplog):
    envs.faults.warn_once.cache_clear()
    roll(kind(close=boom))
    told = [r.getMessage() for r in caplog.records]
    assert told == ["Bent raised RuntimeError (no device) in close."]


def test_one_task_without_any_step_is_named_and_occasional_divergence_stays():
    def set_task(self, task):
        self.task = task

    def step_of(bad):
        def step(self, action):
            seen, reward, *rest = Line.step(self, action)
            return seen, np.nan if bad(self) else reward, *rest

        return step

    tasks, trajectories = roll(kind(set_task=set_task, step=step_of(lambda self: self.x > 0.5)))
    assert 0 < trajectories.mask.mean() < 1 and np.isfinite(trajectories.rewards).all()
    only = kind(set_task=set_task, step=step_of(lambda self: self.task[0] == tasks[1, 0]))
    with pytest.raises(ValueError, match=r"step 1 of every episode with task array") as raised:
        roll(only)
    assert f"{tasks[1, 0]:.6f}"[:7] in str(raised.value)


def test_a_policy_s_own_nan_is_no_fault_of_the_environment():
    class Broken(Noise):
        def __call__(self, observations, noise):
            return np.nan * noise, noise

    sampler = Sampler(kind(), tasks=2, episodes=3, horizon=5)
    trajectories = sampler.sample(Broken(2, 1), sampler.sample_tasks(0), 0)
    assert sampler.diverged == 6 and not trajectories.mask.any()


# --- vector environments of users' ---


class Many(gymnasium.vector.VectorEnv):
    num_envs = 6
    single_observation_space, single_action_space = Line.observation_space, Line.action_space

    def __init__(self, **changes):
        vars(self).update(changes)

    def sample_tasks(self, n):
        return self.np_random.uniform(size=(n, 1))

    def set_tasks(self, tasks):
        self.tasks = tasks

    def reset(self, *, seed=None, options=None):
        return np.zeros((6, 1)), {}

    def step(self, actions):
        return np.zeros((6, 1)), np.ones(6), np.zeros(6, bool), np.zeros(6, bool), {}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, None),
        ({"step": lambda actions: boom(None)}, r"Many raised RuntimeError \(no device\) in step 1"),
        ({"step": lambda actions: (np.zeros((6, 1)), np.ones(6), False)}, "returned 3 values"),
        ({"step": lambda a: (np.zeros((6, 2)), *Many().step(a)[1:])}, r"shape \(6, 2\) where"),
        ({"step": lambda a: (np.zeros((6, 1)), 1.0, *Many().step(a)[2:])}, "rewards that are not"),
        (
            {"step": lambda a: (np.zeros((6, 1)), np.full(6, np.nan), *Many().step(a)[2:])},
            r"reward nan that is not finite in step 1 of every episode with task array",
        ),
        ({"reset": lambda **k: np.zeros((6, 1))}, "Many, in reset, returned"),
        ({"reset": lambda **k: (np.full((6, 1), np.nan), {})}, "not finite"),
        ({"set_tasks": lambda tasks: boom(None)}, "raised RuntimeError .* in set_tasks"),
        ({"sample_tasks": lambda rng, n: n}, "gave 6 where 6 tasks were asked for"),
    ],
)
def test_a_vector_environment_is_watched_as_well(changes, message):
    if message is None:
        tasks, trajectories = roll(Many())
        assert tasks.shape == (2, 1) and trajectories.rewards.sum() == 30
        return
    with pytest.raises(ValueError, match=message) as raised:
        roll(Many(**changes))
    assert "\n" not in str(raised.value)
