"""Where a data set's states say that the tools are."""

import numpy as np
import pytest

from prophet_gym.data import Episode, MixtureEntry, ToolReading, WindowDataset, WindowLoader, WindowShape
from prophet_gym.data._reading import cameras_of, load_cameras

HALF = 0.5**0.5


def test_two_arms_are_read_in_the_order_in_which_they_are_named():
    left, right = [0.1, 0.2, 0.3, 0, 0, HALF, HALF, 30], [1, 2, 3, 0, 0, 0, 1, 120]
    reading = ToolReading(("pose",), ("xyz", "quaternion", "gripper") * 2, open=120, closed=0)
    tools = reading.read(np.array([left + right]))
    np.testing.assert_allclose(tools[0, 0], [0.1, 0.2, 0.3, 0, 0, np.pi / 2, 0.25], atol=1e-6)
    np.testing.assert_allclose(tools[0, 1], [1, 2, 3, 0, 0, 0, 1], atol=1e-6)


def test_stored_angles_stay_as_they_are_and_grippers_end_at_their_bounds():
    """BRIDGE's commands add to the stored angles; DROID's gripper is 0 open and may be measured beyond 1."""
    reading = ToolReading(("state",), ("xyz", "euler", "skip", "gripper"), open=0, closed=1)
    tools = reading.read(np.array([[0.3, 0, 0.1, 0.2, 1.7, -3.0, 9.0, 1.1]]))
    np.testing.assert_allclose(tools[0, 0], [0.3, 0, 0.1, 0.2, 1.7, -3.0, 0.0], atol=1e-6)


def test_a_camera_is_everybodys_one_each_or_unknown():
    one, each = np.eye(3, 4), np.stack([np.eye(3, 4), np.full((3, 4), np.nan)])
    np.testing.assert_array_equal(cameras_of(one, 7)[5], one)
    np.testing.assert_array_equal(cameras_of(each, 2)[0], one)
    assert cameras_of(each, 2)[1] is None


class Two:
    """Of two episodes the second does not say where its tools are."""

    def __len__(self):
        return 2

    def steps(self, index):
        return 9

    def episode(self, index):
        actions = np.arange(9, dtype=np.float32)[:, None] * np.ones((1, 7), np.float32)
        tools = np.arange(10, dtype=np.float32)[:, None, None] * np.ones((1, 1, 7), np.float32)
        known = (tools, np.eye(3, 4)) if index == 0 else (None, None)
        read = lambda start, stop: np.full((stop - start, 16, 16, 3), index, np.uint8)  # noqa: E731
        return Episode(f"episode {index}", actions, "wait", 20.0, "one", read, *known)


def test_a_clip_is_planned_from_its_own_window_where_the_tools_are_known():
    entry = MixtureEntry(
        Two(), plan=lambda actions, tools: (-actions, None) if tools is None else (2 * actions, tools + 1)
    )
    clips = WindowDataset([entry], WindowShape(2, 4, (16, 16)))
    known, unknown = clips[0, 3], clips[0, 6 + 3]
    assert known.actions[0, :, 0].tolist() == [6, 8, 10, 12]
    assert known.tools[0][:, 0, 6].tolist() == [4, 5, 6, 7, 8]
    assert unknown.actions[0, :, 0].tolist() == [-3, -4, -5, -6]
    assert (unknown.tools, unknown.cameras) == ((None,), (None,))
    batch = next(iter(WindowLoader(clips, rows=12)))
    for frames, tools, camera in zip(batch.frames, batch.tools, batch.cameras, strict=True):
        assert (tools is None) == (camera is None) == bool(frames.any())


def test_poses_that_do_not_fit_their_frames_are_refused():
    actions = np.zeros((3, 7), np.float32)
    for tools in (np.zeros((3, 1, 7), np.float32), np.full((4, 1, 7), np.nan, np.float32)):
        with pytest.raises(ValueError, match="finite numbers where the tools are at each of its 4 frames"):
            Episode("episode", actions, "wait", 20.0, "one", lambda a, b: None, tools)


def test_damaged_matrices_are_named(tmp_path):
    path = tmp_path / "cameras.npy"
    np.save(path, np.eye(3, 4))
    for content in (b"", b"x", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cameras\.npy must be a whole file of numpy\.save"):
            load_cameras(path)
