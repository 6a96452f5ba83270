"""What the episodes of the written sets hold, so that a test knows it without reading them."""

import numpy as np

LENGTHS = (6, 9, 5, 4, 3)
SIZE = (48, 64)


def images(episode: int, count: int | None = None) -> np.ndarray:
    """Frames that say in the grey of their left half which one they are; their right half is dark."""
    frames = np.full((LENGTHS[episode] if count is None else count, *SIZE, 3), 16, np.uint8)
    for number, frame in enumerate(frames):
        frame[:, : SIZE[1] // 2] = 40 + 60 * (episode % 3) + 5 * number
    return frames


def level(frames: np.ndarray) -> np.ndarray:
    """The grey of the left half of each frame."""
    return frames[:, 4:-4, 4 : SIZE[1] // 2 - 4].mean(axis=(1, 2, 3))


def states(episode: int, count: int | None = None) -> np.ndarray:
    """Position, Euler angles and gripper (0 .. 1) at each frame."""
    steps = np.arange(LENGTHS[episode] if count is None else count, dtype=np.float32)[:, None]
    slopes = np.array([[0.01, -0.02, 0.03, 0.05, 0.02, -0.04]], np.float32)
    return np.hstack([0.1 * (episode + 1) + steps * slopes, (steps % 2)]).astype(np.float32)


def actions(episode: int, count: int | None = None) -> np.ndarray:
    """Seven numbers after each frame, the gripper 0 or 1."""
    steps = np.arange(LENGTHS[episode] if count is None else count, dtype=np.float32)[:, None]
    return np.hstack([0.01 * (steps + 1) * np.ones((1, 6)), (steps + episode) % 2]).astype(np.float32)


def tasks(episode: int) -> str:
    return ("put the carrot on the plate", "close the drawer", "fold the cloth", "open the lid", "wait")[episode]
