"""A toy recording: a white square that commands push about."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from prophet_gym.data import Episode, Simulation
from prophet_gym.data._recording import META, episode_path, simulated_episode, write_episode

STEPS = 36
CAMERA = np.array([[0.5, 0, 0, 0.5], [0, 0.5, 0, 0.5], [0, 0, 0, 1]])


def toy_episode(seed: int, shade: int = 60) -> tuple[Episode, np.ndarray]:
    """A white square that the first two commands push about; the camera looks straight down."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32)
    path = np.zeros((STEPS + 1, 3), np.float32)
    path[1:, :2] = np.clip(np.cumsum(0.05 * actions[:, :2], axis=0), -0.8, 0.8)
    frames = np.full((STEPS + 1, 128, 128, 3), shade, np.uint8)
    for frame, (x, y, _) in zip(frames, path, strict=True):
        column, row = (np.array([x, y]) * 0.5 + 0.5) * 128
        frame[int(row) - 6 : int(row) + 6, int(column) - 6 : int(column) + 6] = 255
    episode = simulated_episode(
        actions=actions,
        instruction="push the square",
        camera=CAMERA,
        simulation=Simulation(
            gripper_position=path,
            gripper_quaternion=np.tile(np.array([0, 0, 0, 1], np.float32), (STEPS + 1, 1)),
            gripper_opening=np.full(STEPS + 1, 0.08, np.float32),
            object_positions=path[:, None].copy(),
            object_names=("square",),
            target="square",
            success=np.zeros(STEPS + 1, bool),
            init_state=np.zeros(1),
            suite="squares",
            task=0,
            mode="random",
            seed=seed,
            look="plain",
        ),
    )
    return episode, frames


def write_recording(folder: Path, episodes: int, shade: int = 60) -> Path:
    folder.mkdir(parents=True)
    (folder / META).write_text("{}")
    for index in range(episodes):
        episode, frames = toy_episode(index, shade)
        write_episode(episode_path(folder, 0, index), episode, frames)
    return folder


@pytest.fixture(scope="session")
def toy_recording(tmp_path_factory) -> Path:
    """Four episodes, of which `held_out(name, 1 / 4)` keeps two."""
    return write_recording(tmp_path_factory.mktemp("recording") / "data", 4)


@pytest.fixture(scope="session")
def toys() -> SimpleNamespace:
    """What tests need of the toy world besides."""
    return SimpleNamespace(camera=CAMERA, episode=toy_episode, write=write_recording)


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Accelerate keeps its settings, such as the precision, for the whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
