"""One LIBERO task in MuJoCo: the simulator that a dream imitates; a frame is drawn only when it is asked for."""

# MuJoCo is a compiled module without stubs.
# pyright: reportAttributeAccessIssue=false

import contextlib
import functools
import io
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, cast

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike

from prophet_gym.embodiments._kinematics import axis_angle, camera_matrix
from prophet_gym.embodiments._libero import ACTION_SPEC, EMBODIMENT
from prophet_gym.errors import InvalidActionError
from prophet_gym.sims.libero._experts import EXPLORATION, MIXTURE, MODES, SCRIPT_VERSION, Mode, script
from prophet_gym.sims.libero._install import find_assets, prepare_libero, require_packages
from prophet_gym.sims.libero._looks import LOOK_VERSIONS, assets_for, drawn_model
from prophet_gym.sims.libero.planned._plans import PLANNED_VERSION, planned_script
from prophet_gym.sims.libero.planned._scene import Scene
from prophet_gym.sims.simulator import check_task

_CAMERA = "agentview"
_WRIST = "robot0_eye_in_hand"
# LIBERO's evaluation protocol lets objects settle under ten no-op steps with the gripper open.
_WAIT_STEPS = 10
# Standard deviation of the arm's joints at a random start, radians: robosuite's default, and what LIBERO's official
# states show.
_ARM_NOISE = 0.02
_WAIT_ACTION = np.asarray(EMBODIMENT.rest_action, dtype=np.float64)


class LiberoSimulator:
    """Simulate one task of one suite: physics at 20 Hz, frames of two cameras on demand, the suite's success predicate.

    Example:
        >>> sim = LiberoSimulator("libero_object", 3)
        >>> sim.reset(seed=0)
        >>> sim.step(np.array([0, 0, -1, 0, 0, 0, -1.0]))
        >>> sim.render().shape
        (128, 128, 3)
    """

    robot = EMBODIMENT.name
    looks = tuple(LOOK_VERSIONS)
    splits = ("train", "official")
    tasks = 10
    official_states = 50
    modes = MODES

    def __init__(self, suite: str, task: int, *, look: str = "light", size: int = 128) -> None:
        check_task(suite, task, look)
        self.require(look)
        from libero.libero.envs.env_wrapper import ControlEnv

        # Its settings were loaded before the package, which does not know them as its attribute then.
        sys.modules["robosuite"].macros = sys.modules["robosuite.macros"]  # pyright: ignore
        self.suite, self.task, self.look, self.size = suite, task, look, size
        # What LIBERO prints while it loads would break progress bars.
        with contextlib.redirect_stdout(io.StringIO()):
            self._benchmark = self._find_benchmark(suite)
            self._env: Any = ControlEnv(
                bddl_file_name=self._benchmark.get_task_bddl_file_path(task),
                has_offscreen_renderer=False,
                use_camera_obs=False,
                ignore_done=True,
                hard_reset=False,
                initialization_noise={"type": "gaussian", "magnitude": _ARM_NOISE},
            )
        self.instruction: str = self._benchmark.get_task(task).language
        self._renderer: Any = None

    @classmethod
    def require(cls, look: str) -> None:
        """Prepare to run in this process; MissingAssetsError says what to install where it cannot."""
        # Before the assets: without the packages nothing else matters.
        require_packages()
        prepare_libero(assets_for(look, find_assets()))

    @classmethod
    def provenance(cls, suite: str, look: str) -> dict[str, Any]:
        """Return what a recording's meta.json says of its making."""
        require_packages()
        return {
            "look_version": LOOK_VERSIONS[look],
            "script_version": SCRIPT_VERSION if suite == "libero_object" else PLANNED_VERSION,
            "versions": {name: version(name) for name in ("mujoco", "robosuite", "hf-libero")},
        }

    @classmethod
    def mixture(cls, suite: str) -> dict[str, float]:
        """Return which of its scripts act in a recording of the suite, and how often."""
        del suite
        return {**MIXTURE}

    def script(self, rng: np.random.Generator, mode: str) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
        """Return the actions of a script, see `_experts.script`; outside libero_object plan from the task's goal."""
        # To explore needs no goal, and `script` names the modes where it does not know one.
        if self.suite == "libero_object" or mode in EXPLORATION or mode not in MODES:
            return script(self, rng, cast("Mode", mode))
        return planned_script(Scene(self), rng, cast("Mode", mode))

    @classmethod
    def _find_benchmark(cls, suite: str) -> Any:
        """Return what lists a suite's tasks: their files, words and official states."""
        from libero.libero import benchmark

        return benchmark.get_benchmark(suite)()

    @property
    def model(self) -> Any:
        """Return the compiled `mujoco.MjModel` that physics runs on."""
        return self._env.sim.model._model

    @property
    def data(self) -> Any:
        """Return the `mujoco.MjData` that physics runs on."""
        return self._env.sim.data._data

    @property
    def target_name(self) -> str:
        """Return the task's first object of interest: the one to be moved in pick-and-place tasks."""
        return self._env.obj_of_interest[0]

    def reset(self, *, seed: int | None = None, official: int | None = None) -> None:
        """Start an episode: a random placement drawn from `seed`, or the official initial state of index `official`.

        Random placements shake the arm's joints. Official states hold their own joints, and the controller keeps the
        unshaken posture as its reference, as under LIBERO's own evaluation. The wait steps of LIBERO's protocol are
        run, so that objects lie still and the gripper is open.
        """
        if seed is not None and official is not None:
            raise ValueError(f"give seed or official, not both; got seed={seed} and official={official}")
        if official is not None and not 0 <= official < self.official_states:
            raise ValueError(f"official must be in 0..{self.official_states - 1}, got {official}")
        self._env.robots[0].initialization_noise["magnitude"] = _ARM_NOISE if official is None else 0.0
        # Fixtures are placed at reset and are no part of an official state: one fixed seed places them.
        # LIBERO draws from numpy's global generator, which is the caller's.
        self._unplace_fixtures()
        before = np.random.get_state()
        np.random.seed(0 if official is not None else seed)
        try:
            self._env.reset()
        finally:
            np.random.set_state(before)
        # robosuite keeps the finger action of the last episode.
        self._env.robots[0].gripper.current_action = np.zeros(2)
        if official is not None:
            self._env.sim.set_state_from_flattened(self._official_starts[official])
            self._env.sim.forward()
            self._env._post_process()
        for _ in range(_WAIT_STEPS):
            self.step(_WAIT_ACTION)

    @functools.cached_property
    def _official_starts(self) -> Float[np.ndarray, "n s"]:
        """Return the initial states that LIBERO evaluates this task from, before the wait steps."""
        return np.asarray(self._benchmark.get_task_init_states(self.task), dtype=np.float64)

    def starts_officially(self) -> bool:
        """Tell whether every object lies within a millimetre (on the floor plane) of one official initial state."""
        free = [address for address, kind in zip(self.model.jnt_qposadr, self.model.jnt_type, strict=True) if kind == 0]
        plane = np.array([[address, address + 1] for address in free]).ravel()
        # A LIBERO state is time, qpos, qvel.
        official = self._official_starts[:, 1:][:, plane]
        return bool((np.abs(official - self.data.qpos[plane]).max(axis=1) < 1e-3).any())

    def step(self, action: ArrayLike) -> None:
        """Run one control step of 1/20 s.

        Bit for bit what LIBERO's own `step` does at half its cost: observations nobody reads are not computed, and each
        of the 25 physics steps evaluates positions and velocities once (before the controller) and forces once (after).
        """
        import mujoco

        try:
            command = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError):
            command = np.empty(0)
        # robosuite would let NaN through to the joints.
        if command.shape != (ACTION_SPEC.dim,) or not np.isfinite(command).all():
            raise InvalidActionError(
                f"an action must be {ACTION_SPEC.dim} finite numbers, got {np.asarray(action).tolist()}"
            )
        command = np.clip(command, -1.0, 1.0)
        domain, model, data = self._env.env, self.model, self.data
        controller = domain.robots[0].controller
        # The controller asks for a full forward pass each time it looks at the arm.
        domain.sim.forward = lambda: mujoco.mj_step1(model, data)
        try:
            for substep in range(round(domain.control_timestep / domain.model_timestep)):
                if not controller.new_update:
                    mujoco.mj_step1(model, data)
                domain._pre_action(command, substep == 0)
                mujoco.mj_step2(model, data)
        finally:
            del domain.sim.forward
        domain._post_process()

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """Draw agentview at this moment, upright, RGB, a fresh array."""
        return self._draw(_CAMERA)

    def render_wrist(self) -> UInt8[np.ndarray, "h w 3"]:
        """Draw what the camera at the hand (`robot0_eye_in_hand`) sees, as `render` does.

        The fingers are at the bottom. LIBERO gives both cameras upside down, and policies turn both by 180 degrees,
        which is an upright image, mirrored.
        """
        return self._draw(_WRIST)

    def _draw(self, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        if self._renderer is None:
            from prophet_gym.sims.libero._rendering import Renderer

            self._renderer = Renderer(self.model, drawn_model(self.look, self.model), camera=_CAMERA, size=self.size)
        return self._renderer.draw(self.data, camera)

    def success(self) -> bool:
        """Tell whether the task's goal predicate holds now."""
        return bool(self._env.check_success())

    def gripper_position(self) -> Float[np.ndarray, " 3"]:
        """Return the world position of the grip site, metres."""
        return self.data.site_xpos[self._env.robots[0].eef_site_id].copy()

    def gripper_quaternion(self) -> Float[np.ndarray, " 4"]:
        """Return the world orientation of the hand as robosuite reports it (`robot0_eef_quat`), xyzw."""
        robot = self._env.robots[0]
        w, x, y, z = self.data.xquat[self._env.sim.model.body_name2id(robot.robot_model.eef_name)]
        return np.array([x, y, z, w])

    def gripper_opening(self) -> float:
        """Return the distance between the two finger joints, metres: about 0.08 open, 0 closed on nothing."""
        left, right = self._finger_joints()
        return float(left - right)

    def robot_state(self) -> Float[np.ndarray, " 8"]:
        """Return position, orientation as an axis-angle vector, and both finger joints: what LIBERO's policies read.

        They are `robot0_eef_pos`, `quat2axisangle(robot0_eef_quat)` and `robot0_gripper_qpos` of robosuite, in the
        order of openpi (examples/libero/main.py), OpenVLA-OFT and LeRobot.
        """
        turn = axis_angle(self.gripper_quaternion()[None])[0]
        return np.concatenate([self.gripper_position(), turn, self._finger_joints()])

    def _finger_joints(self) -> Float[np.ndarray, " 2"]:
        return self.data.qpos[self._env.robots[0]._ref_gripper_joint_pos_indexes]

    def object_positions(self) -> dict[str, Float[np.ndarray, " 3"]]:
        """Return the world positions of the movable objects, metres, by name."""
        domain = self._env.env
        return {name: self.data.xpos[domain.obj_body_id[name]].copy() for name in domain.objects_dict}

    def camera_matrix(self) -> Float[np.ndarray, "3 4"]:
        """Return what maps a world point (x, y, z, 1) in metres to (u z, v z, z).

        u runs left to right and v top to bottom, both 0..1 inside the image; z is depth in metres.
        """
        camera = self.model.camera(_CAMERA).id
        focal = 0.5 / np.tan(np.deg2rad(self.model.cam_fovy[camera]) / 2)
        pose = np.eye(4)
        # MuJoCo cameras look along -z with y up; image coordinates have z forward and v down.
        pose[:3, :3] = self.data.cam_xmat[camera].reshape(3, 3) * [1.0, -1.0, -1.0]
        pose[:3, 3] = self.data.cam_xpos[camera]
        return camera_matrix(np.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1.0]]), pose, (1, 1))

    def get_state(self) -> Float[np.ndarray, " s"]:
        """Return everything the next step depends on, as one float64 vector that `set_state` takes back."""
        return np.concatenate([part.ravel() for part in self._state_parts()])

    def set_state(self, state: Float[np.ndarray, " s"]) -> None:
        """Continue from a state of `get_state` of the same task, exactly."""
        import mujoco

        sizes = [part.size for part in self._state_parts()]
        state = np.asarray(state, dtype=np.float64)
        if state.shape != (sum(sizes),):
            raise ValueError(
                f"a state of {self.suite} task {self.task} has shape ({sum(sizes)},), got {state.shape}; "
                "states fit the task they were taken from"
            )
        physics, places, turns, position, orientation, posture, fingers = np.split(state, np.cumsum(sizes)[:-1])
        fixtures, robot = self._fixture_bodies(), self._env.robots[0]
        self.model.body_pos[fixtures] = places.reshape(-1, 3)
        self.model.body_quat[fixtures] = turns.reshape(-1, 4)
        mujoco.mj_setState(self.model, self.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._env.sim.forward()
        # A forward pass overwrites the solver's warm start, which the next step begins from.
        mujoco.mj_setState(self.model, self.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        robot.controller.new_update = True
        robot.controller.goal_pos, robot.controller.goal_ori = position.copy(), orientation.reshape(3, 3).copy()
        robot.controller.initial_joint = posture.copy()
        robot.gripper.current_action = fingers.copy()
        self._env._post_process()

    def close(self) -> None:
        """Free the renderer and the simulation; calling it twice is fine."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self._env is not None:
            self._env.close()
            self._env = None

    def _unplace_fixtures(self) -> None:
        """Put fixtures back to where the model was compiled, as LIBERO does by compiling it before every reset.

        It adds the place of a region then to the fixture's new place: from anywhere else, a bowl on a stove starts a
        metre over it.
        """
        for name, fixture in self._env.env.fixtures_dict.items():
            body, root = self._env.env.obj_body_id[name], fixture.get_obj()
            self.model.body_pos[body] = np.array((root.get("pos") or "0 0 0").split(), dtype=np.float64)
            self.model.body_quat[body] = np.array((root.get("quat") or "1 0 0 0").split(), dtype=np.float64)

    def _fixture_bodies(self) -> list[int]:
        domain = self._env.env
        return [domain.obj_body_id[name] for name in domain.fixtures_dict]

    def _state_parts(self) -> list[np.ndarray]:
        """Return what `get_state` joins: physics, fixtures, the controller's goal and posture, the fingers."""
        import mujoco

        kind, fixtures = mujoco.mjtState.mjSTATE_INTEGRATION, self._fixture_bodies()
        physics = np.empty(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, self.data, physics, kind)
        controller, gripper = self._env.robots[0].controller, self._env.robots[0].gripper
        # The null space of the controller is drawn to its initial joints: where the episode's reset left the arm.
        held = (controller.goal_pos, controller.goal_ori, controller.initial_joint, gripper.current_action)
        return [physics, self.model.body_pos[fixtures], self.model.body_quat[fixtures], *map(np.asarray, held)]
