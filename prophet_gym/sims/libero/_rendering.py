"""Draw a MuJoCo scene off screen: one sample a pixel, visual geometry alone."""

# MuJoCo is a compiled module without stubs.
# pyright: reportAttributeAccessIssue=false

import atexit
import functools
import os
import weakref
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8

from prophet_gym.errors import MissingAssetsError, SimulatorLostError
from prophet_gym.sims.libero._install import LIBRARIES, RENDERER_ADVICE, choose_renderer, load_renderer

# Contexts that a fork inherits are kept for ever: freeing one would ask a driver whose threads are gone.
_INHERITED: list[Any] = []


def _open_gl_context(width: int, height: int) -> Any:
    """Open an OpenGL context of the chosen backend, whatever MuJoCo settled on when it was first imported."""
    _require_own()
    module: Any = load_renderer()
    try:
        return module.GLContext(width, height)
    except Exception as error:
        raise MissingAssetsError(
            f"MUJOCO_GL={choose_renderer()} finds nothing to draw with ({type(error).__name__}: {error}): install a "
            f"driver, for example {' or '.join(RENDERER_ADVICE.values())}, or set MUJOCO_GL to one of "
            f"{', '.join(LIBRARIES)}"
        ) from error


@functools.cache
def _opener() -> int:
    """Return the process that opened the first context; forks inherit the number."""
    return os.getpid()


def _require_own() -> None:
    """Raise SimulatorLostError in a fork: the driver's threads are not in it, and drawing would never end."""
    if _opener() != os.getpid():
        raise SimulatorLostError(
            f"this process was forked from process {_opener()}, which had drawn LIBERO, and OpenGL does not survive a "
            'fork: start it with context="spawn", as in AsyncVectorEnv(..., context="spawn"), or fork before the first '
            "reset"
        )


@functools.cache
def _open_renderers() -> "weakref.WeakSet[Renderer]":
    """Return what is still open; it is closed when the interpreter ends, before the OpenGL library goes."""
    images: weakref.WeakSet[Renderer] = weakref.WeakSet()
    atexit.register(lambda: [each.close() for each in list(images)])
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _INHERITED.extend([each.__dict__.copy() for each in list(images)]))
    return images


class Renderer:
    """Render images of a model, with the meshes and textures of `drawn`, which may be a cheaper copy of it.

    `camera` is the one that `draw` takes where it is given none.
    """

    def __init__(self, model: mujoco.MjModel, drawn: mujoco.MjModel, *, camera: str, size: int) -> None:
        self._model, self._size = model, size
        self._gl: Any = _open_gl_context(size, size)
        self._gl.make_current()
        drawn.vis.quality.offsamples = 1
        drawn.vis.global_.offwidth = drawn.vis.global_.offheight = size
        self._context = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        _open_renderers().add(self)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        # A mirror draws the scene a second time.
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION.value] = drawn.mat_reflectance.any()
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._options = mujoco.MjvOption()
        # robosuite keeps collision geometry in group 0 and what the eye should see in group 1.
        self._options.geomgroup[0] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._name = camera

    def draw(self, data: mujoco.MjData, camera: str | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """Draw this moment, upright, RGB, a fresh array."""
        _require_own()
        self._camera.fixedcamid = self._model.camera(camera or self._name).id
        self._gl.make_current()
        mujoco.mjv_updateScene(
            self._model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        mujoco.mjr_render(self._rect, self._scene, self._context)
        pixels = np.empty((self._size, self._size, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._rect, self._context)
        return np.ascontiguousarray(pixels[::-1])

    def close(self) -> None:
        """Free the OpenGL context, unless it belongs to the process that this one was forked from."""
        if self._gl is not None and _opener() == os.getpid():
            self._gl.make_current()
            self._context.free()
            self._gl.free()
        self._gl = None
