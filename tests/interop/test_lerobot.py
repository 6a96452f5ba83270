"""The EnvHub package, and LeRobot's own rollout where LeRobot is installed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.errors import UnknownOptionError
from prophet_gym.interop.lerobot import LeRobotVectorEnv, make_env, write_package
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, counting_starts

CHUNK = 4
TRACKS: list[bool] = []
SIZE = (16, 16)


class Tracked(CountingWorldModel):
    def read_gripper(self, state):
        return state["raised"].float() / 100


def make(num_envs: int = 2, **kwargs: Any) -> ProphetVectorEnv:
    judge = FunctionReward(lambda video, text: float(text.endswith("1") and len(video) > CHUNK), max_frames=99)
    kwargs = {"autoreset_mode": "SameStep", "max_episode_steps": 2, "render_mode": "rgb_array", **kwargs}
    model = Tracked(chunk=CHUNK, frame_size=SIZE)
    return ProphetVectorEnv(model, counting_starts(size=SIZE), num_envs, reward_model=judge, **kwargs)


def load(package: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hub_env", package / "env.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_speaks_lerobots_names():
    envs = LeRobotVectorEnv(make(proprioception=True))
    observation, _ = envs.reset(seed=[0, 1], options={"task": [0, 1], "start": 0})
    assert observation["pixels"]["image"][:, 0, 0, 0].tolist() == [0, 40]
    assert envs.observation_space.contains(observation)
    assert envs.call("task_description") == ("count task 0", "count task 1")
    assert envs.envs[1].task == "count task 1"
    assert envs.unwrapped.metadata["render_fps"] == 20
    actions = np.zeros((2, 7), np.float32)
    for _ in range(CHUNK - 1):
        observation, *_, terminated, truncated, info = envs.step(actions)
        assert not (terminated | truncated).any()
        assert "final_info" not in info
    observation, _, terminated, _, info = envs.step(actions)
    assert terminated.tolist() == [False, True]
    assert info["final_info"]["is_success"].tolist() == [False, True]
    assert info["final_obs"][1]["pixels"]["image"][0, 0, 0] == 40 + CHUNK
    np.testing.assert_allclose(observation["agent_pos"][0, 0], CHUNK / 100, rtol=1e-6)
    assert np.stack(envs.call("render"))[0, 0, 0, 0] == CHUNK


def test_an_env_without_a_horizon_is_refused():
    with pytest.raises(ValueError, match="max_episode_steps"):
        LeRobotVectorEnv(make(max_episode_steps=None))
    with pytest.raises(ValueError, match="SAME_STEP"):
        LeRobotVectorEnv(make(autoreset_mode="Disabled"))


def counting(num_envs: int = 1, *, tasks: Any = None, max_episode_steps: Any = 3, **kwargs: Any) -> ProphetVectorEnv:
    """Stands in for the entry point of the ids: no checkpoint is loaded."""
    del kwargs["weights"], kwargs["suite"]
    model = Tracked(chunk=8, frame_size=SIZE) if TRACKS else CountingWorldModel(chunk=8, frame_size=SIZE)
    starts = counting_starts(size=SIZE)
    pool = starts if tasks is None else starts.of_task(tasks[0])
    return ProphetVectorEnv(model, pool, num_envs, max_episode_steps=max_episode_steps, **kwargs)


@pytest.fixture
def without_checkpoint(monkeypatch):
    monkeypatch.setattr(gym.registry["Prophet-LIBERO-Object-v0"], "vector_entry_point", counting)


def test_the_package_makes_an_env_per_task(tmp_path, without_checkpoint):
    package = write_package(tmp_path / "package")
    assert {path.name for path in package.iterdir()} == {"env.py", "requirements.txt", "README.md"}
    found = load(package).make_env(n_envs=3, use_async_envs=False)
    assert {suite: list(envs) for suite, envs in found.items()} == {"libero_object": [0, 1]}
    envs = found["libero_object"][1]
    envs.reset(seed=[0, 1, 2])
    assert envs.call("task_description") == ("count task 1",) * 3
    assert envs.call("_max_episode_steps")[0] == 240
    cfg = SimpleNamespace(task="libero_object", task_ids=[1], episode_length=16)
    envs = load(package).make_env(n_envs=1, use_async_envs=False, cfg=cfg)["libero_object"]
    assert list(envs) == [1]
    assert envs[1].call("_max_episode_steps") == (16,)


def test_the_state_of_the_robot_is_there_where_the_weights_track_it(without_checkpoint, monkeypatch):
    cfg = {"task": "libero_object", "task_ids": [1], "episode_length": 16}
    envs = make_env(cfg=cfg)["libero_object"][1]
    assert set(envs.reset(seed=[0])[0]) == {"pixels"}
    assert envs.call("_max_episode_steps") == (16,)
    monkeypatch.setattr(sys.modules[__name__], "TRACKS", [True])
    envs = make_env(cfg=cfg)["libero_object"][1]
    observation, _ = envs.reset(seed=[0])
    assert observation["agent_pos"].tolist() == [[0.0, 0.0, 0.0]]
    assert envs.observation_space.contains(observation)


def test_processes_are_warned_against_and_bad_configs_named(without_checkpoint):
    with pytest.warns(UserWarning, match="one batch"):
        make_env(use_async_envs=True)
    with pytest.raises(UnknownOptionError, match="Did you mean 'libero_object'"):
        make_env(cfg=SimpleNamespace(task="libero_objects"))
    with pytest.raises(UnknownOptionError, match="unknown task 7"):
        make_env(cfg=SimpleNamespace(task_ids=[7]))
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        make_env(cfg=SimpleNamespace(episode_length=12))
    with pytest.raises(ValueError, match="episode_length must be an integer of at least 1, got 'x'"):
        make_env(cfg=SimpleNamespace(episode_length="x"))
    with pytest.raises(ValueError, match=r"task_ids must be task numbers, as in \[0, 3\], got 3"):
        make_env(cfg={"task_ids": 3})


@pytest.mark.vla
def test_lerobots_own_rollout_runs(without_checkpoint, tmp_path):
    from lerobot.envs.utils import _call_make_env, _normalize_hub_result
    from lerobot.scripts.lerobot_eval import rollout

    class Still(torch.nn.Module):
        def reset(self):
            self.seen = []

        def select_action(self, observation):
            self.seen.append((observation["task"], observation["observation.images.image"].shape))
            return torch.zeros(2, 7)

    module = load(write_package(tmp_path))
    envs = _normalize_hub_result(_call_make_env(module, n_envs=2, use_async_envs=False, cfg=None))["libero_object"][1]
    policy, same = Still(), lambda value: value
    found = rollout(envs, policy, same, same, same, same, seeds=[0, 1])
    assert found["done"][:, -1].all()
    assert policy.seen[0] == (["count task 1"] * 2, (2, 3, *SIZE))
    assert found["success"].shape == found["reward"].shape == (2, found["action"].shape[1])
