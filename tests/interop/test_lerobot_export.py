"""Recordings of two cameras as lerobot's own reader sees them: the layout of the published sets of LIBERO."""

from pathlib import Path

import numpy as np
import pytest

from prophet_gym.data import RecordingSource
from prophet_gym.data._lerobot_export import BOTH_CAMERAS, export_recording

pytestmark = pytest.mark.vla
STEPS = (6, 8)
KEPT = Path(__file__).parents[1] / "data" / "libero_recordings"
"""A recording of each suite of LIBERO: one episode of ten actions, see its README."""


def picture(steps: int, shade: int) -> np.ndarray:
    """Frames that grow brighter, with a dark left half."""
    frames = (
        np.full((steps + 1, 64, 96, 3), shade, np.uint8) + np.arange(steps + 1, dtype=np.uint8)[:, None, None, None]
    )
    frames[:, :, :48] = 20
    return frames


def decoded(video_path, timestamps, tolerance_s, backend=None):
    """Give what `decode_video_frames` of lerobot does by torchvision or torchcodec; neither is installed."""
    import av
    import torch

    del backend
    with av.open(str(video_path)) as container:
        shown = {frame.time: frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)}
    nearest = [min(shown, key=lambda time: abs(time - wanted)) for wanted in timestamps]
    assert all(abs(time - wanted) < tolerance_s for time, wanted in zip(nearest, timestamps, strict=True))
    return torch.from_numpy(np.stack([shown[time] for time in nearest])).movedim(-1, 1).float() / 255


@pytest.fixture
def opened(monkeypatch):
    """`opened(folder)`: the data set as lerobot reads it; the codec alone is another."""
    from lerobot.datasets import lerobot_dataset

    monkeypatch.setattr(lerobot_dataset, "decode_video_frames", decoded)
    return lambda folder: lerobot_dataset.LeRobotDataset("local/libero", root=folder, video_backend="pyav")


@pytest.mark.parametrize("suite", ["libero_object", "libero_spatial", "libero_goal", "libero_10"])
def test_lerobots_own_reader_reads_a_recording_of_each_suite(suite, opened, tmp_path):
    export_recording(KEPT / suite, tmp_path / "set")
    data, episode = opened(tmp_path / "set"), RecordingSource(KEPT / suite).episode(0)
    assert (data.num_episodes, len(data)) == (1, len(episode.actions))
    for step in range(len(data)):
        row = data[step]
        assert row["task"] == episode.instruction
        np.testing.assert_array_equal(row["action"], episode.actions[step])
        np.testing.assert_array_equal(row["observation.state"], episode.sim.robot_state[step])
        for feature, camera in BOTH_CAMERAS.items():
            mirrored = episode.frames(step, step + 1, camera=camera)[0, :, ::-1]
            assert np.abs(row[feature].movedim(0, -1).numpy() * 255 - mirrored).mean() < 2.5


def test_lerobots_own_reader_reads_the_export(record, opened, tmp_path):
    """Its index, rows, files and times."""
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(steps + 1, 8)).astype(np.float32) for steps in STEPS]
    actions = [rng.uniform(-1, 1, (steps, 7)).astype(np.float32) for steps in STEPS]
    for index, steps in enumerate(STEPS):
        views = {"frames": picture(steps, 120), "wrist_frames": picture(steps, 200)}
        about = {"robot_state": states[index], "actions": actions[index], "instruction": f"do task {index}"}
        record(tmp_path / "recording", index, steps=steps, **views, **about)
    export_recording(tmp_path / "recording", tmp_path / "set")
    data = opened(tmp_path / "set")
    assert (data.num_episodes, len(data), data.fps) == (2, sum(STEPS), 20)
    assert data.meta.camera_keys == list(BOTH_CAMERAS)
    rows = [(index, step) for index, steps in enumerate(STEPS) for step in range(steps)]
    for row, (index, step) in zip((data[number] for number in range(len(data))), rows, strict=True):
        np.testing.assert_array_equal(row["observation.state"], states[index][step])
        np.testing.assert_array_equal(row["action"], actions[index][step])
        assert row["task"] == f"do task {index}"
        # Left and right are exchanged, as in the published sets.
        for feature, shade in zip(BOTH_CAMERAS, (120, 200), strict=True):
            assert row[feature].shape == (3, 64, 96)
            assert float(row[feature][:, 32, 10].mean()) * 255 == pytest.approx(shade + step, abs=3)
            assert float(row[feature][:, 32, 80].mean()) * 255 == pytest.approx(20, abs=3)
