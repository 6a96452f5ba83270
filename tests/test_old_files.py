"""Files written by commit f4e30db still load and give the same numbers; its half-finished runs are refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.toys import TinyFlowPolicy
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data import held_out
from prophet_gym.data._recording import list_episodes, name_of, read_episode
from prophet_gym.envs import read_initial_states
from prophet_gym.factory import make_vector_env
from prophrl_algos.flow import FlowSpec

OLD = Path(__file__).parent / "data" / "f4e30db"
BEGIN_AGAIN = "earlier version.* in another folder"


@pytest.fixture(scope="module")
def expected():
    with np.load(OLD / "expected.npz") as stored:
        return dict(stored)


def tiny_policy(env):
    """The policy that `half_prophrl` was training; its arguments name this function."""
    count, size = env.single_action_space.shape
    return TinyFlowPolicy(FlowSpec(count, size, size, count, num_steps=4), hidden=8, cells=1, letters=8)


def same_image(one, other):
    """Within 2/255, the tolerance of Prophet across batch sizes and machines."""
    assert np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 2


def square(frames, size):
    """The first frames of the toy episode 0: a white square in the middle of grey."""
    video = np.full((frames, 128, 128, 3), 60, np.uint8)
    video[:, 58:70, 58:70] = 255
    return torch.from_numpy(video[:, ::2, ::2][:, : size[0], : size[1]].copy())


@pytest.mark.parametrize("name", ["small", "full"])
def test_a_checkpoint_loads_and_dreams_the_same(name, expected):
    model = Checkpoint.named(OLD / name).world_model()
    state = model.encode(square(1, model.frame_size)[None])
    chunk = model.rollout(state, torch.full((1, model.chunk, 7), 0.5), generators=[torch.Generator().manual_seed(0)])
    same_image(chunk.frames[0, -1].numpy(), expected[name])


def test_success_head_and_object_reader_say_the_same(expected):
    episode = read_episode(list_episodes(OLD / "recording")[0])
    first = torch.from_numpy(np.repeat(square(1, (64, 64)).numpy(), 3, axis=0))
    checkpoint = Checkpoint.named(OLD / "small")
    head, reader = checkpoint.reward_model("success"), checkpoint.object_reader()
    found = head.probabilities(first, episode.instruction).numpy()
    np.testing.assert_allclose(found[0], expected["probabilities"][0], atol=1e-5)
    np.testing.assert_allclose(
        reader.positions(first, episode.instruction).numpy()[0], expected["positions"][0], atol=1e-4
    )


def test_starts_of_a_checkpoint_and_a_start_set_load():
    envs = make_vector_env(2, weights=OLD / "small", reward=None)
    assert sorted((start.task, len(start.frames), start.split) for start in envs.starts) == [
        (0, 1, "train"),
        (1, 2, "train"),
    ]
    same_image(envs.starts[0].frames[0], square(1, (64, 64))[0])
    (start,) = read_initial_states(OLD / "start_set")
    assert (start.frames.shape, start.instruction, start.suite) == ((2, 64, 64, 3), "push the square", "libero_object")


def test_recorded_episodes_load_and_are_held_out_as_before():
    paths = list_episodes(OLD / "recording")
    first, second = (read_episode(path) for path in paths)
    assert (len(first.actions), len(second.actions), first.instruction) == (12, 9, "push the square")
    assert first.frames().shape == (13, 64, 64, 3)
    assert np.abs(first.frames()[0].astype(int) - square(1, (64, 64))[0].numpy().astype(int)).mean() < 3
    assert [held_out(name_of(path), 1 / 4) for path in paths] == [True, False]


def test_a_snapshot_goes_on_as_it_would_have(expected):
    envs = make_vector_env(1, weights=OLD / "small", max_episode_steps=5, autoreset_mode="Disabled")
    envs.set_state((OLD / "snapshot" / "row_1.safetensors").read_bytes())
    assert envs.elapsed == (1,)
    observation, reward, *_ = envs.step(np.zeros(envs.action_space.shape, np.float32))
    same_image(observation["image"][0], expected["snapshot"])
    assert reward[0] == expected["snapshot_reward"]


def test_a_half_finished_small_training_run_is_refused(tmp_path):
    from prophet_gym.train._small import Args, main

    shutil.copytree(OLD / "half_small", tmp_path / "run")
    args = Args(
        data=(OLD / "recording",), out=tmp_path / "run", device="cpu",
        autoencoder_steps=6, decoder_steps=2, tracker_steps=2, steps=2, batch_size=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match=BEGIN_AGAIN):
        main(args)


def test_a_half_finished_full_training_run_is_refused(tmp_path):
    from prophet_gym.train._pretrain import Args, main

    shutil.copytree(OLD / "half_full", tmp_path / "run")
    data = f"{OLD / 'recording'},actions=checkpoint"
    args = Args(str(OLD / "full"), (data,), tmp_path / "run", lora_rank=0, steps=4, workers=0, cpu=True)
    with pytest.raises(ValueError, match=BEGIN_AGAIN):
        main(args)


def test_a_half_finished_prophrl_run_is_refused(tmp_path, monkeypatch):
    from prophrl_algos.cli._train import Args, main
    from prophrl_algos.trainer import TrainerConfig

    shutil.copytree(OLD / "half_prophrl", tmp_path / "run")
    monkeypatch.chdir(OLD)  # the run was begun there, with the same arguments
    args = Args(
        policy="tests.test_old_files:tiny_policy", world_model="small", out=tmp_path / "run", loggers=("csv",),
        config=TrainerConfig(groups=1, group_size=2, updates=3),
    )  # fmt: skip
    with pytest.raises(ValueError, match=BEGIN_AGAIN):
        main(args)
