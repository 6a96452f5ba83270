"""Precision: autocast is the policy's alone, and torch's default dtype changes nothing."""

import numpy as np
import pytest
import torch
from gymnasium.vector import VectorWrapper

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.prophet import tiny_prophet
from prophet_gym.specs import InitialState
from prophrl_algos._named import make_algorithm
from prophrl_algos.algorithms import ALGORITHMS, FlowScale
from prophrl_algos.evaluate import evaluate
from prophrl_algos.flow import FlowSpec
from prophrl_algos.trainer import Trainer, TrainerConfig

SPEC = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=4)


class Resting(TinyFlowPolicy):
    """Computes, and then sends the same commands whatever it has computed."""

    def velocity(self, ctx, x, t):
        self.precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return super().velocity(ctx, x, t)

    def decode(self, x0, obs):
        return torch.full_like(super().decode(x0, obs), 0.5)


class Watched(VectorWrapper):
    """Keeps every frame that is dreamt."""

    def __init__(self, env):
        super().__init__(env)
        self.frames = []

    def step(self, actions):
        result = self.env.step(actions)
        self.frames.append(result[4]["frames"].copy())
        return result


def dreamt_under(autocast):
    start = InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "rest")
    env = Watched(ProphetVectorEnv(tiny_prophet(), [start], 2, max_episode_steps=2, autoreset_mode="Disabled"))
    policy = Resting(FlowSpec(8, 7, 7, 8, 2), hidden=8)
    optimizer = torch.optim.AdamW(policy.parameters())
    config = TrainerConfig(groups=1, group_size=2, beta=0.0)
    Trainer(policy, optimizer, env, config, autocast=autocast).iterate()
    return np.concatenate(env.frames), policy.precision


def test_autocast_covers_the_policy_and_not_the_dream():
    (plain, before), (cast, during) = dreamt_under(None), dreamt_under(torch.bfloat16)
    assert (before, during) == (torch.float32, torch.bfloat16)
    assert len(np.unique(plain)) > 1
    np.testing.assert_array_equal(plain, cast)


@pytest.fixture
def double():
    """torch's default dtype as float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def learnt(name):
    policy = TinyFlowPolicy(SPEC, hidden=16)
    torch.manual_seed(0)
    algorithm = make_algorithm(name, SPEC)
    kernel = list(algorithm.kernel.parameters()) if isinstance(algorithm.kernel, torch.nn.Module) else []
    trainer = Trainer(
        policy,
        torch.optim.AdamW([*policy.parameters(), *kernel], lr=1e-3),
        BanditVectorEnv(8),
        TrainerConfig(groups=2, group_size=4, beta=0.1, epochs=2, minibatches=2),
        algorithm=algorithm,
        flowscale=FlowScale(),
    )
    trainer.iterate()
    found = evaluate(policy, BanditVectorEnv(8), 8).metrics()["return"]
    return torch.cat([weight.detach().flatten() for weight in policy.parameters()]), found


# ReinFlow's kernel draws its weights in the default dtype, so it learns, and from another start.
SAME = [name for name in ALGORITHMS if name != "reinflow"]


@pytest.fixture(scope="module")
def in_single():
    return {name: learnt(name) for name in SAME}


@pytest.mark.parametrize("name", SAME)
def test_a_default_of_float64_changes_no_bit(name, in_single, double):
    weights, found = learnt(name)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, in_single[name][0])
    assert found == in_single[name][1]


def test_learnt_noise_is_learnt_under_a_default_of_float64(double):
    weights, found = learnt("reinflow")
    assert weights.dtype == torch.float32
    assert np.isfinite(found)


def test_a_policy_that_is_made_under_a_default_of_float64_acts_in_float32(double):
    from prophrl_algos.vla import SmallVLA

    policy = SmallVLA(8, 7, 2, image_size=16, places=2, width=16, layers=1).train()
    seen = {"image": np.zeros((2, 64, 64, 3), np.uint8)}
    obs = policy.prepare(seen, ["lift", "push"])
    loss = policy.sft_loss(obs, torch.zeros(2, 8, 7, dtype=torch.float32), generator=torch.Generator().manual_seed(0))
    assert loss.dtype == torch.float32
    assert all(weight.dtype == torch.float32 for weight in policy.parameters())
