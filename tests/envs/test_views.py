"""Views: the last frames, the instruction as numbers, flat chunks, single actions, uncertainty, proprioception."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordVideo
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from prophet_gym.envs import (
    EmbedInstruction,
    OneActionPerChunk,
    OneActionPerChunkVector,
    OneActionPerStep,
    OneActionPerStepVector,
    ProphetEnv,
    ProphetVectorEnv,
    StackFrames,
    Viewed,
    ViewedVector,
    one_hot_table,
    sub_env_info,
)
from prophet_gym.errors import InvalidActionError, UnknownOptionError
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

CHUNK = 4
TABLE = one_hot_table(start.instruction for start in counting_starts())
OWN = {"count task 0": np.array([0.5, 1.0]), "count task 1": np.array([0.25, -1.0])}


def single(model: Any = None, **kwargs: Any) -> ProphetEnv:
    return ProphetEnv(model or CountingWorldModel(chunk=CHUNK), counting_starts(), **kwargs)


def vector(num_envs: int = 3, model: Any = None, **kwargs: Any) -> ProphetVectorEnv:
    return ProphetVectorEnv(model or CountingWorldModel(chunk=CHUNK), counting_starts(), num_envs, **kwargs)


def still(env: Any) -> np.ndarray:
    return np.zeros(env.action_space.shape, np.float32)


def reds(image: np.ndarray) -> list:
    return image[..., 0, 0, 0].tolist()


class TestStackFrames:
    def test_gives_the_last_frames_at_the_stride(self):
        env = Viewed(single(), StackFrames(3, stride=3))
        image = env.reset(seed=0, options={"start": 1})[0]["image"]
        assert reds(image) == [4, 4, 4]
        assert reds(env.step(still(env))[0]["image"]) == [4, 5, 8]
        assert reds(env.step(still(env))[0]["image"]) == [6, 9, 12]
        assert env.observation_space.contains(env.reset()[0])

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_a_sub_env_sees_what_the_single_env_sees(self, mode):
        reward_model = FunctionReward(lambda video, _: float(video[-1, 0, 0, 2] < 60))
        kwargs: dict[str, Any] = {"reward_model": reward_model, "max_episode_steps": 3}
        envs = ViewedVector(vector(autoreset_mode=mode, **kwargs), StackFrames(6))
        singles = [Viewed(single(**kwargs), StackFrames(6)) for _ in range(3)]
        seen = [env.reset(seed=row)[0]["image"] for row, env in enumerate(singles)]
        observation, _ = envs.reset(seed=0)
        over = [False] * 3
        for _ in range(20):
            assert_same(observation["image"], np.stack(seen))
            observation, *_, infos = envs.step(still(envs))
            for row, env in enumerate(singles):
                if over[row] and mode == AutoresetMode.NEXT_STEP:
                    seen[row], over[row] = env.reset()[0]["image"], False
                    continue
                result = env.step(np.zeros((CHUNK, 7), np.float32))
                seen[row] = result[0]["image"]
                ended = result[2] or result[3]
                over[row] = over[row] or ended
                if ended and mode == AutoresetMode.SAME_STEP:
                    assert_same(infos["final_obs"][row]["image"], seen[row])
                    seen[row] = env.reset()[0]["image"]
            if mode == AutoresetMode.DISABLED and any(over):
                mask, over = np.array(over), [False] * 3
                observation, _ = envs.reset(options={"reset_mask": mask})
                for row in np.flatnonzero(mask):
                    seen[row] = singles[row].reset()[0]["image"]

    @pytest.mark.parametrize("arguments", [(0,), (2, 0)])
    def test_bad_numbers(self, arguments):
        with pytest.raises(ValueError, match="at least 1"):
            StackFrames(*arguments)

    def test_needs_images(self):
        with pytest.raises(ValueError, match="put views before other wrappers"):
            Viewed(gym.make("CartPole-v1"), StackFrames(2))


class TestEmbedInstruction:
    def test_follows_the_task_of_each_sub_env(self):
        envs = ViewedVector(vector(max_episode_steps=1, autoreset_mode="SameStep"), EmbedInstruction(TABLE))
        observation, _ = envs.reset(seed=0, options={"task": [0, 1, 0]})
        assert observation["instruction"].tolist() == [[1, 0], [0, 1], [1, 0]]
        for _ in range(5):
            before = observation["instruction"]
            observation, *_, infos = envs.step(still(envs))
            assert np.argmax(observation["instruction"], 1).tolist() == infos["task"].tolist()
            np.testing.assert_array_equal([final["instruction"] for final in infos["final_obs"]], before)
            assert envs.observation_space.contains(observation)

    def test_single(self):
        env = Viewed(single(), EmbedInstruction(OWN))
        assert env.reset(options={"task": 1})[0]["instruction"].tolist() == [0.25, -1.0]
        assert env.observation_space["instruction"].low.tolist() == [0.25, -1.0]

    def test_bad_tables_and_instructions(self):
        with pytest.raises(ValueError, match="one length"):
            EmbedInstruction({"a": np.zeros(2), "b": np.zeros(3)})
        env = Viewed(single(), EmbedInstruction({"count task 2": np.zeros(2)}))
        with pytest.raises(UnknownOptionError, match="Did you mean 'count task 2'"):
            env.reset(seed=0)

    def test_an_instruction_that_is_not_in_the_table_is_not_seen_as_another(self):
        only = EmbedInstruction({"count task 0": np.zeros(2)})
        env, envs = Viewed(single(), only), ViewedVector(vector(), only)
        env.reset(options={"task": 0}), envs.reset(options={"task": 0})
        with pytest.raises(UnknownOptionError, match="unknown instruction 'count task 1'"):
            env.reset(options={"task": 1})
        with pytest.raises(UnknownOptionError, match="unknown instruction 'count task 1'"):
            envs.reset(options={"task": [0, 1, 0]})
        for each in (env, envs):
            with pytest.raises(gym.error.ResetNeeded, match="where a view refused"):
                each.step(still(each))
            each.reset(options={"task": 0})
            assert each.step(still(each))[0]["instruction"].shape[-1] == 2


class TestOneActionPerStepVector:
    def test_each_sub_env_equals_the_single_view(self):
        reward_model = FunctionReward(lambda video, _: float(video[-1, 0, 0, 2] < 60))
        kwargs: dict[str, Any] = {"reward_model": reward_model, "max_episode_steps": 2}
        envs = OneActionPerStepVector(vector(autoreset_mode="SameStep", **kwargs))
        singles = [OneActionPerStep(single(**kwargs)) for _ in range(3)]
        envs.reset(seed=0)
        for row, env in enumerate(singles):
            env.reset(seed=row)
        rng = np.random.default_rng(0)
        for _ in range(6 * CHUNK):
            actions = rng.uniform(-1, 1, envs.action_space.shape).astype(np.float32)
            observation, rewards, terminated, truncated, infos = envs.step(actions)
            for row, env in enumerate(singles):
                expected = env.step(actions[row])
                info = sub_env_info(infos, row)
                if expected[2] or expected[3]:
                    assert_same(info["final_obs"], expected[0])
                    assert_same(info["final_info"] | {"pending": 0}, expected[4])
                    expected = (env.reset()[0], *expected[1:4], expected[4])
                else:
                    assert_same(info, expected[4])
                assert_same(observation["image"][row], expected[0]["image"])
                flags = (rewards[row].item(), terminated[row].item(), truncated[row].item())
                assert flags == expected[1:4]

    def test_needs_one_clock(self):
        with pytest.raises(ValueError, match="SAME_STEP"):
            OneActionPerStepVector(vector())
        envs = OneActionPerStepVector(vector(autoreset_mode="SameStep"))
        with pytest.raises(gym.error.ResetNeeded):
            envs.step(still(envs))
        envs.reset(seed=0)
        envs.step(still(envs))
        with pytest.raises(ValueError, match="1 of 4 actions wait"):
            envs.reset(options={"reset_mask": np.array([True, False, False])})
        assert envs.step(still(envs))[4]["pending"].tolist() == [2, 2, 2]
        with pytest.raises(InvalidActionError, match="finite"):
            envs.step(still(envs) * np.nan)
        assert envs.step(still(envs))[4]["pending"].tolist() == [3, 3, 3]
        assert envs.reset()[1]["pending"].tolist() == [0, 0, 0]


class TestOneActionPerChunk:
    DIMS, HELD = (1, 0), (0, 0, 0.5, 0, 0, 0, -1)

    def test_equals_the_chunk_of_equal_actions(self):
        chosen = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)
        actions = np.tile(np.array(self.HELD, np.float32), (3, 1))
        actions[:, 1], actions[:, 0] = chosen[:, 0], chosen[:, 1]
        chunks = np.repeat(actions[:, None], CHUNK, 1)
        env, held = single(), OneActionPerChunk(single(), self.DIMS, self.HELD)
        env.reset(seed=0), held.reset(seed=0)
        assert_same(held.step(chosen[0]), env.step(chunks[0]))
        envs, helds = vector(), OneActionPerChunkVector(vector(), self.DIMS, self.HELD)
        envs.reset(seed=0), helds.reset(seed=0)
        assert helds.action_space.shape == (3, 2)
        assert_same(helds.step(chosen), envs.step(chunks))

    def test_bad_actions_numbers_and_rests(self):
        held = OneActionPerChunk(single(), self.DIMS, self.HELD)
        held.reset(seed=0)
        with pytest.raises(InvalidActionError, match=r"shape \(2,\), got \(7,\)"):
            held.step(np.zeros(7))
        with pytest.raises(ValueError, match=r"different numbers in 0..6, got \[0, 7\]"):
            OneActionPerChunk(single(), (0, 7), self.HELD)
        with pytest.raises(ValueError, match=r"rest must be an action: .* shape \(7,\), got \(2,\)"):
            OneActionPerChunkVector(vector(), (0,), (0, 0))
        with pytest.raises(ValueError, match=r"OneActionPerChunk needs an action space Box \(k, a\)"):
            OneActionPerChunk(held, (0,), (0, 0))


class TestRecording:
    def test_a_video_has_an_image_per_chunk_and_lasts_as_long_as_the_episode(self, tmp_path):
        pytest.importorskip("moviepy")
        from prophet_gym.data._video import frame_times

        model = CountingWorldModel(chunk=CHUNK, frame_size=(32, 32))
        env = ProphetEnv(model, counting_starts(size=(32, 32)), max_episode_steps=3, render_mode="rgb_array")
        assert env.metadata["render_fps"] == 20 / CHUNK
        env = RecordVideo(env, str(tmp_path / "films"), episode_trigger=lambda _: True)
        env.reset(seed=0)
        for _ in range(3):
            env.step(still(env))
        env.close()
        video = next((tmp_path / "films").glob("*.mp4"))
        assert len(frame_times(video)) == 4

    def test_statistics_of_uneven_episodes(self):
        reward_model = FunctionReward(lambda video, text: 1.0 if text.endswith("1") else 0.25)
        envs = RecordEpisodeStatistics(
            vector(2, reward_model=reward_model, max_episode_steps=3, autoreset_mode="SameStep")
        )
        envs.reset(seed=0, options={"task": [0, 1]})
        info = envs.step(still(envs))[4]
        assert info["_episode"].tolist() == [False, True]
        assert info["episode"]["r"].tolist() == [0.0, 1.0]
        assert info["episode"]["l"].tolist() == [0, 1]


def test_a_list_of_rendered_frames_plays_at_the_speed_of_actions():
    assert vector(render_mode="rgb_array_list").metadata["render_fps"] == 20
    assert single(render_mode="rgb_array_list").metadata["render_fps"] == 20
    assert single(render_mode="rgb_array_list", fps=5.0).metadata["render_fps"] == 5


def test_single_actions_are_rendered_at_the_speed_of_actions():
    assert OneActionPerStep(single(render_mode="rgb_array")).metadata["render_fps"] == 20
    envs = vector(render_mode="rgb_array", autoreset_mode="SameStep")
    assert OneActionPerStepVector(envs).metadata["render_fps"] == 20
    assert envs.metadata["render_fps"] == 20 / CHUNK


def test_many_copies_in_workers_are_warned_against(monkeypatch):
    monkeypatch.setattr("multiprocessing.current_process", lambda: type("P", (), {"name": "Worker<AsyncVectorEnv>-1"}))
    with pytest.warns(UserWarning, match="one copy of the world model per worker"):
        single()


def test_torch_random_is_left_alone_by_views():
    before = torch.get_rng_state()
    env = Viewed(single(), StackFrames(2))
    env.reset(seed=0), env.step(still(env))
    assert torch.equal(before, torch.get_rng_state())
