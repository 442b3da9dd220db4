"""Pictures of MuJoCo simulations: finds an OpenGL backend that works here, and draws fast or nice.

MuJoCo fixes its backend when it is imported, to one that needs a display unless `MUJOCO_GL` was set before. Forethought
therefore makes the OpenGL context itself, from the backend that a short-lived child process has tried first: a driver
that crashes or hangs takes the child with it, never a training run.
"""

import atexit
import functools
import importlib
import os
import platform
import subprocess
import sys
import weakref
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from .spec import EnvError

_PROBE = """
import importlib, sys
context = importlib.import_module(f"mujoco.{sys.argv[1]}").GLContext(16, 16)
context.make_current()
import mujoco
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100).free()
context.free()
"""
_PROBE_TIMEOUT_S = 30.0
_DISABLED = ("disable", "disabled", "off", "false", "0")
_ENABLED = ("", "enable", "enabled", "on", "true", "1")

Preset = Literal["fast", "nice"]


class RenderingUnavailable(EnvError):  # noqa: N818  (what it says, not "UnavailableError")
    """No OpenGL backend works on this machine; planning and learning on state do not need one."""


def available() -> str | None:
    """Name of the OpenGL backend that pictures are made with, or None if none works.

    `MUJOCO_GL` decides if it is set. Otherwise the candidates (on Linux egl, osmesa, and glfw where there is a display)
    are tried in turn, each in a child process; the answer is kept for the life of this process.
    """
    return _first_working(_candidates(os.environ.get("MUJOCO_GL", "").lower().strip()))


def require() -> str:
    """The backend of `available`, made known to libraries that read `MUJOCO_GL` later (Gymnasium, dm_control).

    Call it before making an environment that others draw. The variable is only written if it is not set.

    Raises:
        RenderingUnavailable: no backend works; the message says what to install.
    """
    backend = available()
    if backend is None:
        setting = os.environ.get("MUJOCO_GL")
        raise RenderingUnavailable(
            "cannot draw: no OpenGL backend works here"
            + (f" (only {setting!r} was tried, because MUJOCO_GL is set to it)" if setting else "")
            + "; `apt-get install libegl1 libgl1-mesa-dri` gives egl, `apt-get install libosmesa6` gives osmesa; "
            'observation="state" needs neither'
        )
    os.environ.setdefault("MUJOCO_GL", backend)
    return backend


def _candidates(setting: str) -> tuple[str, ...]:
    if setting in _DISABLED:
        return ()
    if setting not in _ENABLED:
        return (setting,)
    match platform.system():
        case "Linux":
            display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
            return ("egl", "osmesa", "glfw") if display else ("egl", "osmesa")
        case "Darwin":
            return ("cgl", "glfw")
        case _:
            return ("glfw",)


@functools.cache
def _first_working(candidates: tuple[str, ...]) -> str | None:
    return next((name for name in candidates if _works(name)), None)


def _works(backend: str) -> bool:
    command = [sys.executable, "-c", _PROBE, backend]
    # Without the setting, importing mujoco cannot fail on a backend that is not the one being tried.
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class Renderer:
    """Draws one model at one size with one camera.

    `preset="fast"` leaves out antialiasing, shadows, reflections, sky and haze, which a software renderer spends almost
    all its time on; `"nice"` keeps them, for videos. Use and close it in the thread that made it.

    Args:
        model: what is drawn; it is not changed.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        camera: name or index of a camera of the model; -1 is the free camera, looking at the model's centre.
        preset: `fast` or `nice`.

    Raises:
        EnvError: size or camera do not exist.
        RenderingUnavailable: no OpenGL backend works here.
    """

    def __init__(
        self, model: mujoco.MjModel, height: int, width: int, *, camera: str | int = -1, preset: Preset = "fast"
    ) -> None:
        self._context: Any = None
        self._gl: Any = None
        self._at_exit = functools.partial(_close_if_alive, weakref.ref(self))
        for name, value in (("height", height), ("width", width)):
            if not 1 <= value <= 4096:
                raise EnvError(f"{name} must be between 1 and 4096 pixels, got {value}")
        if preset not in ("fast", "nice"):
            raise EnvError(f"preset must be 'fast' or 'nice', got {preset!r}")
        self._model = _sized(model, height, width, preset)
        self._camera = _camera(model, camera)
        self._options = mujoco.MjvOption()
        self._perturbation = mujoco.MjvPerturb()
        self._scene = mujoco.MjvScene(self._model, maxgeom=2000)
        if preset == "fast":
            for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE"):
                self._scene.flags[int(getattr(mujoco.mjtRndFlag, f"mjRND_{flag}"))] = 0
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        backend = require()
        try:
            self._gl = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
            self._gl.make_current()
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # drivers raise errors of every kind
            self.close()
            raise RenderingUnavailable(f"the OpenGL backend {backend!r} gave no context: {error}") from error
        # Registered after the backend's own handler and therefore run before it, while contexts can still be freed.
        atexit.register(self._at_exit)
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), self._context)

    def render(self, data: mujoco.MjData, *, ghost: mujoco.MjData | None = None) -> NDArray[np.uint8]:
        """Draw a state, uint8 `[height, width, 3]`, top row first.

        Args:
            data: a state whose kinematics have been computed.
            ghost: a second state of the same model, drawn translucent over the first.

        Raises:
            EnvError: the renderer is closed.
        """
        if self._context is None:
            raise EnvError("the renderer is closed")
        every = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(self._model, data, self._options, self._perturbation, self._camera, every, self._scene)
        if ghost is not None:
            self._add_ghost(ghost)
        self._gl.make_current()
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels[::-1].copy()

    def _add_ghost(self, ghost: mujoco.MjData) -> None:
        solid = self._scene.ngeom
        moving = int(mujoco.mjtCatBit.mjCAT_DYNAMIC)
        mujoco.mjv_addGeoms(self._model, ghost, self._options, self._perturbation, moving, self._scene)
        for geom in self._scene.geoms[solid : self._scene.ngeom]:
            # A green shade of its own colour: still recognisable, never mistaken for the real one.
            geom.rgba[:] = [0.5 * geom.rgba[0], 0.5 + 0.5 * geom.rgba[1], 0.5 * geom.rgba[2], 0.35 * geom.rgba[3]]
            geom.transparent = 1

    def close(self) -> None:
        """Free the OpenGL context; closing twice does no harm."""
        context, gl = self._context, self._gl
        self._context = self._gl = None
        if gl is not None:
            gl.make_current()
        if context is not None:
            context.free()
        if gl is not None:
            gl.free()
        atexit.unregister(self._at_exit)

    def __del__(self) -> None:
        self.close()


def _close_if_alive(reference: "weakref.ref[Renderer]") -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()


def _sized(model: mujoco.MjModel, height: int, width: int, preset: Preset) -> mujoco.MjModel:
    """A copy of `model` with the offscreen buffer and quality of the preset."""
    model = model.__copy__()
    model.vis.global_.offheight, model.vis.global_.offwidth = height, width
    if preset == "fast":
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
    return model


def _camera(model: mujoco.MjModel, camera: str | int) -> mujoco.MjvCamera:
    result = mujoco.MjvCamera()
    if camera == -1:
        mujoco.mjv_defaultFreeCamera(model, result)
        return result
    names = [model.camera(index).name for index in range(model.ncam)]
    if camera not in (names if isinstance(camera, str) else range(model.ncam)):
        raise EnvError(f"camera must be one of {names}, an index below {model.ncam}, or -1, got {camera!r}")
    result.type = int(mujoco.mjtCamera.mjCAMERA_FIXED)
    result.fixedcamid = names.index(camera) if isinstance(camera, str) else camera
    return result
