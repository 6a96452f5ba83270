"""Record arms that lift a cube in robosuite's Lift, drawn by two calibrated cameras; one file for each episode.

    python -m experiments.other_arms.record --arm Panda --episodes 200 --out outputs/arms/recorded

An action is where the tool shall be in the world, x, y and z in metres, how far it is turned about the vertical in
radians, and whether the fingers close (1) or open (0), at 20 Hz: the same five numbers for every arm. Scripts try to
lift the cube again and again; one try in three misses it or lets go. Running it again goes on where it was stopped.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from prophet_gym._io.atomic import atomic_file
from prophet_gym.sims.libero._meshes import decimate, read_mesh, write_mesh

ARMS = ("Panda", "Sawyer", "UR5e")
CAMERAS = ("agentview", "frontview")
NAMES = ("x", "y", "z", "yaw", "gripper")
SIZE, FPS, STEPS = 64, 20, 168
DRAWN = 2 * SIZE
"""Images are drawn in this size, then averaged: that is quicker than several samples a pixel."""
FACES = 600
"""Faces of a mesh that is only drawn, at most."""
REACH = 0.018
"""Metres that the tool's target moves in a step."""
GRIPPERS = {"Panda": "PandaGripper", "Sawyer": "RethinkGripper", "UR5e": "RethinkGripper"}
"""Robosuite's Robotiq, UR5e's own, slips off the cube in MuJoCo 3."""
SPREAD = ((-0.12, 0.12), (-0.16, 0.16))
"""Where the cube begins about the middle of the table, x and y in metres."""


def make(arm: str) -> Any:
    """Return robosuite's Lift with an arm that goes where the tool is asked to be."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    from robosuite.controllers import load_controller_config
    from robosuite.environments.manipulation.lift import Lift
    from robosuite.utils.placement_samplers import UniformRandomSampler

    class Scene(Lift):
        """Lift as later releases of MuJoCo take it."""

        def _initialize_sim(self, xml_string: str | None = None) -> None:
            super()._initialize_sim(edited(xml_string or self.model.get_xml()))
            lighten(self.sim.model._model)

    controller = load_controller_config(default_controller="OSC_POSE") | {"control_delta": False}
    placed = UniformRandomSampler(
        "cube", None, *SPREAD, rotation=(0, np.pi / 2), z_offset=0.01, reference_pos=(0, 0, 0.8)
    )
    shown: dict[str, Any] = {
        "has_renderer": False,
        "has_offscreen_renderer": True,
        "use_camera_obs": True,
        "camera_names": [*CAMERAS],
    }
    sizes: dict[str, Any] = {"camera_heights": DRAWN, "camera_widths": DRAWN, "control_freq": FPS, "horizon": 10**6}
    return Scene(
        robots=arm,
        gripper_types=GRIPPERS[arm],
        controller_configs=controller,
        placement_initializer=placed,
        hard_reset=False,
        **shown,
        **sizes,
    )


def edited(xml: str) -> str:
    """Return a scene that MuJoCo 3 takes, with a nearer camera in front and quicker to draw."""
    root = ElementTree.fromstring(xml)
    for mesh in root.iter("mesh"):
        # Some meshes of Sawyer have no volume, which is refused unless they are shells.
        if mesh.get("name", "").startswith("robot0_"):
            mesh.set("inertia", "shell")
    for light in root.iter("light"):
        light.set("castshadow", "false")
    visual = root.find("visual")
    if visual is None:
        visual = ElementTree.SubElement(root, "visual")
    ElementTree.SubElement(visual, "quality", {"offsamples": "0"})
    for camera in root.iter("camera"):
        if camera.get("name") == "frontview":
            camera.set("fovy", "26")
    # The first link of UR5e and of Sawyer lies within the base, and would rub on it.
    contact = ElementTree.SubElement(root, "contact")
    for body in root.iter("body"):
        for child in body.findall("body"):
            pair = {"body1": body.get("name", ""), "body2": child.get("name", "")}
            if all(name.startswith("robot0_") for name in pair.values()):
                ElementTree.SubElement(contact, "exclude", pair)
    return ElementTree.tostring(root, encoding="unicode")


def lighten(model: Any) -> None:
    """Give meshes that are drawn and never touch anything few faces, before they are uploaded."""
    touching = set(model.geom_dataid[model.geom_contype + model.geom_conaffinity > 0])
    for index in set(range(model.nmesh)) - touching:
        if model.mesh_facenum[index] > FACES:
            write_mesh(model, index, decimate(read_mesh(model, index), FACES))


def script(cube: np.ndarray, yaw: float, home: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the actions of a try: over the cube, down, close, up, and put it back; one in three goes wrong."""
    fault = rng.choice(["", "", "", "", "miss", "drop"])
    away = rng.uniform(0, 2 * np.pi)
    wide, near = np.array([np.cos(away), np.sin(away), 0]), rng.normal(0, 0.003, 3) * [1, 1, 0]
    miss = 0.045 * wide if fault == "miss" else near
    over, grasp = cube + miss + [0, 0, rng.uniform(0.08, 0.12)], cube + miss + [0, 0, rng.normal(0, 0.002)]
    lifted = grasp + np.array([*rng.uniform(-0.06, 0.06, 2), rng.uniform(0.1, 0.18)])
    put = np.array([*lifted[:2], grasp[2] + 0.004])
    # Place, turn, fingers, and the steps that it waits there.
    stops = [
        (over, yaw, 0, 3), (grasp, yaw, 0, 6), (grasp, yaw, 1, 9), (lifted, yaw, 1, 4),
        (put, yaw, 1, 4), (put, yaw, 0, 5),
    ]  # fmt: skip
    if fault == "drop":
        stops[3:] = [((grasp + lifted) / 2, yaw, 1, 0), ((grasp + lifted) / 2, yaw, 0, 3)]
    place, turn, shake = home, 0.0, np.zeros(3)
    for target, angle, fingers, waits in [*stops, (lifted, 0.0, 0, 2)]:
        count = max(1, int(np.ceil(np.linalg.norm(target - place) / REACH)))
        start, first = place, turn
        for step in range(count + waits):
            part = min(1.0, (step + 1) / count)
            place, turn = start + part * (target - start), first + part * (angle - first)
            shake = 0.8 * shake + rng.normal(0, 0.0015, 3)
            yield np.array([*(place + shake), turn, fingers], np.float32)


class Arm:
    """An arm and what its actions mean to its controller."""

    def __init__(self, env: Any) -> None:
        from robosuite.utils.transform_utils import mat2quat, quat2axisangle

        self.env, self._mat2quat, self._quat2axisangle = env, mat2quat, quat2axisangle
        self.reset(0)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin an episode, whose cube the seed places."""
        np.random.seed(seed)  # robosuite draws from numpy's global state
        seen = self.env.reset()
        self.rest = self.env.robots[0].controller.ee_ori_mat.copy()
        return seen

    @property
    def tool(self) -> np.ndarray:
        """Return where the tool is, metres."""
        return np.array(self.env.robots[0].controller.ee_pos)

    @property
    def turned(self) -> float:
        """Return how far the tool is turned about the vertical from where the episode began, radians."""
        turn = self.env.robots[0].controller.ee_ori_mat @ self.rest.T
        return float(np.arctan2(turn[1, 0], turn[0, 0]))

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Ask for an action and return what is seen after it."""
        c, s = np.cos(action[3]), np.sin(action[3])
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ self.rest
        asked = [*action[:3], *self._quat2axisangle(self._mat2quat(turn)), 2 * action[4] - 1]
        return self.env.step(np.array(asked, np.float64))[0]


def record(arm: Arm, seed: int) -> dict[str, np.ndarray]:
    """Return an episode: images (t+1, 64, 64, 3) of each camera, action (t, 5), state (t+1, 5), success (t+1).

    Success is a cube that is lifted by five centimetres.
    """
    rng, seen = np.random.default_rng(seed), arm.reset(seed)
    table = seen["cube_pos"][2]
    frames, states, done, actions = [seen], [[*arm.tool, 0.0, 0.0]], [False], []
    while len(actions) < STEPS:
        cube, quat = np.array(seen["cube_pos"]), seen["cube_quat"]
        # A cube looks the same after a quarter of a turn.
        yaw = (2 * np.arctan2(quat[2], quat[3]) + np.pi / 4) % (np.pi / 2) - np.pi / 4
        for action in script(cube, yaw, arm.tool, rng):
            if len(actions) == STEPS:
                break
            seen = arm.step(action)
            actions.append(action)
            frames.append(seen)
            states.append([*arm.tool, arm.turned, action[4]])
            done.append(bool(seen["cube_pos"][2] > table + 0.05))
    images = {name: np.stack([averaged(each[f"{name}_image"]) for each in frames]) for name in CAMERAS}
    return images | {"action": np.stack(actions), "state": np.array(states, np.float32), "success": np.array(done)}


def averaged(drawn: np.ndarray) -> np.ndarray:
    """Return an image of OpenGL, (128, 128, 3) from the bottom up, as one of (64, 64, 3) from the top down."""
    blocks = drawn[::-1].reshape(SIZE, DRAWN // SIZE, SIZE, DRAWN // SIZE, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def calibration(env: Any) -> dict[str, Any]:
    """Return the cameras as `prophet train --calibration` reads them, the world's frame to pixels."""
    from robosuite.utils.camera_utils import get_camera_extrinsic_matrix, get_camera_intrinsic_matrix

    found = {}
    for name in CAMERAS:
        inside = get_camera_intrinsic_matrix(env.sim, name, SIZE, SIZE)
        # The middle of the first pixel is 0.
        inside[:2, 2] = (SIZE - 1) / 2
        outside = np.linalg.inv(get_camera_extrinsic_matrix(env.sim, name))
        found[name] = {"intrinsics": inside.tolist(), "extrinsics": outside.tolist(), "size": [SIZE, SIZE]}
    return found


def projected(camera: dict[str, Any], point: np.ndarray) -> np.ndarray:
    """Return the pixel (column, row) where a calibrated camera sees a point of the world."""
    seen = np.array(camera["intrinsics"]) @ (np.array(camera["extrinsics"]) @ [*point, 1.0])[:3]
    return seen[:2] / seen[2]


def pixel_errors(arm: Arm, cameras: dict[str, Any], points: int = 12) -> dict[str, float]:
    """Return how far, in pixels at most, a drawn marker at the tool is from where the calibration says, by camera."""
    model, rng = arm.env.sim.model, np.random.default_rng(0)
    kept, sites = model.geom_rgba.copy(), model.site_rgba.copy()
    tool = arm.env.robots[0].eef_site_id
    size = model.site_size[tool].copy()
    found: dict[str, float] = dict.fromkeys(CAMERAS, 0.0)
    for _ in range(points):
        target = np.array([*rng.uniform(-0.1, 0.1, 2), rng.uniform(0.85, 1.1), 0, 0])
        for _ in range(15):
            arm.step(target)
        # The marker alone: what hides it is made invisible.
        model.geom_rgba[:, 3], model.site_rgba[:, 3] = 0, 0
        blank = {name: _drawn(arm.env, name) for name in CAMERAS}
        model.site_rgba[tool], model.site_size[tool] = (1, 0, 1, 1), 0.012
        for name in CAMERAS:
            moved = np.abs(_drawn(arm.env, name) - blank[name]).sum(2)
            rows, columns = np.indices(moved.shape)
            if moved.sum() > 0:
                middle = np.array([(columns * moved).sum(), (rows * moved).sum()]) / moved.sum()
                expected = projected(cameras[name], np.array(arm.env.sim.data.site_xpos[tool]))
                found[name] = max(found[name], float(np.linalg.norm(middle - expected)))
        model.geom_rgba[:], model.site_rgba[:], model.site_size[tool] = kept, sites, size
    return found


def _drawn(env: Any, camera: str) -> np.ndarray:
    return averaged(env.sim.render(camera_name=camera, width=DRAWN, height=DRAWN)).astype(float)


def describe(folder: Path, cameras: dict[str, Any]) -> None:
    """Write `tool.urdf`, a robot that slides along x, y and z and turns, as the actions say, and `cameras.json`."""
    joints = [("x", "prismatic", "1 0 0"), ("y", "prismatic", "0 1 0"), ("z", "prismatic", "0 0 1")]
    links, lines = ["world", "slide_x", "slide_y", "slide_z", "tool"], []
    for (name, kind, axis), parent, child in zip(
        [*joints, ("yaw", "revolute", "0 0 1")], links, links[1:], strict=False
    ):
        lines += [
            f'  <joint name="{name}" type="{kind}">',
            f'    <parent link="{parent}"/><child link="{child}"/>',
            f'    <origin xyz="0 0 0" rpy="0 0 0"/><axis xyz="{axis}"/>',
            '    <limit lower="-3.2" upper="3.2" effort="10" velocity="10"/>\n  </joint>',
        ]
    text = ['<robot name="tool">', *(f'  <link name="{link}"/>' for link in links), *lines, "</robot>"]
    (folder / "tool.urdf").write_text("\n".join(text) + "\n")
    (folder / "cameras.json").write_text(json.dumps(cameras, indent=2) + "\n")


def main() -> None:
    """Record the episodes that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("outputs/arms/recorded"))
    given = parser.parse_args()
    folder = given.out / given.arm
    folder.mkdir(parents=True, exist_ok=True)
    arm = Arm(make(given.arm))
    if not (folder / "cameras.json").exists():
        cameras = calibration(arm.env)
        errors = pixel_errors(arm, cameras)
        print(f"{given.arm}: a marker at the tool is at most {errors} pixels from where the calibration says")
        (folder / "pixel_errors.json").write_text(json.dumps(errors) + "\n")
        describe(folder, cameras)
    for number in range(given.episodes):
        path = folder / f"{number:05d}.npz"
        if path.exists():
            continue
        episode: dict[str, Any] = record(arm, number + 10_000 * ARMS.index(given.arm))
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **episode)
        print(f"{path}: {'lifted' if episode['success'].any() else 'never lifted'}", flush=True)


if __name__ == "__main__":
    main()
