"""LeRobot data sets written by hand in both layouts."""

import json
import pickle
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from pyarrow import parquet

from prophet_gym.data import EpisodeSource, LeRobotSource

from .conftest import CAMERA, LENGTHS, SIZE, actions, encode, grey, images, level

LAYOUTS = pytest.mark.parametrize("layout", ["v2", "v3"])


@LAYOUTS
@pytest.mark.parametrize("dtype", ["video", "image"])
def test_frames_and_actions_of_every_episode_belong_together(lerobot, layout, dtype):
    source = LeRobotSource(lerobot(layout, dtype=dtype), CAMERA)
    assert isinstance(source, EpisodeSource)
    assert [source.steps(index) for index in range(len(source))] == [length - 1 for length in LENGTHS]
    for number, length in enumerate(LENGTHS):
        episode = source.episode(number)
        np.testing.assert_array_equal(episode.actions, actions(number, length - 1))
        frames = episode.frames(0, length)
        assert frames.shape == (length, *SIZE, 3)
        np.testing.assert_allclose(level(frames), [grey(number, i) for i in range(length)], atol=1.5)
        np.testing.assert_allclose(level(episode.frames(2, 5)), [grey(number, i) for i in (2, 3, 4)], atol=1.5)
        assert (episode.fps, episode.robot) == (10.0, "so100")
        assert episode.instruction == ("open the drawer" if number == 1 else "stack the cups")


def test_videos_as_lerobot_encodes_them(lerobot):
    """AV1 is lerobot's default codec; colours and the top edge survive."""
    encoders = imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-encoders"

    if "libsvtav1" not in subprocess.run(encoders, capture_output=True, text=True, check=True).stdout:
        pytest.skip("this ffmpeg cannot write AV1")
    source = LeRobotSource(lerobot("v3", codec="libsvtav1"), CAMERA)
    frames = source.episode(1).frames(1, 6)
    np.testing.assert_allclose(level(frames), [grey(1, i) for i in range(1, 6)], atol=2)
    assert np.abs(frames[:, 32:, 60:].mean(axis=(0, 1, 2)) - (200, 40, 40)).max() < 6
    assert frames[:, :6].mean() > 240


def test_mirrored_sets_can_be_turned(lerobot):
    source = LeRobotSource(lerobot("v2"), CAMERA, orient="columns_reversed")
    frames = source.episode(0).frames(0, 2)
    assert frames[0, 40, 10, 0] > 180
    assert abs(int(frames[0, 40, -10, 0]) - grey(0, 0)) < 3


def test_a_source_can_be_sent_to_a_worker(lerobot):
    source = pickle.loads(pickle.dumps(LeRobotSource(lerobot("v3"), CAMERA)))
    np.testing.assert_allclose(level(source.episode(2).frames(3, 4)), [grey(2, 3)], atol=1.5)


def test_unknown_features_are_answered_with_the_known_ones(lerobot):
    root = lerobot("v3")
    with pytest.raises(ValueError, match=r"unknown camera .*Did you mean 'observation\.images\.top'"):
        LeRobotSource(root, "observation.images.to")
    with pytest.raises(ValueError, match=r"unknown action feature 'actions'.*Did you mean 'action'"):
        LeRobotSource(root, CAMERA, action="actions")


def test_what_is_no_data_set_or_another_version_is_refused(lerobot, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no meta/info\.json.*give the folder that holds meta"):
        LeRobotSource(tmp_path, CAMERA)
    root = lerobot("v3", changes={"codebase_version": "v1.6"})
    with pytest.raises(ValueError, match=r"layout v2 or v3, is v1\.6; convert it"):
        LeRobotSource(root, CAMERA)


@LAYOUTS
def test_a_missing_index_or_episode_is_refused(lerobot, layout):
    with pytest.raises(ValueError, match=r"the 7 episodes that meta/info\.json states, lists 3"):
        LeRobotSource(lerobot(layout, changes={"total_episodes": 7}), CAMERA)


def test_a_missing_index_is_refused(lerobot):
    root = lerobot("v2")
    (root / "meta" / "episodes.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"layout v2\.1 needs .*episodes\.jsonl; fetch"):
        LeRobotSource(root, CAMERA)


def test_a_truncated_parquet_is_refused(lerobot):
    root = lerobot("v3")
    path = root / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    source = LeRobotSource(root, CAMERA)
    with pytest.raises(ValueError, match=r"file-001\.parquet must be a whole parquet file with action"):
        source.episode(2)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"names .*file-001\.parquet, which is not there"):
        source.episode(2)


def test_a_row_too_few_is_refused(lerobot):
    root = lerobot("v2")
    path = root / "data/chunk-000/episode_000001.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, 4), path)
    with pytest.raises(ValueError, match=r"episode 1 of .* must have 6 rows, has 4"):
        LeRobotSource(root, CAMERA).episode(1)


def test_missing_frames_and_a_missing_video_are_refused(lerobot):
    root = lerobot("v2")
    path = root / "videos/chunk-000" / CAMERA / "episode_000001.mp4"
    encode(path, images(1, 4))
    episode = LeRobotSource(root, CAMERA).episode(1)
    with pytest.raises(ValueError, match=r"a frame before each of its 5 actions .* of the frames 2\.\.5 only 2"):
        episode.frames(2, 6)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="must be a video that ffmpeg can decode"):
        episode.frames(0, 2)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="with its videos"):
        episode.frames(0, 2)


def test_a_rate_that_contradicts_timestamps_or_video_is_refused(lerobot):
    root = lerobot("v2")
    encode(root / "videos/chunk-000" / CAMERA / "episode_000000.mp4", images(0, 9), fps=15)
    with pytest.raises(ValueError, match="the 10 frames a second that its data set states, has 15"):
        LeRobotSource(root, CAMERA).episode(0).frames(0, 2)
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fps": 20}))
    with pytest.raises(ValueError, match=r"must have 20 rows a second.*timestamps are 0\.1000 s apart"):
        LeRobotSource(root, CAMERA).episode(0)
