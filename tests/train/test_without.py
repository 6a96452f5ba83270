"""Single episodes of a recording can be left out of whatever reads it."""

import pytest

from prophet_gym.cli import _calibrate as calibrate
from prophet_gym.cli import _evaluate as evaluate
from prophet_gym.data._recording import episode_path, list_recordings
from prophet_gym.errors import UnknownOptionError
from prophet_gym.prophet import tiny_prophet
from prophet_gym.rewards import SuccessHead, SuccessHeadConfig
from prophet_gym.train import _objects as objects
from prophet_gym.train import _reward as reward
from prophet_gym.train import _small as small
from prophrl_algos.cli import _sft as sft

ALL = tuple(f"task_00/episode_{index:05d}" for index in range(4))


@pytest.fixture
def recording(toys, tmp_path):
    """Four episodes, all of them damaged: whoever reads one of them fails."""
    folder = toys.write(tmp_path / "recording", 4)
    for index in range(4):
        episode_path(folder, 0, index).write_bytes(b"damaged")
    return folder


def none_left(run, args, told):
    with pytest.raises(ValueError, match=told):
        run(args)


def test_every_command_that_fits_something(recording, tmp_path):
    out = tmp_path / "out"
    none_left(
        small.main, small.Args(out=out, data=(recording,), without=ALL, device="cpu"), "has no episode to train on"
    )
    adapting = small.Args(out, (recording,), base="bundled", lora_rank=16, without=ALL, device="cpu")
    none_left(small.main, adapting, "has no episode to train on")
    none_left(objects.main, objects.Args(recording, out, without=ALL), "has 0 episodes")
    for backbone in ("head", "vlm"):
        args = reward.Args((recording,), out, backbone=backbone, without=ALL)
        none_left(reward.main, args, "too few episodes to split")
    none_left(sft.main, sft.Args(data=(recording,), policy="small", out=out, without=ALL), "holds no episode to clone")


def test_every_command_that_evaluates(recording, tmp_path):
    folder = tmp_path / "checkpoint"
    tiny_prophet().save_pretrained(folder)
    none_left(
        evaluate.main, evaluate.Args(world_model=str(folder), data=recording, without=ALL), "holds no complete episode"
    )
    SuccessHead(SuccessHeadConfig()).save_pretrained(tmp_path / "head")
    args = calibrate.Args(world_model=str(folder), reward=str(tmp_path / "head"), data=recording, without=ALL)
    none_left(calibrate.main, args, "holds no complete episode")


def test_an_episode_of_one_of_several_recordings(toys, tmp_path):
    folders = [toys.write(tmp_path / name, count) for name, count in [("a", 3), ("b", 1)]]
    assert [len(paths) for paths in list_recordings(folders, without=ALL[:1])] == [2, 0]
    assert [len(paths) for paths in list_recordings(folders, without=ALL[2:3], most=1)] == [1, 1]
    with pytest.raises(UnknownOptionError, match=r"has no episode task_00/episode_00003; it has 3 episodes: task_00"):
        list_recordings(folders, without=ALL)
