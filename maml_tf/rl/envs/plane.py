"""A point on a plane and its goal, as a picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

_REACH = 0.6
"""How far the picture reaches from its middle to the nearer edge, at first."""
_COLOURS = {"goal": "#D55E00", "point": "#0072B2", "axis": "#BBBBBB", "start": "black"}
_RADII = {"goal": 9, "point": 7, "start": 3}  # pixels


def picture(position: np.ndarray, goal: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draws the point, the origin where it started, and the goal.

    The picture reaches twice as far, or four times, and so on, where one of them is beyond.

    Args:
      position: `[2]`.
      goal: `[2]`.
      size: height and width in pixels.

    Returns:
      `[height, width, 3]` uint8.
    """
    height, width = size
    farthest = max(float(np.abs([position, goal]).max()), 1e-9)
    reach = _REACH * 2.0 ** max(0, math.ceil(math.log2(farthest / _REACH)))
    scale = 0.5 * min(size) / (1.05 * reach)  # pixels per unit
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    middle = width / 2, height / 2
    draw.line((0, middle[1], width, middle[1]), _COLOURS["axis"])
    draw.line((middle[0], 0, middle[0], height), _COLOURS["axis"])
    for name, place in (("start", (0.0, 0.0)), ("goal", goal), ("point", position)):
        x, y = middle[0] + scale * place[0], middle[1] - scale * place[1]
        radius = _RADII[name]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), _COLOURS[name], "black")
    return np.array(image)
