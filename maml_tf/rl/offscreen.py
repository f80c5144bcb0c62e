"""MuJoCo's own renderer, in a process of its own.

OpenGL in software (Mesa) and TensorFlow bring an LLVM each, and a process with both crashes; so
this file's own text is run by a second Python, which imports neither TensorFlow nor this package. A
back end that fails, or takes its process down, is then only one that does not work.

Shape letters: n pictures, Q positions.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np

BACK_ENDS = ("egl", "osmesa", "glfw")
"""Values of MUJOCO_GL, in the order in which they are tried; the last one needs a display."""

_VARIABLE = "MUJOCO_GL"
_GRACE = 5.0
"""Seconds that the second process has to end."""
_NOTHING = "<mujoco><worldbody><body name='torso'/></worldbody></mujoco>"


class View(NamedTuple):
    """What a picture shows."""

    height: int = 300  # pixels
    width: int = 400
    follow: str = "torso"  # the body in the middle
    distance: float = 4.0  # m, of the camera
    elevation: float = -15.0  # degrees, of the direction in which it looks


class Drawer:
    """A second Python that draws one robot, picture after picture, until it is closed."""

    def __init__(self, model: mujoco.MjModel, view: View, *, back_end: str):
        """Starts it.

        Args:
          model: the robot.
          view: size and camera.
          back_end: one of `BACK_ENDS`, such as `working_back_end` finds.

        Raises:
          OSError: the back end does not work; the last line of its complaint.
        """
        self._shape = view.height, view.width, 3
        self._said = tempfile.TemporaryFile()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.mjb")
            mujoco.mj_saveModel(model, path)
            self._process = subprocess.Popen(
                [sys.executable, "-c", Path(__file__).read_text(encoding="utf-8"), path]
                + [str(word) for word in view],
                env={**os.environ, _VARIABLE: back_end},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
            )
            # Also at the end of the program, or when nobody holds this any more.
            self._end = weakref.finalize(self, _end, self._process)
            self._read(1)

    @property
    def closed(self) -> bool:
        """Whether it has ended, by `close` or by a fault."""
        return not self._end.alive

    def draw(self, positions: np.ndarray, goal: np.ndarray | None = None) -> np.ndarray:
        """Draws the robot.

        Args:
          positions: `[Q]`.
          goal: a place `[2]` on the floor to be marked.

        Returns:
          `[height, width, 3]` uint8.

        Raises:
          OSError: as above.
        """
        words = np.concatenate([positions, [np.nan] * 2 if goal is None else goal])
        try:
            with contextlib.suppress(BrokenPipeError):  # what ended is found out by reading
                self._process.stdin.write(words.astype(np.float64).tobytes())  # type: ignore
                self._process.stdin.flush()  # type: ignore[union-attr]  # of mypy: it is a pipe
            picture = self._read(math.prod(self._shape))
        except BaseException:
            self.close()  # half a picture may be on its way
            raise
        return np.frombuffer(picture, np.uint8).reshape(self._shape).copy()

    def _read(self, size: int) -> bytes:
        got = self._process.stdout.read(size)  # type: ignore[union-attr]  # of mypy: it is a pipe
        if len(got) == size:
            return got
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()
        self.close()
        if said and code >= 0:
            raise OSError(said[-1])
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        raise OSError(f"the process that draws ended {how}")

    def close(self) -> None:
        """Ends it."""
        self._end()
        self._said.close()


def _end(process: subprocess.Popen) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]  # which it takes for the end
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def frames(
    model: mujoco.MjModel,
    positions: np.ndarray,
    view: View,
    *,
    back_end: str,
    goal: np.ndarray | None = None,
) -> np.ndarray:
    """Draws a robot several times, `[n, height, width, 3]` uint8 of positions `[n, Q]`.

    The other arguments are `Drawer`'s, and so are the errors.
    """
    with contextlib.closing(Drawer(model, view, back_end=back_end)) as drawer:
        return np.stack([drawer.draw(each, goal) for each in positions])


def working_back_end() -> str:
    """Finds a back end that draws: that of MUJOCO_GL if it is set, else the first that does.

    Raises:
      OSError: none works, and what to install.
    """
    asked = os.environ.get(_VARIABLE, "").lower()
    model = mujoco.MjModel.from_xml_string(_NOTHING)
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


def _draw(path: str, height: str, width: str, follow: str, distance: str, elevation: str) -> None:
    """What the second process does until its input ends: positions and a place in, a picture out.

    Its first byte says that it is ready.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process' affair
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a driver prints is no picture
    model = mujoco.MjModel.from_binary_path(path)
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
    camera.trackbodyid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, follow)
    camera.distance, camera.elevation, camera.azimuth = float(distance), float(elevation), 90.0
    size = 8 * (model.nq + 2)
    with mujoco.Renderer(model, int(height), int(width)) as renderer:
        out.write(b"!")
        out.flush()
        while len(words := sys.stdin.buffer.read(size)) == size:
            numbers = np.frombuffer(words)
            data.qpos[:] = numbers[:-2]
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            if np.isfinite(numbers[-2:]).all():
                _mark(renderer.scene, numbers[-2:])
            out.write(renderer.render().tobytes())
            out.flush()


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
