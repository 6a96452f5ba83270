"""Data sets of a joint-space robot in both published layouts, and a command of few steps."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from prophet_gym.data._lerobot_export import export_recording
from prophet_gym.train import _robot as robot
from tests.data_.conftest import CAMERA, SIZE, LeRobotWriter

JOINTS = ("pan", "lift", "elbow", "flex", "roll", "gripper")
KEPT = Path(__file__).parents[2] / "data" / "libero_recordings"


def joints(episode: int, count: int) -> np.ndarray:
    """Degrees, each joint about another middle; the last never moves."""
    swing = 20 * np.sin(np.arange(count, dtype=np.float32) / 3 + episode)[:, None]
    return (np.arange(6) * 10 + swing * (1, 1, 1, 1, 1, 0)).astype(np.float32)


@dataclass
class JointWriter(LeRobotWriter):
    """The layouts of lerobot 0.3.3 and 0.4.4, with joints, their names, and the outcome: the middle episode fails."""

    outcome: bool = True

    def columns(self, episode: int) -> dict:
        count = self.lengths[episode]
        told = {"next.success": (np.arange(count) == count - 1) & (episode != 1)} if self.outcome else {}
        state = {"observation.state": (joints(episode, count) + 1).tolist()}
        return {**super().columns(episode), "action": joints(episode, count).tolist(), **state, **told}

    def info(self, version: str, data: str, video: str) -> None:
        # Older sets have names by group.
        names = {"motors": list(JOINTS)} if version < "v3" else list(JOINTS)
        vector = {"dtype": "float32", "shape": [6], "names": names}
        self.changes |= {
            "features": {
                "action": vector,
                "observation.state": vector,
                CAMERA: {"dtype": self.dtype, "shape": [*SIZE, 3], "names": ["height", "width", "channels"]},
                "timestamp": {"dtype": "float32", "shape": [1], "names": None},
                **({"next.success": {"dtype": "bool", "shape": [1], "names": None}} if self.outcome else {}),
            }
        }
        super().info(version, data, video)


@pytest.fixture
def joint_set(tmp_path):
    """`joint_set(layout, **options)` writes a data set of 3 episodes and returns its folder."""
    return lambda layout="v3", **options: getattr(JointWriter(tmp_path / "arm", **options), layout)()


@pytest.fixture
def two_cameras(tmp_path) -> Path:
    """An episode of LIBERO's `libero_object` with two cameras, as we export it."""
    export_recording(KEPT / "libero_object", tmp_path / "both")
    return tmp_path / "both"


@pytest.fixture
def train(tmp_path):
    """`train(name, **options)` trains for two steps of every stage and returns the checkpoint."""

    def run(name: str, **options) -> Path:
        given = {
            "chunk": 4, "width": 48, "layers": 1, "held_out": 1000, "device": "cpu", "batch_size": 2, "steps": 2,
            "autoencoder_steps": 2, "decoder_steps": 2, "precision": "no", **options,
        }  # fmt: skip
        robot.main(robot.Args(tmp_path / "out", (Path(name),), **given))
        return tmp_path / "out" / "checkpoint"

    return run
