"""Draw action_frames.png, what the released conditioner reads: `python docs/images/action_frames.py`.

Each row is seven frames of one motion, its actions integrated and drawn through a camera: LIBERO's in the first three
rows, and in the last one a camera made up for the picture, two metres before two arms.
"""

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch

from prophet_gym.embodiments import _libero as libero
from prophet_gym.embodiments._kinematics import ToolPose, camera_matrix, euler_to_matrix, integrate_tool_deltas
from prophet_gym.prophet._action_frames import draw_tools

FRAMES, SIZE, GAP = 7, (128, 128), 4
DOWN = (np.pi, 0.0, 0.0)


def actions(**numbers: tuple[int, float]) -> np.ndarray:
    """Return equal actions with the gripper open: `move=(2, 0.03)` sets number 2 of each to 0.03."""
    steps = np.zeros((FRAMES - 1, 14), np.float32)
    steps[:, [6, 13]] = 1
    for index, value in numbers.values():
        steps[:, index] = value
    return steps


def row(start: ToolPose, steps: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Draw the frames of one motion side by side."""
    positions, euler, openness = integrate_tool_deltas(start, steps)
    tensors = (torch.tensor(x, dtype=torch.float32) for x in (positions, euler_to_matrix(euler), openness, camera))
    frames = draw_tools(*tensors, SIZE).numpy()
    framed = np.pad(frames, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=96)
    return np.concatenate(list(framed), axis=1)


def sheet() -> np.ndarray:
    """Draw all motions: towards the camera, turning, closing, two arms."""
    one = ToolPose(np.array([[-0.1, 0.0, 0.25]]), np.array([DOWN]), np.ones(1))
    close = actions()
    close[:, 6] = np.linspace(0.83, 0, FRAMES - 1)
    # Looks along -x from x = 2: its right is y, its down is -z.
    pose = np.array([[0.0, 0, -1, 2], [1, 0, 0, 0], [0, -1, 0, 0.3], [0, 0, 0, 1]])
    intrinsics = np.array([[SIZE[1], 0, SIZE[1] / 2], [0, SIZE[1], SIZE[0] / 2], [0, 0, 1]])
    two = ToolPose(np.array([[0.6, 0.3, 0.3], [0.6, -0.3, 0.3]]), np.array([DOWN, DOWN]), np.ones(2))
    both = actions(left_up=(2, -0.04), right_turns=(12, 0.25))
    both[:, 13] = np.linspace(0.83, 0, FRAMES - 1)
    camera = libero.camera("libero_object", 0).matrix
    rows = [
        row(one, actions(ahead=(0, 0.06)), camera),
        row(one, actions(turn=(5, 0.3)), camera),
        row(one, close, camera),
        row(two, both, camera_matrix(intrinsics, pose, SIZE)),
    ]
    return np.concatenate(rows, axis=0)


if __name__ == "__main__":
    imageio.imwrite(Path(__file__).with_suffix(".png"), sheet())
