"""Stable-Baselines3 itself drives the dream."""

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics, RescaleAction

from prophet_gym.envs import (
    EmbedInstruction,
    OneActionPerChunkVector,
    OneActionPerStepVector,
    ProphetTorchVectorEnv,
    ProphetVectorEnv,
    StackFrames,
    ViewedVector,
    one_hot_table,
)
from prophet_gym.errors import UnknownOptionError
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, counting_starts

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import VecMonitor

from prophet_gym.interop.sb3 import Sb3VecEnv, acting

CHUNK = 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:stable_baselines3")


def make(num_envs: int = 3, size: tuple[int, int] = (8, 8), **kwargs: Any) -> ProphetVectorEnv:
    model = CountingWorldModel(chunk=CHUNK, frame_size=size, action_dim=2, noise=kwargs.pop("noise", True))
    kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP, "max_episode_steps": 3, **kwargs}
    return ProphetVectorEnv(model, counting_starts(tasks=1, per_task=1, size=size), num_envs, **kwargs)


def test_ends_come_with_what_was_seen_last():
    reward_model = FunctionReward(lambda video, _: float(video[-1, 0, 0, 1] >= 60))
    envs = Sb3VecEnv(make(2, reward_model=reward_model, noise=False))
    envs.seed(0)
    assert envs.reset()["image"][:, 0, 0].tolist() == [[0, 0, 0]] * 2
    actions = np.zeros((2, CHUNK, 2), np.float32)
    actions[1, :, 0] = 0.3
    image, rewards, dones, infos = envs.step(actions)
    assert dones.tolist() == [False, True]
    assert rewards.tolist() == [0.0, 1.0]
    assert rewards.dtype == np.float32
    assert infos[1]["terminal_observation"]["image"][0, 0].tolist() == [CHUNK, 60, 0]
    assert (infos[1]["TimeLimit.truncated"], infos[1]["is_success"]) == (False, True)
    assert image["image"][:, 0, 0].tolist() == [[CHUNK, 0, 0], [0, 0, 0]]
    assert envs.reset_infos[1]["task"] == 0
    for _ in range(2):
        *_, dones, infos = envs.step(actions * 0)
    assert dones.tolist() == [True, False]
    assert (infos[0]["TimeLimit.truncated"], infos[0]["is_success"]) == (True, False)


def test_seeds_options_and_attributes():
    one, other = Sb3VecEnv(make()), Sb3VecEnv(make())
    one.seed(3), other.seed(3)
    one.set_options({"task": 0}), other.set_options([{"task": 0}] * 3)
    one.reset(), other.reset()
    actions = np.zeros((3, CHUNK, 2), np.float32)
    np.testing.assert_array_equal(one.step(actions)[0]["image"], other.step(actions)[0]["image"])
    assert one.get_attr("max_episode_steps") == [3, 3, 3]
    assert one.get_attr("num_envs", indices=1) == [3]
    one.set_attr("max_episode_steps", 5)
    assert one.envs.unwrapped.max_episode_steps == 5
    with pytest.raises(ValueError, match="without indices"):
        one.set_attr("max_episode_steps", 5, indices=[0])
    with pytest.raises(NotImplementedError, match="call get_state on the `envs`"):
        one.env_method("get_state")
    one.set_options([{"task": 0}, {}, {}])
    with pytest.raises(ValueError, match="one dict for all"):
        one.reset()
    with pytest.raises(RuntimeError, match="step_async before"):
        other.step_wait()


def test_a_queue_and_own_starts_are_options_too():
    starts = counting_starts(tasks=1, per_task=4)
    envs = Sb3VecEnv(make())
    envs.set_options({"queue": starts})
    assert envs.reset()["image"][:, 0, 0, 0].tolist() == [0, 4, 8]
    envs.set_options({"starts": [starts[3]] * 3})
    assert envs.reset()["image"][:, 0, 0, 0].tolist() == [12] * 3


def test_tensors_are_refused():
    model = CountingWorldModel(chunk=CHUNK)
    with pytest.raises(ValueError, match="Sb3VecEnv works on arrays, and ProphetTorchVectorEnv gives tensors"):
        Sb3VecEnv(ProphetTorchVectorEnv(model, counting_starts(), 2, autoreset_mode="SameStep"))


def test_another_autoreset_mode_is_refused():
    with pytest.raises(ValueError, match="SAME_STEP, got"):
        Sb3VecEnv(make(autoreset_mode="NextStep"))


def test_ppo_learns_from_images():
    """Green rises with the action: the reward is how green the last frame is."""
    reward_model = FunctionReward(lambda video, _: float(video[-1, 0, 0, 1]) / 300)
    size = (36, 36)
    starts = counting_starts(tasks=1, per_task=1, size=size)
    model = CountingWorldModel(chunk=1, frame_size=size, action_dim=1, noise=False)
    envs = ProphetVectorEnv(
        model, starts, 16, reward_model=reward_model, max_episode_steps=1, autoreset_mode=AutoresetMode.SAME_STEP
    )
    viewed = ViewedVector(envs, EmbedInstruction(one_hot_table(["count task 0", "other"])))
    venv = VecMonitor(Sb3VecEnv(viewed))
    small = {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}}
    agent = PPO(
        "MultiInputPolicy",
        venv,
        n_steps=8,
        batch_size=64,
        n_epochs=4,
        learning_rate=3e-3,
        gamma=0.0,
        seed=0,
        policy_kwargs=small,
        device="cpu",
    )

    def mean_return() -> float:
        observation = venv.reset()
        action, _ = agent.predict(observation, deterministic=True)
        return float(venv.step(action)[1].mean())

    before = mean_return()
    agent.learn(1024)
    assert mean_return() > max(0.25, before)
    assert len(agent.ep_info_buffer) > 0


def test_frame_stacks_are_observations_too():
    envs = Sb3VecEnv(ViewedVector(make(), StackFrames(2)))
    assert envs.observation_space["image"].contains(envs.reset()["image"][0])


WRAPPED = {
    "one action per chunk": lambda envs: OneActionPerChunkVector(envs, (0,), (0, 0)),
    "one action per step": OneActionPerStepVector,
    "stacked": lambda envs: ViewedVector(envs, StackFrames(2)),
    "Gymnasium's statistics": RecordEpisodeStatistics,
    "Gymnasium's rescaling": lambda envs: RescaleAction(envs, np.float32(-2), np.float32(2)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_an_env_in_wrappers_keeps_what_it_declares(name):
    inner = make(render_mode="rgb_array", fps=6.0)
    wrapped = WRAPPED[name](inner)
    envs = Sb3VecEnv(wrapped)
    assert envs.metadata == wrapped.metadata
    assert envs.metadata["render_fps"] == (6.0 if name == "one action per step" else 3.0)
    assert envs.render_mode == "rgb_array"
    assert envs.get_attr("fps") == [6.0] * 3
    assert envs.get_attr("spec") == [inner.spec] * 3
    envs.seed(0)
    envs.reset()
    ended = 0
    for _ in range(3 * CHUNK):
        _, _, dones, infos = envs.step(np.zeros((3, *envs.action_space.shape), np.float32))
        assert all({"task", "start", "executed", "scored", "success", "live"} <= set(info) for info in infos)
        ended += int(dones.sum())
    assert ended >= 3
    assert envs.get_images()[0].shape == (8, 8, 3)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_chunks_are_actions_of_any_algorithm_and_what_is_saved_acts(algorithm, tmp_path):
    size = (36, 36)
    world = CountingWorldModel(chunk=3, frame_size=size, action_dim=2)
    envs = ProphetVectorEnv(world, counting_starts(size=size), 2, max_episode_steps=2, autoreset_mode="SameStep")
    sizes = {"n_steps": 2} if algorithm is PPO else {"learning_starts": 2, "buffer_size": 9}
    agent = algorithm("MultiInputPolicy", VecMonitor(Sb3VecEnv(envs)), batch_size=4, seed=0, device="cpu", **sizes)
    agent.learn(8)
    action, _ = agent.predict(agent.get_env().reset())
    assert action.shape == (2, 3, 2)
    agent.save(tmp_path / "agent")
    act = acting(envs, str(tmp_path / "agent.zip"), algorithm.__name__)
    seen = {"image": np.full((2, *size, 3), 90, np.uint8)}
    assert np.allclose(act(seen, []), agent.predict(seen, deterministic=True)[0])
    with pytest.raises(UnknownOptionError, match="algorithm"):
        acting(envs, str(tmp_path / "agent.zip"), "PPOO")
