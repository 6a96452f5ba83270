"""Initial states in memory and on disk."""

import json

import numpy as np
import pytest

from prophet_gym.envs import InitialStates, read_initial_states, write_initial_states
from prophet_gym.errors import CheckpointError, InvalidStartError, MissingWeightsError, UnknownOptionError
from prophet_gym.specs import InitialState
from prophet_gym.testing import counting_starts


def scene(task: int, index: int, count: int = 1, split: str = "train") -> InitialState:
    """Smooth images of 16x16 that differ in task and index."""
    down, across = np.mgrid[0:16, 0:16] * 4
    frames = np.stack([np.stack([down + 20 * task, across + 3 * index, 0 * down + 30 * n], -1) for n in range(count)])
    extra = {"gripper_position": np.array([0.1, -0.2, 1.0 + index])}
    return InitialState(frames.astype(np.uint8), f"task {task}", "suite_a", task, index, split, extra)


def test_round_trip_keeps_order_numbers_and_images(tmp_path):
    states = [scene(task, index, 1 + index % 4) for index in range(5) for task in (3, 0)]
    written = write_initial_states(tmp_path / "train", states)
    read = read_initial_states(tmp_path / "train")
    assert written == sum(path.stat().st_size for path in (tmp_path / "train").iterdir())
    for before, after in zip(states, read, strict=True):
        assert (after.task, after.index, after.instruction) == (before.task, before.index, before.instruction)
        assert (after.suite, after.split) == ("suite_a", "train")
        np.testing.assert_array_equal(after.extra["gripper_position"], before.extra["gripper_position"])
        assert after.frames.shape == before.frames.shape
        assert np.abs(after.frames.astype(int) - before.frames).mean() < 4


def test_lossless_quality_is_exact(tmp_path):
    states = [scene(0, 0, 4), scene(1, 2)]
    write_initial_states(tmp_path, states, quality=101)
    for before, after in zip(states, read_initial_states(tmp_path), strict=True):
        np.testing.assert_array_equal(after.frames, before.frames)


def test_more_frames_than_a_sheet_holds(tmp_path):
    states = [scene(0, index, 4) for index in range(60)]
    write_initial_states(tmp_path, states, quality=101)
    assert len(list(tmp_path.glob("*.webp"))) == 3
    np.testing.assert_array_equal(read_initial_states(tmp_path)[59].frames, states[59].frames)


def test_writing_again_leaves_no_old_sheets(tmp_path):
    write_initial_states(tmp_path, [scene(task, 0) for task in range(4)])
    write_initial_states(tmp_path, [scene(7, 0)])
    assert len(list(tmp_path.glob("*.webp"))) == 1
    assert [state.task for state in read_initial_states(tmp_path)] == [7]


def test_selection():
    starts = counting_starts(tasks=3, per_task=2)
    assert starts.tasks == (0, 1, 2)
    assert [state.index for state in starts.of_task(2)] == [0, 1]
    assert len(starts[1:4]) == 3
    with pytest.raises(UnknownOptionError, match="Known: 0, 1, 2"):
        starts.of_task(5)
    with pytest.raises(UnknownOptionError, match="counting"):
        starts.of_suite("libero_goal")


def test_samples_are_uniform():
    starts = counting_starts(tasks=2, per_task=3)
    rng = np.random.default_rng(0)
    drawn = np.bincount([(s := starts.sample(rng)).task * 3 + s.index for _ in range(6000)], minlength=6)
    assert np.abs(drawn - 1000).max() < 130


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((5, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
    ],
)
def test_frames_that_fit_no_start(frames):
    with pytest.raises(InvalidStartError, match="must be uint8"):
        InitialStates([unchecked(frames)])


def unchecked(frames: np.ndarray) -> InitialState:
    state = InitialState(np.zeros((1, 8, 8, 3), np.uint8), "x")
    object.__setattr__(state, "frames", frames)
    return state


def test_frames_of_two_sizes_are_not_written(tmp_path):
    other = InitialState(np.zeros((1, 8, 8, 3), np.uint8), "x")
    with pytest.raises(InvalidStartError, match="16, 16, 3"):
        write_initial_states(tmp_path, [scene(0, 0), other])


def test_a_missing_or_damaged_set_is_one_clear_error(tmp_path):
    with pytest.raises(MissingWeightsError, match="found none in"):
        read_initial_states(tmp_path / "nowhere")
    write_initial_states(tmp_path, [scene(0, 0)])
    sheet = next(tmp_path.glob("*.webp"))
    sheet.write_bytes(sheet.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_initial_states(tmp_path)
    sheet.unlink()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_initial_states(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match="got 'other'"):
        read_initial_states(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        read_initial_states(tmp_path)
