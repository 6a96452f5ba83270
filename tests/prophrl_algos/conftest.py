"""Tiny policies and counting dreams that the tests of the trainer share."""

import pytest
import torch

from benchmarks.toys import TinyFlowPolicy
from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.testing import CountingWorldModel, counting_starts
from prophet_gym.world_model import RewardOutput
from prophrl_algos.flow import FlowSpec


class GreenJudge:
    """Success once the top left pixel is `level` to 127 greener than red: a reward that actions decide."""

    when, stride, max_frames = "chunk", 1, 1

    def __init__(self, level=0, scored=True):
        self.level, self.scored = level, scored

    def score(self, videos, instructions):
        gap = [int(v[-1, 0, 0, 1]) - int(v[-1, 0, 0, 0]) for v in videos]
        reward = torch.tensor([float(self.level <= g < 128) for g in gap])
        scored = torch.full((len(videos),), self.scored)
        return RewardOutput(torch.where(scored, reward, 0.0), scored)


@pytest.fixture
def dream():
    """`dream(num_envs, **kwargs)`: the counting model behind the vector env, autoreset DISABLED."""

    def make(num_envs=8, chunk=2, reward_model=None, action_dim=2, **kwargs):
        model = CountingWorldModel(chunk=chunk, action_dim=action_dim)
        kwargs = {"max_episode_steps": 3, "autoreset_mode": "Disabled", "starts": counting_starts()} | kwargs
        return ProphetVectorEnv(
            model, kwargs.pop("starts"), num_envs, reward_model=reward_model or GreenJudge(), **kwargs
        )

    return make


@pytest.fixture
def tiny():
    """`tiny(**sizes)`: a policy for `dream`."""

    def make(**sizes):
        spec = {"horizon": 3, "latent_dim": 3, "action_dim": 2, "exec_steps": 2, "num_steps": 3} | sizes
        return TinyFlowPolicy(FlowSpec(**spec), hidden=16)

    return make


@pytest.fixture
def reward_model():
    return GreenJudge
