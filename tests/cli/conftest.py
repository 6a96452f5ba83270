"""A checkpoint that runs in milliseconds and a recording that fits it."""

import json

import numpy as np
import pytest

from prophet_gym.data import Episode, Simulation
from prophet_gym.data._recording import META, episode_path, simulated_episode, write_episode
from prophet_gym.prophet import tiny_prophet

SIZE = 64


def moving_square(steps: int, speed: int) -> np.ndarray:
    frames = np.full((steps + 1, SIZE, SIZE, 3), 90, np.uint8)
    for i, frame in enumerate(frames):
        left = (4 + speed * i) % (SIZE - 12)
        frame[20:32, left : left + 12] = (220, 60, 40)
    return frames


def recorded(steps: int, task: int) -> Episode:
    rng = np.random.default_rng(task)
    still = np.zeros((steps + 1, 1, 3), np.float32)
    return simulated_episode(
        actions=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        instruction=f"move the square, task {task}",
        camera=np.eye(3, 4),
        simulation=Simulation(
            gripper_position=rng.normal(size=(steps + 1, 3)).astype(np.float32),
            gripper_quaternion=np.tile(np.float32([0, 0, 0, 1]), (steps + 1, 1)),
            gripper_opening=np.zeros(steps + 1, np.float32),
            object_positions=still,
            object_names=("square",),
            target="square",
            success=np.zeros(steps + 1, bool),
            init_state=np.zeros(3),
            suite="libero_object",
            task=task,
            mode="random",
            seed=0,
            look="light",
        ),
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_prophet().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """Two episodes of 24 and 19 actions."""
    folder = tmp_path_factory.mktemp("recording")
    meta = {"suite": "libero_object", "look": "light", "starts": "official"}
    (folder / META).write_text(json.dumps(meta))
    for task, (steps, speed) in enumerate([(24, 1), (19, 2)]):
        write_episode(episode_path(folder, task, 0), recorded(steps, task), moving_square(steps, speed))
    return folder
