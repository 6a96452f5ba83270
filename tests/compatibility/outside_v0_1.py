"""Use prophet_gym 0.1 as a program of somebody else does: with names of docs/api.md alone.

    python tests/compatibility/outside_v0_1.py FOLDER

This file is frozen: it runs unchanged with every release 0.1.x, see test_outside.py beside it.
"""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.checkpoint import Checkpoint, bundled_checkpoints
from prophet_gym.envs import InitialStates, ProphetVectorEnv, read_initial_states, write_initial_states
from prophet_gym.errors import InvalidActionError, ProphetError
from prophet_gym.evaluation import rank
from prophet_gym.rewards import FunctionReward
from prophet_gym.specs import InitialState
from prophet_gym.testing import check_prophet_env, check_reward_model, check_world_model
from prophet_gym.world_model import Chunk, RewardOutput, WorldModel
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.algorithms import ALGORITHMS, FlowScale
from prophrl_algos.evaluate import evaluate
from prophrl_algos.flow import FlowSchedule, sample
from prophrl_algos.run import run
from prophrl_algos.testing import check_flow_policy
from prophrl_algos.trainer import Trainer, TrainerConfig
from prophrl_algos.vla import SmallVLA

UPDATES = 3


class Lamp:
    """Dream of a grey room, which every action's first number makes lighter or darker."""

    chunk, frame_size, action_dim = 8, (32, 32), 7

    def __init__(self, gain: float = 8.0) -> None:
        self.gain = gain

    def encode(self, frames):
        return {"light": frames[:, -1].float().mean((1, 2, 3))}

    def rollout(self, state, actions, *, generators):
        flicker = torch.stack([torch.rand(self.chunk, generator=each) for each in generators])
        light = (state["light"][:, None] + (self.gain * actions[..., 0]).cumsum(1)).clamp(0, 250)
        frames = (light + flicker).to(torch.uint8)[:, :, None, None, None].expand(-1, -1, *self.frame_size, 3)
        return Chunk({"light": light[:, -1]}, frames.contiguous(), uncertainty=flicker.mean(1))


class Bright:
    """Reward how light the newest frame is, and call it done where it is nearly white."""

    when, stride, max_frames = "chunk", 1, 1

    def score(self, videos, instructions):
        light = torch.stack([video[-1].float().mean() / 255 for video in videos])
        return RewardOutput(light, torch.ones(len(videos), dtype=torch.bool), done=light > 0.9)


def first_dream() -> None:
    """Make, reset, step: the bundled world model, one env and two at once."""
    assert "libero_object" in bundled_checkpoints()["libero_small"]
    env = gym.make("Prophet-LIBERO-v0", max_episode_steps=2)
    observation, info = env.reset(seed=0, options={"task": 3})
    assert observation["image"].shape == (128, 128, 3)
    assert observation["image"].dtype == np.uint8
    assert "bbq sauce" in info["instruction"]
    low, high = env.action_space.low, env.action_space.high
    assert low.shape == (8, 7)
    observation, reward, terminated, truncated, info = env.step(np.zeros((8, 7), np.float32))
    assert info["frames"].shape == (8, 128, 128, 3)
    assert (isinstance(reward, float), terminated, truncated) == (True, False, False)
    *_, truncated, _ = env.step((low + high).astype(np.float32) / 2)
    assert truncated
    env.reset()
    refused = False
    try:
        env.step(np.full((8, 7), 2.0, np.float32))
    except InvalidActionError:
        refused = issubclass(InvalidActionError, ProphetError)
    assert refused
    env.close()
    envs = gym.make_vec("Prophet-LIBERO-v0", num_envs=2, reward=None, tasks=[3])
    observation, _ = envs.reset(seed=0)
    assert observation["image"].shape == (2, 128, 128, 3)
    observation, *_ = envs.step(envs.action_space.sample())
    assert len(observation["image"]) == 2
    envs.close()
    bundled = Checkpoint.named("bundled")
    assert bundled.world_model("cpu").chunk == 8
    assert len(bundled.initial_states("train", tasks=[3]))


def own_parts(folder: Path) -> InitialStates:
    """Bring a world model, a reward and initial states, have them checked, and write and read the last."""
    check_world_model(Lamp())
    assert isinstance(Lamp(), WorldModel)
    check_reward_model(Bright())
    check_reward_model(FunctionReward(lambda video, instruction: float(video[-1].float().mean()) / 256))
    states = [
        InitialState(np.full((1, 32, 32, 3), 60 + 10 * task, np.uint8), "make it light", task=task, split="train")
        for task in range(2)
    ]
    write_initial_states(folder / "states", states)
    found = read_initial_states(folder / "states")
    assert len(found) == 2
    check_prophet_env(make_env(found, 2))
    return found


def make_env(states: InitialStates, num_envs: int, gain: float = 8.0) -> ProphetVectorEnv:
    """Return dreams of the lamp, three chunks long."""
    return ProphetVectorEnv(
        Lamp(gain), states, num_envs, reward_model=Bright(), max_episode_steps=3, autoreset_mode="Disabled"
    )


def make_policy(seed: int = 0) -> SmallVLA:
    """Return a policy so small that it learns in seconds."""
    return SmallVLA(num_steps=2, image_size=16, places=2, width=16, layers=1, seed=seed).eval()


def learn(states: InitialStates, folder: Path) -> SmallVLA:
    """Improve a policy for three updates, in a folder from which a run resumes; save it and load it again."""
    policy = make_policy()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    check_flow_policy(policy, {"image": images}, ["make it light", "make it dark", "stop"])
    assert {"fa-grpo", "flow-grpo", "pi-rl"} <= set(ALGORITHMS)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    config = TrainerConfig(updates=UPDATES, groups=2, group_size=4, beta=0.0)
    env = make_env(states, 8)
    trainer = Trainer(policy, optimizer, env, config, algorithm=ALGORITHMS["fa-grpo"], flowscale=FlowScale())
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    run(trainer, folder / "run")
    assert trainer.done == UPDATES
    assert (folder / "run" / "last.pt").is_file()
    assert any(not torch.equal(before[name], weight) for name, weight in policy.state_dict().items())
    policy.save_pretrained(folder / "policy")
    loaded = load_policy(str(folder / "policy"), LoadOptions(num_steps=2))
    assert isinstance(loaded, SmallVLA)
    observation, _ = env.reset(seed=0)
    obs = policy.prepare(observation, ["make it light"] * 8)
    schedule = FlowSchedule(policy.spec.num_steps, 0.0)
    noise = [[torch.Generator().manual_seed(row) for row in range(8)] for _ in range(2)]
    with torch.no_grad():
        ours, theirs = (sample(each, obs, schedule, own).x0 for each, own in zip((policy, loaded), noise, strict=True))
    assert torch.equal(ours, theirs)
    return policy


def compare(policy: SmallVLA, states: InitialStates) -> None:
    """Evaluate four policies in two worlds, and rank them."""
    policies = {"learnt": policy} | {f"untrained {seed}": make_policy(seed) for seed in range(1, 4)}
    asked = [{"task": task, "start": 0} for task in range(2)]
    tables = []
    for gain in (8.0, 6.0):
        found = [evaluate(each, make_env(states, 2, gain), asked, seed=0) for each in policies.values()]
        assert all(0.0 <= each.success <= 1.0 and len(each.interval) == 2 for each in found)
        tables.append(np.array([[float(one.success) for one in each.episodes] for each in found]))
    ranking = rank(*tables, names=list(policies), tasks=[each["task"] for each in asked])
    assert [each["name"] for each in ranking["policies"]] == list(policies)
    assert {"pearson", "spearman", "mmrv", "bias"} <= set(ranking)


def main(folder: Path) -> None:
    """Do all of it."""
    torch.set_num_threads(1)
    first_dream()
    states = own_parts(folder)
    compare(learn(states, folder), states)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
