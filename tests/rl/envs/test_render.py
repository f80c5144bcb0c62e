"""Environments as pictures: render_mode="rgb_array", and Gymnasium's videos of them."""

import subprocess
import sys
import types
import warnings

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra rl")
pytest.importorskip("mujoco", reason="needs the extra rl")

import numpy as np
from alive import is_running
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordVideo

from maml_tf.rl import envs

IDS = {name: entry.id for name, entry in envs.ENVIRONMENTS.items()}
FPS = {"navigation_2d": 25, "cheetah_velocity": 100, "ant_goal": 50}
BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


@pytest.fixture(params=["navigation_2d", "cheetah_velocity", "ant_goal"])
def name(request):
    if request.param != "navigation_2d":
        request.getfixturevalue("back_end")
    return request.param


def make(name, **options):
    return gymnasium.make(IDS[name], render_mode="rgb_array", **options)


def count(picture, colour):
    """How many pixels have about this colour."""
    return int((np.abs(picture.astype(int) - colour).max(-1) < 40).sum())


def where(picture, colour):
    """The middle of the pixels of about this colour: x, and y upwards."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - colour).max(-1) < 40)
    return np.array([columns.mean(), -rows.mean()])


# --- pictures ---


@pytest.mark.cases(1)
def test_pictures_change_with_the_steps(name):
    env = make(name)
    env.reset(seed=0)
    assert env.metadata["render_fps"] == FPS[name] and env.render_mode == "rgb_array"
    shown = [env.render(), env.render()]
    for _ in range(3):
        env.step(np.full(env.action_space.shape, 0.9, np.float32))
    shown.append(env.render())
    for picture in shown:
        assert picture.shape == (360, 480, 3) and picture.dtype == np.uint8
        assert picture.std() > 5
    np.testing.assert_array_equal(shown[0], shown[1])
    assert (shown[0] != shown[2]).any()
    env.close()


def test_the_fps_are_those_of_the_dynamics():
    env = envs.make_single("cheetah_velocity", dynamics="gymnasium")
    assert env.metadata["render_fps"] == 20
    env.close()


def test_a_place_that_is_a_goal_is_marked(back_end):
    env = make("ant_goal")
    env.unwrapped.set_task([1.0, 0.0])
    env.reset(seed=0)
    first = env.render()
    env.unwrapped.set_task([3000.0, 0.0])
    gone = env.render()
    assert count(first, (200, 90, 10)) > 20 and count(gone, (200, 90, 10)) == 0
    env.close()


@pytest.mark.parametrize("scale", [1, 8])
def test_the_plane_shows_where_point_and_goal_are(scale):
    env = make("navigation_2d", max_episode_steps=1000)
    env.unwrapped.set_task([0.3 * scale, -0.2 * scale])
    env.reset(seed=0)
    for _ in range(4 * scale):
        env.step(np.array([-1.0, 0.5], np.float32))
    picture = env.render()
    goal, point = where(picture, VERMILION), where(picture, BLUE)
    middle = np.array([240, -180])
    np.testing.assert_allclose((goal - middle) / (goal - middle)[0], [1, -2 / 3], atol=0.03)
    # At (-0.4, 0.2), times the scale: in one scale with the goal.
    np.testing.assert_allclose((point - middle) / (goal - middle)[0] * 3, [-4, 2], atol=0.1)


def test_many_in_one_give_a_picture_each(name):
    many = gymnasium.make_vec(
        IDS[name], 2, vectorization_mode="vector_entry_point", render_mode="rgb_array"
    )
    many.reset(seed=0)
    many.step(np.stack([np.full(many.action_size, value) for value in (-0.9, 0.9)]))
    one, other = many.render()
    assert one.shape == (360, 480, 3) and (one != other).any()
    assert many.metadata["render_fps"] == FPS[name]
    many.close()


# --- Gymnasium ---


@pytest.mark.cases(1)
def test_gymnasium_s_checks_of_pictures_pass(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space m.*infinity")
        env = make(name)
        check_env(env.unwrapped)
        env.reset(seed=0)
        env.render()  # through Gymnasium's own checker
        env.close()


def record(env, folder):
    """Two episodes, of 4 and 3 steps."""
    video = RecordVideo(env, str(folder), episode_trigger=lambda episode: True)
    for steps in (4, 3):
        video.reset(seed=0)
        for _ in range(steps):
            video.step(video.action_space.sample())
    video.close()


@pytest.mark.slow
def test_a_video_is_handed_every_picture(name, tmp_path, monkeypatch):
    written = []

    class Clip:
        def __init__(self, frames, fps):
            self.frames, self.fps = np.stack(frames), fps

        def write_videofile(self, path, logger):
            written.append((path.rsplit("/", 1)[1], self.frames, self.fps))

    for module in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    clips = types.ModuleType("ImageSequenceClip")
    clips.ImageSequenceClip = Clip
    monkeypatch.setitem(sys.modules, "moviepy.video.io.ImageSequenceClip", clips)
    record(make(name), tmp_path / "videos")
    assert [path for path, *_ in written] == ["rl-video-episode-0.mp4", "rl-video-episode-1.mp4"]
    for (_, frames, fps), steps in zip(written, (4, 3), strict=True):
        assert frames.shape == (steps + 1, 360, 480, 3) and fps == FPS[name]
        assert (frames[0] != frames[-1]).any()


def test_a_video_is_a_file(name, tmp_path):
    pytest.importorskip("moviepy", reason="needs the extra video")
    record(make(name), tmp_path / "videos")
    for episode in range(2):
        data = (tmp_path / "videos" / f"rl-video-episode-{episode}.mp4").read_bytes()
        assert data[4:8] == b"ftyp" and len(data) > 1000


# --- the second process ---


def test_the_second_process_starts_with_the_first_picture_and_ends_with_the_environment(back_end):
    env = make("cheetah_velocity")
    env.reset(seed=0)
    vector = env.unwrapped._vector
    assert vector._drawer is None
    env.render()
    drawer = vector._drawer
    process = drawer._process
    env.render()
    assert vector._drawer is drawer and process.poll() is None
    env.close()
    assert process.poll() is not None and drawer.closed


def test_a_second_process_that_ends_is_one_sentence_and_another_takes_its_place(back_end):
    env = make("cheetah_velocity")
    env.reset(seed=0)
    first = env.render()
    env.unwrapped._vector._drawer._process.kill()
    with pytest.raises(OSError, match="^the process that draws ended by signal 9$"):
        env.render()
    np.testing.assert_array_equal(env.render(), first)
    env.close()


def test_nothing_is_left_of_a_program_that_closes_nothing(back_end):
    program = (
        "import gymnasium; from maml_tf.rl import envs\n"
        "env = gymnasium.make('maml_tf/AntGoal-v0', render_mode='rgb_array')\n"
        "env.reset(seed=0); print(env.render().mean() > 0)\n"
        "print(env.unwrapped._vector._drawer._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = done.stdout.split()
    assert said[0] == "True" and not done.stderr and done.returncode == 0, done.stderr
    assert not is_running(int(said[1]))


# --- what is refused ---


@pytest.mark.parametrize("mode", ["human", "ansi", 3])
def test_other_modes_are_refused(mode):
    with pytest.raises(ValueError, match=f"render_mode is {mode!r}; use 'rgb_array' or None"):
        envs.make_vector("cheetah_velocity", render_mode=mode)


def test_without_a_mode_nothing_is_drawn_and_a_warning_says_how():
    env = envs.make_single("cheetah_velocity")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match='render needs gymnasium.make.*render_mode="rgb_array"'):
        assert env.render() is None
    env.close()


def test_an_environment_without_pictures_has_no_mode():
    class Plain(envs.TaskVectorEnv):
        state_size = action_size = task_size = 1

    assert Plain(1).metadata["render_modes"] == []
    with pytest.raises(ValueError, match="render_mode is 'rgb_array'; use None"):
        Plain(1, render_mode="rgb_array")
