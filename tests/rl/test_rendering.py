import os
import sys

import numpy as np
import pytest

pytest.importorskip("mujoco")

from helpers import slow
from PIL import Image

from maml_tf.rl import envs, offscreen, rendering
from maml_tf.rl.meta_trpo import MetaTRPO
from maml_tf.rl.policy import GaussianPolicy
from maml_tf.rl.recording import record
from maml_tf.rl.rendering import render
from maml_tf.rl.sampler import Sampler

ORANGE, BLUE, VERMILION = (230, 159, 0), (0, 114, 178), (213, 94, 0)
ALPHAS = [0.5, 0.25]


def make(name="navigation_2d", **options):
    sampler = Sampler(name, **{"tasks": 3, "episodes": 2, "horizon": 12, **options})
    policy = GaussianPolicy(sampler.observation_size, sampler.action_size, (8,), seed=2)
    policy.log_std.assign(policy.log_std - 1.0)
    return MetaTRPO(policy, meta_batch_size=3, step_size=0.5), sampler


def near(picture, colour):
    """How many pixels have about this colour."""
    return int((np.abs(np.asarray(picture, int) - colour).max(-1) < 40).sum())


# --- episodes ---


@pytest.mark.parametrize("name", ["navigation_2d", "cheetah_velocity"])
def test_the_episodes_are_those_of_an_evaluation(name):
    learner, sampler = make(name)
    task, episodes = record(learner, sampler, 4, ALPHAS, "test")  # of the second batch
    np.testing.assert_array_equal(task, sampler.sample_tasks(1, "test")[1])
    rollouts = learner.roll_out_and_adapt(sampler, 1, ALPHAS, "test")
    for episode, batch in zip(episodes, (rollouts.batches[0], rollouts.batches[-1]), strict=True):
        seen, taken = batch.observations[1, :12].numpy(), int(batch.mask[1, :12].numpy().sum())
        assert len(episode.positions) == taken + 1
        where = episode.positions[:-1]
        # The cheetah does not observe how far it is.
        same = (where, 0) if name == "navigation_2d" else (where[:, 1:], slice(None, 8))
        shown = seen[:taken] if name == "navigation_2d" else seen[:taken, same[1]]
        np.testing.assert_allclose(same[0], shown, atol=1e-6)
    assert episodes[0].reward != episodes[1].reward


def test_the_return_is_that_of_the_episode_shown():
    learner, sampler = make(episodes=1)
    _, episodes = record(learner, sampler, 2, ALPHAS, "val")
    rollouts = learner.roll_out_and_adapt(sampler, 0, ALPHAS, "val")
    expected = rollouts.returns[2, [0, -1]]
    np.testing.assert_allclose([episode.reward for episode in episodes], expected, rtol=1e-5)
    goal = sampler.sample_tasks(0, "val")[2]
    for episode in episodes:  # the last place is the one after the last step
        distances = np.linalg.norm(episode.positions[1:] - goal, axis=1)
        assert -distances.sum() == pytest.approx(episode.reward, rel=1e-5)


def test_frames_keep_natural_speed():
    positions = np.arange(201.0)[:, None]  # 200 steps of 0.01 s
    shown = rendering._in_real_time(positions, 0.01, 25)[:, 0]
    np.testing.assert_array_equal(shown, np.arange(0, 201, 4))
    slow = rendering._in_real_time(positions, 0.04, 50)[:, 0]
    assert len(slow) == 401 and slow[-1] == 200


# --- pictures ---


def test_the_plane_shows_the_goal_and_the_way_so_far(tmp_path):
    learner, sampler = make()
    path = tmp_path / "new" / "it.gif"
    episodes = render(learner, sampler, path, step_sizes=ALPHAS, task=1, title="navigation")
    assert os.listdir(path.parent) == ["it.gif"]
    picture = Image.open(path)
    assert picture.n_frames == max(len(episode.positions) for episode in episodes)
    assert picture.info["duration"] == 40 and picture.info["loop"] == 0
    counts = []
    for frame in (0, picture.n_frames - 1):
        picture.seek(frame)
        whole = np.asarray(picture.convert("RGB"))
        half = whole.shape[1] // 2
        counts.append([near(whole[:, :half], ORANGE), near(whole[:, half:], BLUE)])
        assert near(whole[:, :half], VERMILION) > 40 and near(whole[:, half:], VERMILION) > 40
        assert near(whole[: rendering._HEADER], (0, 0, 0)) > 100  # text
        assert not near(whole[:, half:], ORANGE) > near(whole[:, :half], ORANGE)
    assert np.all(np.subtract(counts[1], counts[0]) > 20)  # the ways grew


@pytest.mark.parametrize("name", [slow("cheetah_direction"), "ant_goal"])
def test_robots_are_drawn_where_there_is_opengl(back_end, name, tmp_path):
    learner, sampler = make(name, horizon=9)
    episodes = render(learner, sampler, tmp_path / "it.gif", step_sizes=ALPHAS, fps=50)
    picture = Image.open(tmp_path / "it.gif")
    longest = max(len(episode.positions) for episode in episodes)
    seconds = (longest - 1) * sampler.env.step_seconds
    assert picture.n_frames == int(seconds * 50 + 1e-6) + 1
    body = np.asarray(picture.convert("RGB"))[rendering._HEADER :]
    assert body.std() > 20
    assert (near(body, (200, 90, 10)) > 20) == (name == "ant_goal")  # the ball at its goal


def test_a_robot_that_moves_looks_otherwise(back_end):
    env = envs.make_vector("cheetah_velocity", 1)
    env.reset(seed=0)
    positions = np.repeat(env.positions, 3, axis=0)
    positions[2, 3:] += 0.5
    view = offscreen.View(60, 80)
    first, again, moved = offscreen.frames(env.model, positions, view, back_end=back_end)
    assert first.shape == (60, 80, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != moved).any()
    env.close()


# --- what is refused ---


def test_a_back_end_that_does_not_exist_says_why():
    env = envs.make_vector("cheetah_velocity", 1)
    with pytest.raises(OSError, match="MUJOCO_GL: nonsense"):
        offscreen.frames(env.model, env.positions, offscreen.View(), back_end="nonsense")
    env.close()


def test_back_ends_are_tried_in_turn_and_all_faults_are_told(monkeypatch):
    tried, works = [], {"osmesa"}

    def frames(*_, back_end):
        tried.append(back_end)
        if back_end not in works:
            raise OSError(f"no {back_end} here")

    monkeypatch.setattr(offscreen, "frames", frames)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert offscreen.working_back_end() == "osmesa" and tried == ["egl", "osmesa"]
    works.clear()
    with pytest.raises(OSError, match="egl: no egl here; osmesa: .*apt-get install") as error:
        offscreen.working_back_end()
    assert "\n" not in str(error.value)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    tried.clear()
    with pytest.raises(OSError, match="no egl here"):
        offscreen.working_back_end()
    assert tried == ["egl"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("it.png", {}, "ends in .gif or .mp4"),
        ("it.gif", {"task": -1}, "A task is 0 or more"),
        ("it.gif", {"fps": 0}, "fps from 1 to 50"),
    ],
)
def test_impossible_pictures_are_refused(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        render(*make(), tmp_path / name, step_sizes=ALPHAS, **options)
    assert not any(tmp_path.iterdir())


def test_other_environments_are_refused(tmp_path):
    class Other(envs.TaskVectorEnv):
        state_size = action_size = task_size = 1

    env = Other(6)
    env.sample_tasks = lambda rng, n: np.zeros((n, 1))
    learner, sampler = make(env)
    with pytest.raises(ValueError, match="Other cannot be drawn"):
        render(learner, sampler, tmp_path / "it.gif", step_sizes=ALPHAS)


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("navigation_2d", [0.25, -0.1], "goal (0.25, -0.10)"),
        ("cheetah_velocity", [1.5], "goal velocity 1.50 m/s"),
        ("ant_direction", [-1.0], "direction -1"),
        ("ant_goal", [2, -1], "goal (2.00, -1.00) m"),
    ],
)
def test_tasks_are_said_in_words(name, task, words):
    env = envs.make_vector(name, 1)
    assert env.describe(np.array(task)) == words
    env.close()


def test_a_film_shows_what_the_gif_shows(tmp_path):
    pytest.importorskip("moviepy", reason="needs the extra video")
    from moviepy import VideoFileClip

    learner, sampler = make()
    for ending in ("gif", "mp4"):
        render(learner, sampler, tmp_path / f"it.{ending}", step_sizes=ALPHAS, fps=10)
    assert sorted(os.listdir(tmp_path)) == ["it.gif", "it.mp4"]
    first = np.asarray(Image.open(tmp_path / "it.gif").convert("RGB"), int)
    with VideoFileClip(str(tmp_path / "it.mp4")) as film:
        assert film.fps == 10 and film.duration > 1.5
        shown = np.asarray(film.get_frame(0), int)
    height, width = first.shape[:2]
    assert np.abs(shown[:height, :width] - first).mean() < 6  # the colours of H.264
    assert set(shown.shape[:2]) == {height + height % 2, width + width % 2}


def test_without_the_extra_a_film_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "moviepy.video.io.ImageSequenceClip", None)
    learner, sampler = make()
    with pytest.raises(ValueError, match=r"An MP4 needs moviepy: pip install 'maml-tf\[video\]'"):
        render(learner, sampler, tmp_path / "it.mp4", step_sizes=ALPHAS)
