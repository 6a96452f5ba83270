"""How data sets say what they hold: which way up images are, where the tools were and what camera looked on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Num, UInt8

from prophet_gym._checks import require_known
from prophet_gym._io.files import reading, refuse_pointer
from prophet_gym.embodiments._kinematics import ARMS, matrix_to_euler, quaternion_to_matrix, rotation_vector_to_matrix

ORIENT = {"as_stored": (1, 1), "rows_reversed": (-1, 1), "columns_reversed": (1, -1)}
"""How stored images become upright, and the steps over rows and columns that this takes. OpenGL reads the bottom row
first; its images, turned by 180 degrees, are upright with left and right exchanged."""

SUCCESS = ("next.success", "is_episode_successful")
"""Features that say whether the task is done after a row's action: lerobot's own, and that of DROID."""

_ROTATIONS = {"euler": None, "quaternion": quaternion_to_matrix, "rotation_vector": rotation_vector_to_matrix}
_WIDTHS = {"xyz": 3, "euler": 3, "quaternion": 4, "rotation_vector": 3, "gripper": 1, "skip": 1}
"""What a state's numbers can be, and how many there are: metres; radians, R = Rz Ry Rx; real part last; as `kinematics`
has it; see `ToolReading`; read over."""


@dataclass(frozen=True)
class ToolReading:
    """Describe how a data set's states say where the tools are.

    The numbers of `columns`, one column after the other, are a state; `numbers` names what these are, in order, as in
    `_WIDTHS`. Each arm has one xyz, one rotation and one gripper, and the first of each are the first arm's. `open` and
    `closed` are the gripper's numbers when it is open and closed.
    """

    columns: tuple[str, ...]
    numbers: tuple[str, ...]
    open: float | int = 1.0
    closed: float | int = 0.0

    def __post_init__(self) -> None:
        for name in self.numbers:
            require_known("number of a state", name, _WIDTHS)
        rotations = sum(name in _ROTATIONS for name in self.numbers)
        arms = self.numbers.count("xyz")
        if not 1 <= arms <= ARMS or not arms == rotations == self.numbers.count("gripper"):
            raise ValueError(
                f"a state must have one xyz, one rotation ({', '.join(_ROTATIONS)}) and one gripper for each of 1 or "
                f"{ARMS} arms, got {'+'.join(self.numbers)}"
            )
        if self.open == self.closed:
            raise ValueError(f"the gripper's numbers when open and closed must differ, both are {self.open}")

    def read(self, states: Float[np.ndarray, "f s"], where: str = "") -> Float32[np.ndarray, "f arms 7"]:
        """Return position (metres), Euler angles x, y, z (radians) and openness (1 open .. 0 closed) of each tool."""
        # A state is a row of numbers without names: only their count can tell that the reading is of another robot.
        widths = [_WIDTHS[name] for name in self.numbers]
        if states.shape[1] != sum(widths):
            raise ValueError(
                f"{'+'.join(self.numbers)} are {sum(widths)} numbers, but {'+'.join(self.columns)}"
                f"{where and f' of {where}'} hold {states.shape[1]}; name the others skip"
            )
        places = zip(self.numbers, accumulate([0, *widths[:-1]]), widths, strict=True)
        parts = [(name, states[:, first : first + width].astype(np.float64)) for name, first, width in places]
        positions = [part for name, part in parts if name == "xyz"]
        # Stored angles stay as they are, since BRIDGE's actions add to them number by number.
        turns = [(_ROTATIONS[name], part) for name, part in parts if name in _ROTATIONS]
        angles = [part if to_matrix is None else matrix_to_euler(to_matrix(part)) for to_matrix, part in turns]
        openness = [(part - self.closed) / (self.open - self.closed) for name, part in parts if name == "gripper"]
        arms = zip(positions, angles, openness, strict=True)
        return np.stack([_tool_states(*arm) for arm in arms], axis=1)


def _tool_states(
    position: Float[np.ndarray, "f 3"], euler_xyz: Float[np.ndarray, "f 3"], openness: Float[np.ndarray, "f 1"]
) -> Float32[np.ndarray, "f 7"]:
    """Return one tool's state; a gripper wider or tighter than its bounds is open or closed."""
    return np.concatenate([position, euler_xyz, np.clip(openness, 0, 1)], axis=1).astype(np.float32)


def upright(frames: UInt8[np.ndarray, "f h w 3"], orient: str) -> UInt8[np.ndarray, "f h w 3"]:
    """Turn stored images upright, in a way of `ORIENT`."""
    rows, columns = ORIENT[orient]
    return np.ascontiguousarray(frames[:, ::rows, ::columns])


def decode_images(contents: Sequence[object], where: str) -> UInt8[np.ndarray, "f h w 3"]:
    """Decode images of one size out of PNG or JPEG bytes, RGB; ValueError, which says `where` they are, for others."""
    frames = [decoded(content) for content in contents]
    whole = [frame for frame in frames if frame is not None]
    if len(whole) < len(frames) or len({frame.shape for frame in whole}) > 1:
        raise ValueError(f"{where} must be images of one size as PNG or JPEG bytes; save the set again")
    return np.stack(whole) if whole else np.empty((0, 1, 1, 3), np.uint8)


def decoded(content: object) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return the image in the bytes of a PNG or JPEG; None if they hold none."""
    import cv2  # not installed where a network is trained on latents alone

    if not isinstance(content, bytes) or not content:
        return None
    try:
        frame = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if frame is None else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def success_of(rows: Bool[np.ndarray, " f"]) -> Bool[np.ndarray, " f"]:
    """Return the label of every frame of an episode; that of a row is of the frame after it.

    The last row's is of a frame that was not recorded, so the last frame takes it as well. Rows that all say success
    tell an episode's outcome, and not when: only the last frame is taken to show it.
    """
    frames = np.append(False, rows[:-1] & ~rows.all())[: len(rows)]
    frames[-1:] |= rows[-1:]
    return frames


def finite(what: str, values: Num[np.ndarray, "f n"]) -> Float64[np.ndarray, "f n"]:
    """Return numbers in float64; ValueError where float32 cannot hold one, which would become infinite unnoticed."""
    wide = values.astype(np.float64)
    if not (np.abs(wide) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{what} must be finite numbers; leave this episode out")
    return wide


def load_cameras(path: str | os.PathLike) -> Float[np.ndarray, "*_ 3 4"]:
    """Read camera matrices (see `CameraSpec`, upright images in [0, 1]) of an `.npy` file: one, or one an episode."""
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(f"no camera matrices at {path}; write them with numpy.save")
    refuse_pointer(Path(path).expanduser())
    with reading(f"{path} must be a whole file of numpy.save", "write it again"):
        matrices = np.load(Path(path).expanduser(), allow_pickle=False)
    if not isinstance(matrices, np.ndarray):
        raise ValueError(f"{path} must hold one array of camera matrices, holds several; write it with numpy.save")
    if matrices.shape[-2:] != (3, 4) or matrices.ndim > 3 or matrices.dtype.kind != "f":
        raise ValueError(f"{path} must hold camera matrices, (3, 4) or (episodes, 3, 4), holds {matrices.shape}")
    return matrices


def cameras_of(given: Float[np.ndarray, "*_ 3 4"] | None, episodes: int) -> list[Float64[np.ndarray, "3 4"] | None]:
    """Return the matrix of each episode, given one for all or one each; None where it is not known."""
    if given is None:
        return [None] * episodes
    if given.ndim == 3 and len(given) != episodes:
        raise ValueError(f"give one camera matrix, or one for each of {episodes} episodes, got {len(given)}")
    matrices = np.broadcast_to(given.astype(np.float64), (episodes, 3, 4))
    return [matrix if np.isfinite(matrix).all() else None for matrix in matrices]
