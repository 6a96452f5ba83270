"""Record a small arm like the SO-101 that puts a block on a plate, as a LeRobot data set:

    python -m benchmarks.robot.arm --out datasets/my_set --episodes 60
    .venv-vla/bin/python -m benchmarks.robot.arm --writer lerobot --out datasets/my_set --episodes 60

Six joint positions (degrees, the gripper 0 closed .. 100 open) and two cameras, 30 frames a second. One in three tries
misses the block and fails. Beside the set lie `arm.urdf` and `cameras.json`. Nothing is simulated but a lag of the
joints and a block that sticks to closed fingers, and everything is drawn by `cv2`. Our writer needs pyarrow alone
(`pip install -e '.[data]'`); lerobot's own is `--writer lerobot`, on 0.4.4.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
TASKS = ("put the block on the white plate", "put the block on the blue plate")
FPS = 30
SIZE = (96, 128)
PLATES = np.array([[0.12, 0.16, 0.0], [0.12, -0.16, 0.0]])
OFFSETS = ((0, 0, 0.06), (0.03, 0, 0.05), (0, 0, 0.115), (0, 0, 0.135), (0, 0, 0.05))
"""Metres from each joint to the one before it, the first to the base; with all at zero the arm points up."""
AXES = ("z", "y", "y", "y", "z")
TOOL = (0.0, 0.0, 0.06)
HOME = np.array([0, -30, 100, 80, 0, 60], np.float32)
HALF, RADIUS, WITHIN = 0.016, 0.045, 0.022
"""Half of the block's side, the plate's radius, and how near fingers must be to take the block; metres."""
LAG = 0.6  # of the way to where a joint is asked to be, in a step


@dataclass(frozen=True)
class Camera:
    """Hold a pinhole camera that looks from a place at another, metres in the arm's frame."""

    place: tuple[float, float, float]
    at: tuple[float, float, float]
    focal: float  # in heights of the image

    @property
    def extrinsics(self) -> np.ndarray:
        """Return the 4x4 matrix from the arm's frame to the camera's: x to the right, y down, z ahead."""
        ahead = np.subtract(self.at, self.place) / np.linalg.norm(np.subtract(self.at, self.place))
        right = np.cross(ahead, (0, 0, 1)) / np.linalg.norm(np.cross(ahead, (0, 0, 1)))
        turn = np.stack([right, np.cross(ahead, right), ahead])
        matrix = np.eye(4)
        matrix[:3] = np.column_stack([turn, -turn @ self.place])
        return matrix

    @property
    def intrinsics(self) -> np.ndarray:
        """Return the 3x3 matrix to pixels."""
        height, width = SIZE
        return np.array(
            [[self.focal * height, 0, (width - 1) / 2], [0, self.focal * height, (height - 1) / 2], [0, 0, 1]]
        )

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Return the pixels (column, row) where points of the arm's frame are seen."""
        seen = (self.intrinsics @ self.extrinsics[:3] @ np.append(points, np.ones((len(points), 1)), axis=1).T).T
        return seen[:, :2] / seen[:, 2:]


CAMERAS = {
    "up": Camera((0.62, 0.0, 0.62), (0.13, 0.0, 0.05), 1.5),
    "side": Camera((0.2, 0.8, 0.32), (0.14, 0, 0.08), 1.7),
}


def places(joints: np.ndarray) -> np.ndarray:
    """Return where the joints and at last the tool are, metres, for joint positions in degrees."""
    place, turn, found = np.zeros(3), Rotation.identity(), []
    for offset, axis, angle in zip(OFFSETS, AXES, joints[:5], strict=True):
        place = place + turn.apply(offset)
        turn = turn * Rotation.from_euler(axis, angle, degrees=True)
        found.append(place)
    return np.array([*found, place + turn.apply(TOOL)])


def reach(place: np.ndarray, opening: float, roll: float = 0.0) -> np.ndarray:
    """Return joint positions at which the tool points down at a place."""
    pan = np.arctan2(place[1], place[0])
    # Where the wrist must be, seen from the shoulder, in the arm's plane.
    across = np.hypot(place[0], place[1]) - OFFSETS[1][0]
    up = place[2] + OFFSETS[4][2] + TOOL[2] - OFFSETS[0][2] - OFFSETS[1][2]
    upper, lower, far = OFFSETS[2][2], OFFSETS[3][2], np.hypot(across, up)
    elbow = np.arccos(np.clip((far**2 - upper**2 - lower**2) / (2 * upper * lower), -1, 1))
    lift = np.arctan2(across, up) - np.arctan2(lower * np.sin(elbow), upper + lower * np.cos(elbow))
    angles = np.degrees([pan, lift, elbow, np.pi - lift - elbow])
    return np.array([*angles, roll, opening], np.float32)


@dataclass
class Scene:
    """Hold where the arm and the block are."""

    block: np.ndarray
    plate: int
    joints: np.ndarray = field(default_factory=HOME.copy)
    held: bool = False

    def step(self, action: np.ndarray) -> bool:
        """Move the arm and what it holds; return whether the block lies on its plate."""
        self.joints = self.joints + np.float32(LAG) * (action - self.joints)
        tool, closed = places(self.joints)[-1], self.joints[5] < 35
        middle = np.append(self.block[:2], HALF)
        self.held = bool(closed and (self.held or np.linalg.norm(tool - middle) < WITHIN))
        self.block = tool.copy() if self.held else np.append(self.block[:2], HALF)
        return not self.held and bool(np.linalg.norm(self.block[:2] - PLATES[self.plate][:2]) < RADIUS)

    def drawn(self, camera: Camera) -> np.ndarray:
        """Return what a camera sees, uint8 RGB."""
        fine = 3
        image = np.full((fine * SIZE[0], fine * SIZE[1], 3), (196, 188, 174), np.uint8)

        def pixels(points: np.ndarray) -> np.ndarray:
            return np.round((fine * (camera.pixels(np.asarray(points, float)) + 0.5) - 0.5) * 16).astype(np.int32)

        def fill(points: np.ndarray, colour: tuple[int, int, int]) -> None:
            cv2.fillConvexPoly(image, cv2.convexHull(pixels(points)), colour, cv2.LINE_AA, 4)

        desk = np.array([[-0.2, -0.32, 0], [0.34, -0.32, 0], [0.34, 0.32, 0], [-0.2, 0.32, 0]])
        fill(desk, (150, 116, 82))
        round_ = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = np.stack([np.cos(round_), np.sin(round_), 0 * round_], axis=1)
        for place, colour in zip(PLATES, ((226, 226, 236), (70, 110, 190)), strict=True):
            fill(place + RADIUS * circle, colour)
        found = places(self.joints)
        fill(np.append(found[-1][:2], 0) + 0.02 * circle, (112, 86, 60))  # the shadow of the hand
        corners = self.block + HALF * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        parts = [(self.block, lambda: (fill(corners, (150, 36, 30)), fill(corners[1::2], (216, 60, 46))))]
        for start, end, width, colour in self._links(found):
            near = -camera.extrinsics[:3] @ np.append((start + end) / 2, 1)
            thick = max(1, round(fine * width * camera.focal * SIZE[0] / -near[2]))
            line = [tuple(map(int, each)) for each in pixels(np.stack([start, end]))]
            parts.append(
                ((start + end) / 2, lambda a=line, c=colour, t=thick: cv2.line(image, *a, c, t, cv2.LINE_AA, 4))
            )
        # The farthest first: what is nearer is painted over it.
        for _, paint in sorted(parts, key=lambda part: -(camera.extrinsics[:3] @ np.append(part[0], 1))[2]):
            paint()
        return cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)

    def _links(self, found: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, float, tuple[int, int, int]]]:
        yield np.zeros(3), found[0], 0.07, (52, 52, 58)
        for start, end, width in zip(found[:-2], found[1:-1], (0.06, 0.045, 0.036, 0.034), strict=True):
            yield start, end, width, (238, 190, 60)
        heading = Rotation.from_euler("z", self.joints[0] + self.joints[4], degrees=True).apply([0, 1, 0])
        for side in (-1, 1):
            finger = found[-1] + side * (HALF + 0.0002 * self.joints[5]) * heading
            yield found[-2] + side * 0.012 * heading, finger, 0.012, (40, 40, 46)


def path(block: np.ndarray, plate: np.ndarray, miss: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the joint positions that are asked for, step by step, of a try that misses the block by so much."""
    roll, grip = rng.uniform(-25, 25), block[:2] + miss
    lifted, put = rng.uniform(0.08, 0.11), plate[:2] + rng.normal(0, 0.008, 2)
    high, low = (lambda xy: np.append(xy, lifted)), (lambda xy: np.append(xy, HALF))
    above = low(put) + np.array([0, 0, 0.006])
    stops = [
        (HOME, 3), (reach(high(grip), 60, roll), 14), (reach(low(grip), 60, roll), 10), (reach(low(grip), 10, roll), 6),
        (reach(high(grip), 10, roll), 9), (reach(high(put), 10), 16), (reach(above, 10), 9),
        (reach(above, 60), 6), (reach(high(put), 60), 9),
    ]  # fmt: skip
    found = [HOME[None]]
    for stop, steps in stops:
        steps = max(3, steps + int(rng.integers(-2, 3)))
        # Fast in the middle, slow at the ends.
        along = (1 - np.cos(np.linspace(0, np.pi, steps + 1)[1:])) / 2
        found.append(found[-1][-1] + along[:, None] * (stop - found[-1][-1]))
    asked = np.concatenate(found)[1:]
    return (asked + rng.normal(0, 0.3, asked.shape)).astype(np.float32)


def with_lerobot(out: Path, features: Mapping[str, Any]) -> Any:
    """Open a data set that lerobot 0.4.4 writes."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset.create("local/arm", FPS, features, root=out, robot_type="so101_follower", vcodec="h264")
    return nullcontext(data)


def with_ours(out: Path, features: Mapping[str, Any]) -> Any:
    """Open a data set of the same layout that we write."""
    from benchmarks.robot.writer import PlainDataset

    return PlainDataset(out, FPS, features, "so101_follower")


WRITERS: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {"ours": with_ours, "lerobot": with_lerobot}


def record(out: Path, episodes: int, seed: int = 0, writer: str = "ours") -> Path:
    """Write a data set, and what describes the arm beside it; return its folder."""
    names = [f"{joint}.pos" for joint in JOINTS]
    vector = {"dtype": "float32", "shape": (6,), "names": names}
    image = {"dtype": "video", "shape": (*SIZE, 3), "names": ["height", "width", "channels"]}
    features = {
        "action": vector,
        "observation.state": vector,
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
        **{f"observation.images.{name}": image for name in CAMERAS},
    }
    with WRITERS[writer](out, features) as data:
        for number in tqdm(range(episodes), unit="episode"):
            _try(data, np.random.default_rng([seed, number]), number)
        data.finalize()
    describe(out.parent)
    return out


def _try(data: Any, rng: np.random.Generator, number: int) -> None:
    """Record one try; every third misses the block."""
    plate = number % len(TASKS)
    scene = Scene(np.array([rng.uniform(0.2, 0.26), rng.uniform(-0.09, 0.09), HALF]), plate)
    away = rng.uniform(0, 2 * np.pi)
    miss = 0.045 * np.array([np.cos(away), np.sin(away)]) if number % 3 == 2 else rng.normal(0, 0.003, 2)
    for action in path(scene.block, PLATES[plate], miss, rng):
        seen = {f"observation.images.{name}": scene.drawn(camera) for name, camera in CAMERAS.items()}
        state = scene.joints.copy()
        done = np.array([scene.step(action)])
        data.add_frame(
            {**seen, "action": action, "observation.state": state, "next.success": done, "task": TASKS[plate]}
        )
    data.save_episode()


def describe(folder: Path) -> None:
    """Write `arm.urdf` and `cameras.json`: what must be known of a robot so that action frames can be drawn."""
    links = ["base", *(f"{joint}_link" for joint in JOINTS[:5]), "tool"]
    kinds = [("revolute", axis) for axis in AXES] + [("fixed", "z")]
    joints = [
        f'  <joint name="{name}" type="{kind}">\n    <parent link="{parent}"/><child link="{child}"/>\n'
        f'    <origin xyz="{" ".join(map(str, offset))}" rpy="0 0 0"/><axis xyz="{int(axis == "x")} {int(axis == "y")} '
        f'{int(axis == "z")}"/>\n    <limit lower="-3.2" upper="3.2" effort="10" velocity="10"/>\n  </joint>'
        for name, (kind, axis), parent, child, offset in zip(
            [*JOINTS[:5], "tool_mount"], kinds, links[:-1], links[1:], [*OFFSETS, TOOL], strict=True
        )
    ]
    lines = ['<robot name="arm">', *(f'  <link name="{link}"/>' for link in links), *joints, "</robot>"]
    (folder / "arm.urdf").write_text("\n".join(lines) + "\n")
    told = {
        name: {"intrinsics": camera.intrinsics.tolist(), "extrinsics": camera.extrinsics.tolist(), "size": list(SIZE)}
        for name, camera in CAMERAS.items()
    }
    (folder / "cameras.json").write_text(json.dumps(told, indent=2) + "\n")


def main(words: Sequence[str] | None = None) -> None:
    """Record a set as the words ask for it; one line says what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set, which must not exist")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writer", choices=WRITERS, default="ours", help="who writes the set")
    given = parser.parse_args(words)
    try:
        record(given.out, given.episodes, given.seed, given.writer)
    except ModuleNotFoundError as error:
        advice = {"pyarrow": "pip install -e '.[data]'", "lerobot": "run it in .venv-vla, which `make test-vla` makes"}
        missing = (error.name or str(error)).partition(".")[0]
        raise SystemExit(f"--writer {given.writer} needs {missing}: {advice.get(missing, 'install it')}") from None
    except FileExistsError as error:
        raise SystemExit(f"--out: {error}") from None


if __name__ == "__main__":
    main()
