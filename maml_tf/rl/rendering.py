"""One task before and after adaptation, as a moving picture.

Robots are drawn by MuJoCo, 2D navigation by matplotlib. What is shown are episodes that an
evaluation meets, and with its very numbers: the first one of the task before any gradient step, and
the first one after all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from maml_tf.rl.envs.point import Navigation2D
from maml_tf.rl.meta_policy import MetaPolicy
from maml_tf.rl.recording import Episode, record
from maml_tf.rl.sampler import Sampler
from maml_tf.system.files import replacing_file

_HEADER = 44  # pixels above the pictures: two lines of text
_GAP = 8  # pixels between them
_REST = 1.5  # seconds on the last picture
_SIZE = 360, 270  # pixels of a robot's picture
_COLOURS = "#E69F00", "#0072B2"  # before and after, as in the figures


def render(
    learner: MetaPolicy,
    sampler: Sampler,
    path: str | os.PathLike[str],
    *,
    step_sizes: Sequence[float | None],
    task: int = 0,
    split: str = "test",
    fps: int = 25,
    title: str = "",
) -> list[Episode]:
    """Writes a GIF or an MP4: the task before adaptation on the left, after it on the right.

    It runs in real time.

    Args:
      learner: whose weights are adapted; they stay as they are.
      sampler: of this package's environments, as for an evaluation.
      path: the file, `*.gif`, or `*.mp4` with the extra `video`; its directory is created.
      step_sizes: alpha of each gradient step; None: the learner's own.
      task: number of the task that is shown, among those of an evaluation.
      split: "val" or "test".
      fps: pictures per second.
      title: above the pictures, before the task.

    Returns:
      The two episodes.

    Raises:
      ValueError: an argument is out of range, the environment is not one of this package's, or
        the extra is missing.
      OSError: MuJoCo has no OpenGL to draw with, or nothing can be written there.
    """
    path = Path(path)
    _check(sampler, path, task, fps)
    env: Any = sampler.env
    plane = isinstance(env, Navigation2D)
    back_end = "" if plane else _offscreen().working_back_end()
    goal, episodes = record(learner, sampler, task, step_sizes, split)
    shown = [_in_real_time(e.positions, env.step_seconds, fps) for e in episodes]
    if plane:
        panels = _on_the_plane(shown, goal)
    else:
        panels = [_robot(env, positions, goal, back_end) for positions in shown]
    steps = len(step_sizes)
    when = "before adaptation", f"after {steps} gradient step{'s' * (steps != 1)}"
    texts = [f"{w}: return {e.reward:.1f}" for w, e in zip(when, episodes, strict=True)]
    headline = ", ".join(filter(None, [title, env.describe(goal)]))
    _write(path, _compose(panels, texts, headline), fps)
    return episodes


def _check(sampler: Sampler, path: Path, task: int, fps: int) -> None:
    env: Any = sampler.env
    if not (isinstance(env, Navigation2D) or hasattr(env, "camera")):
        name = getattr(env, "name", type(env).__name__)
        raise ValueError(
            f"{name} cannot be drawn; render draws 2D navigation, the cheetah and the ant."
        )
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise ValueError(f"'{path}' is neither GIF nor MP4; name a file that ends in .gif or .mp4.")
    if path.suffix.lower() == ".mp4":
        _film_maker()
    if task < 0 or not 1 <= fps <= 50:
        raise ValueError(f"A task is 0 or more, and fps from 1 to 50; not {task} and {fps}.")


def _in_real_time(positions: np.ndarray, seconds: float, fps: int) -> np.ndarray:
    """The positions at each frame's time."""
    times = np.arange(0.0, (len(positions) - 1) * seconds + 1e-9, 1.0 / fps)
    return positions[np.round(times / seconds).astype(int)]


# --- pictures ---


def _offscreen():
    from maml_tf.rl import offscreen  # needs MuJoCo

    return offscreen


def _robot(env: Any, positions: np.ndarray, task: np.ndarray, back_end: str) -> np.ndarray:
    view = env.view(_SIZE[1], _SIZE[0])
    goal = env.goal(task)
    return _offscreen().frames(env.model, positions, view, back_end=back_end, goal=goal)


def _on_the_plane(shown: Sequence[np.ndarray], goal: np.ndarray) -> list[np.ndarray]:
    """Pictures `[n, height, width, 3]` of each episode: the path so far, in one scale for all."""
    reach = 1.1 * max(0.5, *(float(np.abs(positions).max()) for positions in shown))
    return [
        _drawn_paths(positions, goal, reach, colour)
        for positions, colour in zip(shown, _COLOURS, strict=True)
    ]


def _drawn_paths(positions: np.ndarray, goal: np.ndarray, reach: float, colour: str) -> np.ndarray:
    figure = Figure(figsize=(3.4, 3.4), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
    axes.grid(alpha=0.3)
    axes.plot(0, 0, "o", color="black", markersize=4)
    axes.plot(*goal[:, None], "*", color="#D55E00", markersize=14)
    (path,) = axes.plot([], [], color=colour, linewidth=1.0)
    (point,) = axes.plot([], [], "o", color=colour, markersize=7, markeredgecolor="black")
    pictures = []
    for last in range(1, len(positions) + 1):
        path.set_data(*positions[:last].T)
        point.set_data(*positions[last - 1 : last].T)
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return np.stack(pictures)


def _compose(
    panels: Sequence[np.ndarray], texts: Sequence[str], headline: str
) -> list[Image.Image]:
    """Puts panels side by side under their texts; the shorter one waits on its last picture."""
    height, width = panels[0].shape[1:3]
    large, small = ImageFont.load_default(15), ImageFont.load_default(13)
    left = [(width + _GAP) * number for number in range(len(panels))]
    blank = Image.new("RGB", (left[-1] + width, height + _HEADER), "white")
    draw = ImageDraw.Draw(blank)
    draw.text((blank.width // 2, 2), headline, "black", large, anchor="ma")
    for start, text in zip(left, texts, strict=True):
        draw.text((start + width // 2, 24), text, "black", small, anchor="ma")
    composed = []
    for frame in range(max(map(len, panels))):
        picture = blank.copy()
        for start, panel in zip(left, panels, strict=True):
            one = Image.fromarray(panel[min(frame, len(panel) - 1)])
            picture.paste(one, (start, _HEADER))
        composed.append(picture)
    return composed


def _write(path: Path, pictures: Sequence[Image.Image], fps: int) -> None:
    """Writes the file whole or not at all; it rests on the last picture."""
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    with replacing_file(path) as place:
        write(place, pictures, fps)


def _film_maker():
    """What makes films, as Gymnasium's RecordVideo does."""
    try:
        from moviepy.video.io.ImageSequenceClip import ImageSequenceClip
    except ImportError as error:
        raise ValueError(
            "An MP4 needs moviepy: pip install 'maml-tf[video]', or name a file that ends in .gif."
        ) from error
    return ImageSequenceClip


def _write_mp4(place: Path, pictures: Sequence[Image.Image], fps: int) -> None:
    # H.264 takes an even number of pixels.
    width, height = pictures[0].size
    size = width + width % 2, height + height % 2
    frames = []
    for picture in [*pictures, *[pictures[-1]] * round(_REST * fps)]:
        even = Image.new("RGB", size, "white")
        even.paste(picture)
        frames.append(np.asarray(even))
    # Named by what it is: the file's own place has no such ending.
    film = place.with_name(f"{place.name}.mp4")
    try:
        _film_maker()(frames, fps=fps).write_videofile(str(film), audio=False, logger=None)
        os.replace(film, place)
    finally:
        film.unlink(missing_ok=True)


def _write_gif(place: Path, pictures: Sequence[Image.Image], fps: int) -> None:
    """In the colours of the middle picture."""
    how: Any = {"dither": Image.Dither.NONE}
    # Rare colours count as much as the floor's.
    palette = pictures[len(pictures) // 2].quantize(128, Image.Quantize.MAXCOVERAGE, **how)
    first, *rest = (picture.quantize(palette=palette, **how) for picture in pictures)
    durations = [round(1000 / fps)] * len(rest) + [round(1000 * _REST)]
    first.save(place, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0)
