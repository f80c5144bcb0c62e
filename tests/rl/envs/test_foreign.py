"""Environments of users': tasks of every form as they are, and every fault in one sentence."""

import collections
import itertools
import random
import threading
import warnings

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
    "values": lambda rng, n: dict(enumerate(rng.uniform(size=n).tolist())).values(),
    "deque": lambda rng, n: collections.deque(rng.uniform(size=n).tolist()),
    "range": lambda rng, n: range(n),
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
    others = {
        "generator": iter,
        "values": lambda tasks: dict(enumerate(tasks)).values(),
        "deque": collections.deque,
        "range": lambda tasks: range(len(tasks)),
    }
    return others.get(form, list)(drawn)


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


@pytest.mark.parametrize(
    "task", [np.nan, [1.0, np.inf], {"g": 1e300}, np.array([np.nan])], ids=repr
)
def test_an_oracle_observes_finite_numbers_only(task):
    made = kind(sample_tasks=lambda self, rng, n: [task] * n)
    with pytest.raises(ValueError, match="Bent has the task .* not finite.*leave the oracle"):
        roll(made, oracle=True)
    roll(made)


CHANGES = {
    "a dictionary": (lambda i: {"g": float(i)}, lambda task: task.pop("g")),
    "nested": (lambda i: {"g": [i]}, lambda task: task["g"].append(3)),
    "a list": (lambda i: [float(i)], lambda task: task.clear()),
    "an object": (Goal, lambda task: vars(task).pop("place")),
    "an array": (lambda i: np.array([float(i)]), lambda task: task.fill(7)),
    "an array among objects": (lambda i: {"g": np.full(2, i)}, lambda task: task["g"].fill(7)),
}


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("form", CHANGES)
def test_what_set_task_does_to_its_task_is_its_own_affair(form, stock, resample):
    make, change = CHANGES[form]
    kept = [make(i) for i in range(6)]

    def sample_tasks(self, rng, n):
        made = kept[:n] if stock else [make(i) for i in range(n)]
        return np.stack(made) if form == "an array" else made

    def set_task(self, task):
        self.seen.append(repr(plain(task)))
        change(task)

    made = kind(sample_tasks=sample_tasks, set_task=set_task)
    sampler = Sampler(made, tasks=2, episodes=3, horizon=2, resample=resample)
    tasks = sampler.sample_tasks(0)
    for _ in range(2):
        sampler.sample(Noise(2, 1), tasks, 0)
    each = [make(i) for i in (range(6) if resample else (0, 0, 0, 1, 1, 1))]
    assert made.seen[-12:] == 2 * [repr(plain(task)) for task in each]


def test_a_task_without_a_copy_is_given_itself():
    locks = [threading.Lock() for _ in range(6)]
    made = kind(sample_tasks=lambda self, rng, n: locks[:n])
    roll(made)
    assert made.seen[-6:] == [locks[0]] * 3 + [locks[1]] * 3


def test_tasks_drawn_stay_when_the_environment_fills_its_array_anew():
    def sample_tasks(self, rng, n):
        buffer = vars(self).setdefault("buffer", np.zeros((n, 1)))
        buffer[:] = rng.uniform(size=(n, 1))
        return buffer[:n]

    sampler = Sampler(kind(sample_tasks=sample_tasks), tasks=2, episodes=1, horizon=2)
    first = sampler.sample_tasks(0)
    kept = first.copy()
    assert not np.array_equal(sampler.sample_tasks(1), kept)
    np.testing.assert_array_equal(first, kept)


def test_tasks_that_hold_themselves_are_compared_without_end_nor_error():
    def sample_tasks(self, rng, n):
        made = [Goal(p) for p in rng.uniform(size=n)]
        for goal in made:
            goal.me = goal.again = goal
        return made

    made = kind(sample_tasks=sample_tasks)
    roll(made)
    assert all(task.me is task for task in made.seen)
    with pytest.raises(ValueError, match="not made of numbers"):
        roll(made, oracle=True)


# --- actions ---


WIDE = {"float32": np.float32, "float64": np.float64}


@pytest.mark.parametrize("dtype", WIDE)
def test_bounds_too_far_apart_to_scale_to_are_none(dtype):
    most = np.finfo(dtype).max
    given = []

    def step(self, action):
        given.append(action)
        return np.zeros(1), 0.0, False, False, {}

    low, high = np.array([-most, -2, most / 1.5]), np.array([most, 6, most])
    made = kind(action_space=Box(low.astype(dtype), high.astype(dtype), dtype=dtype), step=step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vector = envs.ForeignTasks(made, 3)
        tried = given[-1]
        assert tried in made.action_space
        vector.reset(seed=0)
        vector.step(np.repeat(np.array([[0.1], [-1.0], [0.5]], np.float32), 3, axis=1))
    taken = np.array(given[-3:], float)
    np.testing.assert_allclose(taken[:, 0], [0.1, -1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(taken[:, 1], [2.4, -2.0, 4.0], rtol=1e-6)
    assert all(action in made.action_space for action in given[-3:])


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


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class SpeechlessUnpacking(ValueError):
    __str__ = __repr__ = Speechless.__str__


def speechless(self, *args, **kwargs):
    raise Speechless


def speechless_unpacking(self, *args, **kwargs):
    raise SpeechlessUnpacking


class Frame:
    """A table: an entry is a column."""

    columns = ["goal"]

    def __len__(self):
        return 6

    def __getitem__(self, key):
        return {"goal": range(6)}[key]


class Headless(Frame):
    """An index from 1."""

    columns = property(lambda self: self[0])

    def __getitem__(self, key):
        return dict(enumerate("abcdef", 1))[key]


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
    "a reward of float64": (
        {"step": stepping(r=1e300)},
        rf"Bent returned the reward 1e\+300 that is beyond .* in step 1 of every .*{TASK}",
    ),
    "a reward whose square is none": ({"step": stepping(r=-1e38)}, "the reward -1e\\+38 that is"),
    "a whole reward": ({"step": stepping(r=10**300)}, r"the reward 1e\+300 that is beyond"),
    "an observation of float64": (
        {"step": stepping(o=np.array([1e300]))},
        rf"an observation that is not finite in step 1 of every .*{TASK}",
    ),
    "a narrower space's observation": (
        {
            "observation_space": Box(-np.inf, np.inf, (1,), np.float32),
            "step": stepping(o=np.array([-1e300])),
        },
        "an observation that is not finite in step 1 of every",
    ),
    "reset of float64": ({"reset": resetting(np.array([1e300]))}, rf"reset {TASK}.*beyond float32"),
    "a narrower space's reset": (
        {
            "observation_space": Box(-np.inf, np.inf, (1,), np.float32),
            "reset": resetting(np.array([1e300])),
        },
        rf"reset {TASK}.*beyond float32",
    ),
    "without words": ({"step": speechless}, rf"Bent raised Speechless in step 1 .*{TASK}"),
    "a ValueError without words": ({"step": speechless_unpacking}, "raised SpeechlessUnpacking in"),
    "set_task without words": ({"set_task": speechless}, "raised Speechless in set_task"),
    "tasks without words": (
        {"sample_tasks": lambda self, rng, n: [Speechless() for _ in range(n)], "step": boom},
        "RuntimeError .* with task a? ?Speechless",
    ),
    "endless": (
        {"sample_tasks": lambda self, rng, n: itertools.count()},
        "gave more than 6 tasks where 6 were asked for",
    ),
    "values too few": (
        {"sample_tasks": lambda self, rng, n: {1: 2}.values()},
        "gave 1 tasks where 6 were asked for",
    ),
    "a table": ({"sample_tasks": lambda self, rng, n: Frame()}, "where 6 tasks were asked"),
    "an index from 1": (
        {"sample_tasks": lambda self, rng, n: Headless()},
        r"raised KeyError \(0\) in sample_tasks",
    ),
    "a generator that raises": (
        {"sample_tasks": lambda self, rng, n: (1 / 0 for _ in range(n))},
        "raised ZeroDivisionError .* in sample_tasks",
    ),
    "no actions": (
        {"action_space": Box(-1.0, 1.0, (0,))},
        r"Bent has actions Box.*\(0,\).*; .*at least one number",
    ),
    "no observations": (
        {"observation_space": Box(-1.0, 1.0, (0,))},
        r"Bent has observations Box.*; .*at least one number",
    ),
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
    with pytest.raises(ValueError, match=message) as raised, warnings.catch_warnings():
        warnings.simplefilter("error")
        roll(kind(**methods))
    assert "\n" not in str(raised.value) and ";" in str(raised.value)
    assert "Bent" in str(raised.value)


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
        (kind(observation_space=None), "has observations None; .*let it be a Box"),
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
        (
            {"step": lambda a: (np.zeros((6, 1)), np.full(6, 1e300), *Many().step(a)[2:])},
            r"Many returned the reward 1e\+300 that is beyond .* of every episode with task array",
        ),
        (
            {"step": lambda a: (np.full((6, 1), 1e300), *Many().step(a)[1:])},
            "Many returned an observation that is not finite in step 1 of every episode with task",
        ),
        ({"reset": lambda **k: (np.full((6, 1), 1e300), {})}, "not finite"),
        ({"single_action_space": Box(-1.0, 1.0, (0,))}, "Many has actions .*at least one number"),
        ({"sample_tasks": lambda rng, n: itertools.count()}, "gave more than 6 tasks where 6"),
        ({"set_tasks": lambda tasks: speechless(None)}, "raised Speechless in set_tasks"),
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


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("form", ["an array", "a dictionary"])
def test_what_set_tasks_does_to_its_tasks_is_its_own_affair(form, resample):
    make, change = CHANGES[form]
    seen = []

    def sample_tasks(rng, n):
        made = [make(i) for i in range(n)]
        return np.stack(made) if form == "an array" else made

    def set_tasks(tasks):
        for task in tasks:
            seen.append(repr(task))
            change(task)

    sampler = Sampler(
        Many(sample_tasks=sample_tasks, set_tasks=set_tasks),
        tasks=2,
        episodes=3,
        horizon=2,
        resample=resample,
    )
    tasks = sampler.sample_tasks(0)
    for _ in range(2):
        sampler.sample(Noise(2, 1), tasks, 0)
    each = [make(i) for i in (range(6) if resample else (0, 0, 0, 1, 1, 1))]
    assert seen == 2 * [repr(task) for task in each]
