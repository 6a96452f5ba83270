"""From tool poses to Prophet's 14 numbers a step and back: two arms x (position 3, Euler angles 3, openness 1)."""

import warnings
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

ARMS = 2
ARM_DIM = 7
ACTION_DIM = ARMS * ARM_DIM

ToolPath: TypeAlias = tuple[
    Float[np.ndarray, "t+1 arms 3"], Float[np.ndarray, "t+1 arms 3"], Float[np.ndarray, "t+1 arms"]
]
"""Positions, Euler angles and openness of the tools at the start and after each action."""


@dataclass(frozen=True)
class ToolPose:
    """Hold where a robot's tools are at one instant.

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


def euler_to_matrix(euler_xyz: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """Return rotation matrices R = Rz Ry Rx of angles about x, y, z in radians."""
    return Rotation.from_euler("xyz", euler_xyz.reshape(-1, 3)).as_matrix().reshape(*euler_xyz.shape, 3)


def matrix_to_euler(matrix: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 3"]:
    """Return angles about x, y, z in radians, R = Rz Ry Rx, y in [-pi/2, pi/2]; near y = +-pi/2, z is 0."""
    with warnings.catch_warnings():
        # What scipy warns of there is what the line above says.
        warnings.filterwarnings("ignore", "Gimbal lock")
        angles = Rotation.from_matrix(matrix.reshape(-1, 3, 3)).as_euler("xyz")
    return angles.reshape(matrix.shape[:-1])


def quaternion_to_matrix(xyzw: Float[np.ndarray, "*b 4"]) -> Float[np.ndarray, "*b 3 3"]:
    """Return rotation matrices of quaternions, real part last, of any length but 0 (ValueError)."""
    if (np.linalg.norm(xyzw, axis=-1) < 1e-9).any():
        raise ValueError("a quaternion must not be 0: there is no such rotation")
    return Rotation.from_quat(xyzw.reshape(-1, 4)).as_matrix().reshape(*xyzw.shape[:-1], 3, 3)


def axis_angle(xyzw: Float[np.ndarray, "*b 4"]) -> Float[np.ndarray, "*b 3"]:
    """Return axis times angle of unit quaternions, real part last, as robosuite's `quat2axisangle` does.

    The angle runs from 0 to 2 pi: a quaternion and its negative, the same rotation, differ here. A hand that points
    down turns by about pi, where the shorter of both angles would jump from one side to the other.
    """
    real = xyzw[..., 3:].clip(-1.0, 1.0)
    sine = np.sqrt(1.0 - real * real)
    return np.where(sine > 0, xyzw[..., :3] * 2.0 * np.arccos(real) / np.where(sine > 0, sine, 1.0), 0.0)


def turned(vector: Float[np.ndarray, "*b 3"], rest: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "*b 4"]:
    """Return the quaternions, real part last, of a body that turned by rotation vectors, up to pi, from a quaternion.

    Of both quaternions of a rotation it is the one that is reached from `rest` without a jump.
    """
    x, y, z, w = np.moveaxis(Rotation.from_rotvec(vector.reshape(-1, 3)).as_quat(canonical=True), -1, 0)
    i, j, k, real = rest
    product = [w * i + x * real + y * k - z * j, w * j - x * k + y * real + z * i, w * k + x * j - y * i + z * real]
    product.append(w * real - x * i - y * j - z * k)
    return np.stack(product, axis=-1).reshape(*vector.shape[:-1], 4)


def turn_between(rest: Float[np.ndarray, " 4"], xyzw: Float[np.ndarray, "*b 4"]) -> Float[np.ndarray, "*b 3"]:
    """Return the rotation vectors that lead from one quaternion to others: what `turned` undoes."""
    found = Rotation.from_quat(xyzw.reshape(-1, 4)) * Rotation.from_quat(rest).inv()
    return found.as_rotvec().reshape(*xyzw.shape[:-1], 3)


def rotation_vector_to_matrix(vector: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """Return rotation matrices of rotation vectors: along the axis, as long as the angle in radians."""
    return Rotation.from_rotvec(vector.reshape(-1, 3)).as_matrix().reshape(*vector.shape, 3)


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
    """Return the matrix of `CameraSpec`: from the robot's base or the world (metres) to the unit image.

    `intrinsics` are focal lengths and principal point (OpenCV: x right, y down, z forward; no distortion) in pixels of
    images of `size`, height and width; resized images keep the matrix. ValueError for a pose that is no rigid motion.
    """
    rotation, position = camera_to_base[:3, :3], camera_to_base[:3, 3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) or not np.allclose(camera_to_base[3], [0, 0, 0, 1]):
        raise ValueError(f"camera_to_base must be a rotation and a translation over (0, 0, 0, 1), got {camera_to_base}")
    height, width = size
    unit = np.diag([1 / width, 1 / height, 1.0]) @ intrinsics
    return unit @ np.column_stack([rotation.T, -rotation.T @ position])
