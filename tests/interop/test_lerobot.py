"""The EnvHub package, and LeRobot's own rollout where LeRobot is installed."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from prophet_gym.envs import InitialStates, ProphetVectorEnv
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
    reward_model = FunctionReward(lambda video, text: float(text.endswith("1") and len(video) > CHUNK), max_frames=99)
    kwargs = {"autoreset_mode": "SameStep", "max_episode_steps": 2, "render_mode": "rgb_array", **kwargs}
    model = Tracked(chunk=CHUNK, frame_size=SIZE)
    return ProphetVectorEnv(model, counting_starts(size=SIZE), num_envs, reward_model=reward_model, **kwargs)


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


class Rollout:
    """The calls that lerobot 0.6's `eval_policy` and `rollout` make of an env, and how they read the answers."""

    def __init__(self, envs: LeRobotVectorEnv) -> None:
        self.envs = envs
        self.videos: list[np.ndarray] = []
        self.tasks: list[list[str]] = []

    def video(self) -> None:
        self.videos.append(np.stack(self.envs.call("render")[:1]))

    def run(self, seeds: list[int] | None) -> dict[str, np.ndarray]:
        envs, rewards, successes, dones = self.envs, [], [], []
        observation, _ = envs.reset(seed=seeds, options={"lerobot_new_rollout": True})
        self.video()
        done = np.array([False] * envs.num_envs)
        limit = envs.call("_max_episode_steps")[0]
        # 0.6 warns of an env that does not answer these.
        assert len(envs.get_attr("task_description")) == len(envs.get_attr("task")) == envs.num_envs
        while not done.all() and len(dones) < limit:
            for image in observation["pixels"].values():
                assert (image.ndim, image.shape[-1], image.dtype) == (4, 3, np.uint8)
                assert min(image.shape[1:3]) > 3, "images no larger than their channels are taken for channel first"
            torch.from_numpy(observation["agent_pos"]).float()
            self.tasks.append(list(envs.call("task_description")))
            action = torch.zeros(envs.num_envs, 7).numpy()
            observation, reward, terminated, truncated, info = envs.step(action)
            self.video()
            found = info["final_info"]["is_success"] if "final_info" in info else np.zeros(envs.num_envs, bool)
            assert not isinstance(info.get("cost"), dict)
            done = terminated | truncated | done
            rewards.append(torch.from_numpy(reward))
            successes.append(torch.tensor(found.tolist()))
            dones.append(torch.from_numpy(done))
        names = ("reward", "success", "done")
        return {n: torch.stack(v, 1).numpy() for n, v in zip(names, (rewards, successes, dones), strict=True)}


def test_the_calls_of_lerobot_06_are_answered():
    envs = LeRobotVectorEnv(make(proprioception=True))
    evaluation = Rollout(envs)
    found = evaluation.run([0, 1])
    assert found["done"][:, -1].all()
    assert found["success"].shape == found["reward"].shape == (2, found["done"].shape[1])
    succeeded = [any(text.endswith("1") for text in texts) for texts in zip(*evaluation.tasks, strict=True)]
    assert any(succeeded)
    assert found["success"].any(1).tolist() == succeeded
    assert len(evaluation.videos) == found["done"].shape[1] + 1
    assert envs.unwrapped.metadata["render_fps"] == 20
    evaluation.run([2, 3])
    evaluation.run(None)
    again = Rollout(LeRobotVectorEnv(make(proprioception=True))).run([0, 1])
    np.testing.assert_array_equal(again["reward"], found["reward"])
    envs.close()


def test_options_of_the_env_still_reach_it_and_unknown_ones_are_refused():
    envs = LeRobotVectorEnv(make())
    envs.reset(seed=[0, 1], options={"lerobot_new_rollout": True, "task": 1})
    assert envs.get_attr("task") == ("count task 1",) * 2
    with pytest.raises(UnknownOptionError, match="new_rollout"):
        envs.reset(options={"new_rollout": True})
    with pytest.raises(AttributeError, match="success_key"):
        envs.get_attr("success_key")


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


class TwoCameras(CountingWorldModel):
    """Show the scene at half its brightness in the wrist camera."""

    def read_wrist(self, state):
        return state["start"] // 2

    def read_robot_state(self, state):
        return torch.arange(8.0).expand(len(state["start"]), 8)

    def read_state_error(self, state):
        return None


def test_two_cameras_are_shown_as_in_the_published_sets():
    """Mirrored, by LeRobot's names, and with the state of eight numbers, also where an episode ends."""
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None], (1, *SIZE, 3))
    starts = [replace(counting_starts()[0], frames=ramp.copy())]
    inner = {"autoreset_mode": "SameStep", "max_episode_steps": 1, "cameras": ("agentview", "wrist")}
    envs = LeRobotVectorEnv(ProphetVectorEnv(TwoCameras(chunk=1, frame_size=SIZE), InitialStates(starts), 2, **inner))
    seen, _ = envs.reset(seed=[0, 1])
    again, *_, infos = envs.step(np.zeros((2, 7), np.float32))
    for observation in (seen, again, {name: batched(infos["final_obs"], name) for name in seen}):
        assert envs.observation_space.contains(observation)
        np.testing.assert_array_equal(observation["agent_pos"], np.tile(np.arange(8), (2, 1)))
        np.testing.assert_array_equal(
            observation["pixels"]["image2"], np.broadcast_to(ramp[:, :, ::-1] // 2, (2, *SIZE, 3))
        )
        torch.from_numpy(observation["pixels"]["image2"])
    np.testing.assert_array_equal(seen["pixels"]["image"], np.broadcast_to(ramp[:, :, ::-1], (2, *SIZE, 3)))
    assert infos["final_obs"][0]["pixels"]["image"][0, :, 0].tolist() == [value + 1 for value in range(15, -1, -1)]


def batched(rows, name):
    """Return one part of the observations of single envs, as a batch."""
    if isinstance(rows[0][name], dict):
        return {key: np.stack([row[name][key] for row in rows]) for key in rows[0][name]}
    return np.stack([row[name] for row in rows])


def test_both_cameras_are_there_where_the_weights_dream_them(without_checkpoint, monkeypatch):
    for name in ("read_wrist", "read_robot_state", "read_state_error"):
        monkeypatch.setattr(Tracked, name, getattr(TwoCameras, name), raising=False)
    monkeypatch.setattr(sys.modules[__name__], "TRACKS", [True])
    envs = make_env(cfg={"task": "libero_object", "task_ids": [1], "episode_length": 8})["libero_object"][1]
    seen, _ = envs.reset(seed=[0])
    assert list(seen["pixels"]) == ["image", "image2"]
    assert seen["agent_pos"].shape == (1, 8)


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
