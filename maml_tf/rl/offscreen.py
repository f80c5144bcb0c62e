"""MuJoCo's own renderer, in a process of its own.

OpenGL in software (Mesa) and TensorFlow bring an LLVM each, and a process with both crashes; so
this file's own text is run by a second Python, which imports neither TensorFlow nor this package. A
back end that fails, or takes its process down, is then only one that does not work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np

BACK_ENDS = ("egl", "osmesa", "glfw")
"""Values of MUJOCO_GL, in the order in which they are tried; the last one needs a display."""

_VARIABLE = "MUJOCO_GL"
_NOTHING = "<mujoco><worldbody><body name='torso'/></worldbody></mujoco>"


class View(NamedTuple):
    """What a picture shows."""

    height: int = 300  # pixels
    width: int = 400
    follow: str = "torso"  # the body in the middle
    distance: float = 4.0  # m, of the camera
    elevation: float = -15.0  # degrees, of the direction in which it looks


def frames(
    model: mujoco.MjModel,
    positions: np.ndarray,
    view: View,
    *,
    back_end: str,
    goal: np.ndarray | None = None,
) -> np.ndarray:
    """Draws a robot.

    Args:
      model: the robot.
      positions: `[n, Q]`, one per frame.
      view: size and camera.
      back_end: one of `BACK_ENDS`, such as `working_back_end` finds.
      goal: a place `[2]` on the floor to be marked.

    Returns:
      `[n, height, width, 3]` uint8.

    Raises:
      OSError: the back end does not work; the last line of its complaint.
    """
    with tempfile.TemporaryDirectory() as folder:
        mujoco.mj_saveModel(model, f"{folder}/model.mjb")
        places = np.zeros((0, 2)) if goal is None else np.asarray(goal, float)[None]
        np.savez(f"{folder}/in.npz", positions=positions, view=np.array(view[:2]), places=places)
        words = [view.follow, str(view.distance), str(view.elevation)]
        done = subprocess.run(
            [sys.executable, "-c", Path(__file__).read_text(encoding="utf-8"), *words],
            cwd=folder,
            env={**os.environ, _VARIABLE: back_end},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise OSError(said[-1] if done.returncode > 0 else f"signal {-done.returncode}")
        return np.load(f"{folder}/out.npy")


def working_back_end() -> str:
    """Finds a back end that draws: that of MUJOCO_GL if it is set, else the first that does.

    Raises:
      OSError: none works, and what to install.
    """
    asked = os.environ.get(_VARIABLE, "").lower()
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body name='torso'/></worldbody></mujoco>"
    )
    faults = []
    for back_end in (asked,) if asked else BACK_ENDS:
        try:
            frames(model, np.zeros((1, 0)), View(16, 16), back_end=back_end)
            return back_end
        except OSError as error:
            faults.append(f"{back_end}: {error}")
    raise OSError(
        f"MuJoCo cannot draw here ({'; '.join(faults)}); install OpenGL, such as by "
        "`apt-get install libegl1 libgl1-mesa-dri` or `apt-get install libosmesa6`, and leave "
        "MUJOCO_GL unset or name what works."
    )


def _draw(follow: str, distance: str, elevation: str) -> None:
    """What the second process does, in the folder with the files."""
    model, given = mujoco.MjModel.from_binary_path("model.mjb"), np.load("in.npz")
    height, width = map(int, given["view"])
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
    camera.trackbodyid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, follow)
    camera.distance, camera.elevation, camera.azimuth = float(distance), float(elevation), 90.0
    pictures = np.zeros((len(given["positions"]), height, width, 3), np.uint8)
    with mujoco.Renderer(model, height, width) as renderer:
        for picture, positions in zip(pictures, given["positions"], strict=True):
            data.qpos[:] = positions
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            for place in given["places"]:
                _mark(renderer.scene, place)
            picture[:] = renderer.render()
    np.save("out.npy", pictures)


def _mark(scene: mujoco.MjvScene, place: np.ndarray) -> None:
    """Puts a ball on the floor."""
    mujoco.mjv_initGeom(
        scene.geoms[scene.ngeom],
        mujoco.mjtGeom.mjGEOM_SPHERE,
        np.full(3, 0.2),
        np.array([*place, 0.2]),
        np.eye(3).ravel(),
        np.array([0.84, 0.37, 0.0, 1.0]),
    )
    scene.ngeom += 1


if __name__ == "__main__":
    _draw(*sys.argv[1:])
