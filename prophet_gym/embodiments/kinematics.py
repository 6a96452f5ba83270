"""Tool poses to the 14 numbers a step that Prophet reads: two arms x (position 3, Euler angles 3, openness 1)."""

import numpy as np
from jaxtyping import Float

ARMS = 2
ARM_NUMBERS = 7
ACTION_NUMBERS = ARMS * ARM_NUMBERS


def euler_to_matrix(euler_xyz: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3 3"]:
    """Rotation matrices R = Rz Ry Rx of angles about x, y, z in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.moveaxis(np.cos(euler_xyz), -1, 0), np.moveaxis(np.sin(euler_xyz), -1, 0)
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_euler(matrix: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 3"]:
    """The angles about x, y, z in radians with R = Rz Ry Rx and y in [-pi/2, pi/2]; near y = +-pi/2, z is 0."""
    sine = np.clip(-matrix[..., 2, 0], -1.0, 1.0)
    y = np.arcsin(sine)
    regular = np.abs(sine) < 1 - 1e-12
    x = np.where(
        regular,
        np.arctan2(matrix[..., 2, 1], matrix[..., 2, 2]),
        np.arctan2(-matrix[..., 1, 2], matrix[..., 1, 1]),
    )
    z = np.where(regular, np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0]), 0.0)
    return np.stack([x, y, z], axis=-1)


def tool_frame_deltas(
    positions: Float[np.ndarray, "t arms 3"],
    euler_xyz: Float[np.ndarray, "t arms 3"],
    openness: Float[np.ndarray, "t arms"],
) -> Float[np.ndarray, "t-1 14"]:
    """Motion of each tool in its own previous frame (ProphRL, section on actions).

    dp = R_{t-1}^T (p_t - p_{t-1}) in the unit of `positions`, dR = R_{t-1}^T R_t as Euler angles with R = Rz Ry Rx,
    then the openness at t (1 open, 0 closed). One arm or two; the numbers of an arm that is not there are 0.

    Raises:
        ValueError: there are more than two arms or fewer than two poses.
    """
    steps, arms = openness.shape
    if not 1 <= arms <= ARMS or steps < 2:
        raise ValueError(f"needs at least 2 poses of 1 or {ARMS} arms, got {steps} poses of {arms} arms")
    rotations = euler_to_matrix(np.asarray(euler_xyz, dtype=np.float64))
    back = np.swapaxes(rotations[:-1], -1, -2)
    moves = np.einsum("taij,taj->tai", back, np.diff(np.asarray(positions, dtype=np.float64), axis=0))
    turns = matrix_to_euler(back @ rotations[1:])
    actions = np.zeros((steps - 1, ARMS, ARM_NUMBERS), dtype=np.float32)
    actions[:, :arms] = np.concatenate([moves, turns, openness[1:, :, None]], axis=-1)
    return actions.reshape(steps - 1, ACTION_NUMBERS)
