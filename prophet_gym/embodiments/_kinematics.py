"""From tool poses to Prophet's 14 numbers a step and back: two arms x (position 3, Euler angles 3, openness 1)."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

ARMS = 2
ARM_DIM = 7
ACTION_DIM = ARMS * ARM_DIM

ToolPath: TypeAlias = tuple[
    Float[np.ndarray, "t+1 arms 3"], Float[np.ndarray, "t+1 arms 3"], Float[np.ndarray, "t+1 arms"]
]
"""Positions, Euler angles and openness of the tools at the start and after each action."""


@dataclass(frozen=True)
class ToolPose:
    """Where a robot's tools are at one instant.

    Attributes:
        position: In the robot's base or world frame, metres.
        euler_xyz: Angles about x, y, z in radians, R = Rz Ry Rx.
        openness: 1 open .. 0 closed.
    """

    position: Float[np.ndarray, "arms 3"]
    euler_xyz: Float[np.ndarray, "arms 3"]
    openness: Float[np.ndarray, " arms"]


def require_arms(start: ToolPose, arms: int) -> None:
    """Raise ValueError unless the start has so many arms."""
    if start.openness.shape[0] != arms:
        raise ValueError(f"the start must have {arms} arm(s) as the robot does, got {start.openness.shape[0]}")


def _matrices(rows: list) -> np.ndarray:
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def euler_to_matrix(euler_xyz: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """Return rotation matrices R = Rz Ry Rx of angles about x, y, z in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.moveaxis(np.cos(euler_xyz), -1, 0), np.moveaxis(np.sin(euler_xyz), -1, 0)
    return _matrices(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )


def matrix_to_euler(matrix: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 3"]:
    """Return angles about x, y, z in radians, R = Rz Ry Rx, y in [-pi/2, pi/2]; near y = +-pi/2, z is 0."""
    m = np.moveaxis(matrix, (-2, -1), (0, 1))
    sine = np.clip(-m[2, 0], -1.0, 1.0)
    regular = np.abs(sine) < 1 - 1e-12
    x = np.where(regular, np.arctan2(m[2, 1], m[2, 2]), np.arctan2(-m[1, 2], m[1, 1]))
    z = np.where(regular, np.arctan2(m[1, 0], m[0, 0]), 0.0)
    return np.stack([x, np.arcsin(sine), z], axis=-1)


def quaternion_to_matrix(xyzw: Float[np.ndarray, "*b 4"]) -> Float[np.ndarray, "*b 3 3"]:
    """Return rotation matrices of quaternions, real part last, of any length but 0 (ValueError)."""
    length = np.linalg.norm(xyzw, axis=-1, keepdims=True)
    if (length < 1e-9).any():
        raise ValueError("a quaternion must not be 0: there is no such rotation")
    x, y, z, w = np.moveaxis(xyzw / length, -1, 0)
    return _matrices(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_vector_to_matrix(vector: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """Return rotation matrices of rotation vectors: along the axis, as long as the angle in radians."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    # sin(angle / 2) / angle, also at angle 0
    half = 0.5 * np.sinc(angle / (2 * np.pi))
    return quaternion_to_matrix(np.concatenate([vector * half, np.cos(angle / 2)], axis=-1))


def tool_frame_deltas(
    positions: Float[np.ndarray, "t arms 3"],
    euler_xyz: Float[np.ndarray, "t arms 3"],
    openness: Float[np.ndarray, "t arms"],
) -> Float[np.ndarray, "t-1 14"]:
    """Return the motion of each tool in its own previous frame (ProphRL, section on actions).

    dp = R_{t-1}^T (p_t - p_{t-1}) in the unit of `positions`, dR = R_{t-1}^T R_t as Euler angles with R = Rz Ry Rx,
    then the openness at t (1 open, 0 closed). One arm or two; the numbers of an arm that is not there are 0.
    """
    steps, arms = openness.shape
    if not 1 <= arms <= ARMS or steps < 2:
        raise ValueError(f"needs at least 2 poses of 1 or {ARMS} arms, got {steps} poses of {arms} arms")
    rotations = euler_to_matrix(np.asarray(euler_xyz, dtype=np.float64))
    back = np.swapaxes(rotations[:-1], -1, -2)
    moves = np.einsum("taij,taj->tai", back, np.diff(np.asarray(positions, dtype=np.float64), axis=0))
    turns = matrix_to_euler(back @ rotations[1:])
    actions = np.zeros((steps - 1, ARMS, ARM_DIM), dtype=np.float32)
    actions[:, :arms] = np.concatenate([moves, turns, openness[1:, :, None]], axis=-1)
    return actions.reshape(steps - 1, ACTION_DIM)


def integrate_tool_deltas(start: ToolPose, actions: Float[np.ndarray, "t 14"]) -> ToolPath:
    """Return the poses that model actions lead through: the inverse of `tool_frame_deltas`.

    p_t = p_{t-1} + R_{t-1} dp and R_t = R_{t-1} dR, for as many arms as the start has.
    """
    arms = start.openness.shape[0]
    steps = actions.astype(np.float64).reshape(len(actions), ARMS, ARM_DIM)[:, :arms]
    positions, rotations = [start.position.astype(np.float64)], [euler_to_matrix(start.euler_xyz.astype(np.float64))]
    for move, turn in zip(steps[..., :3], euler_to_matrix(steps[..., 3:6]), strict=True):
        positions.append(positions[-1] + np.einsum("aij,aj->ai", rotations[-1], move))
        rotations.append(rotations[-1] @ turn)
    openness = np.concatenate([start.openness[None].astype(np.float64), steps[..., 6]])
    return np.stack(positions), matrix_to_euler(np.stack(rotations)), openness


def actions_through(
    start: ToolPose,
    positions: Float[np.ndarray, "t arms 3"],
    rotations: Float[np.ndarray, "t arms 3 3"],
    openness: Float[np.ndarray, "t arms"],
) -> Float[np.ndarray, "t 14"]:
    """Return the model actions that lead from the start through the poses that actions ask for, one each."""
    return tool_frame_deltas(
        np.concatenate([start.position[None], positions]),
        np.concatenate([start.euler_xyz[None], matrix_to_euler(rotations)]),
        np.concatenate([start.openness[None], openness]),
    )


def camera_matrix(
    intrinsics: Float[np.ndarray, "3 3"], camera_to_base: Float[np.ndarray, "4 4"], size: tuple[int, int]
) -> Float[np.ndarray, "3 4"]:
    """Return the matrix of `CameraSpec`: from the robot's base (metres) to the unit image.

    Args:
        intrinsics: Focal lengths and principal point in pixels (OpenCV: x right, y down, z forward), no distortion.
        camera_to_base: Pose of the camera in the robot's base or world frame, metres.
        size: Height and width in pixels of the images that the intrinsics are of; resized images keep the matrix.

    Raises:
        ValueError: `camera_to_base` is not a rigid motion.
    """
    rotation, position = camera_to_base[:3, :3], camera_to_base[:3, 3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) or not np.allclose(camera_to_base[3], [0, 0, 0, 1]):
        raise ValueError(f"camera_to_base must be a rotation and a translation over (0, 0, 0, 1), got {camera_to_base}")
    height, width = size
    unit = np.diag([1 / width, 1 / height, 1.0]) @ intrinsics
    return unit @ np.column_stack([rotation.T, -rotation.T @ position])
