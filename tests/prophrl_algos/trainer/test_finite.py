"""A reward that is no finite number is refused with the sub-environment and the task that it came from."""

import math

import pytest
import torch
from gymnasium.vector import VectorWrapper

from prophrl_algos.evaluate import evaluate
from prophrl_algos.trainer import Trainer, TrainerConfig

CONFIG = TrainerConfig(groups=2, group_size=4, beta=0.0)


class OneWrong(VectorWrapper):
    """Gives sub-environment 5 a wrong reward, judged or not."""

    def __init__(self, env, value, scored=True):
        super().__init__(env)
        self.value, self.scored, self.tasks = value, scored, None

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        self.tasks = info["task"].copy()
        return observation, info

    def step(self, actions):
        observation, reward, terminated, truncated, info = self.env.step(actions)
        reward = reward.copy()
        reward[5] = self.value
        info["scored"] = info["scored"].copy()
        info["scored"][5] = self.scored
        return observation, reward, terminated, truncated, info


def trainer_of(env, policy, **kwargs):
    return Trainer(policy, torch.optim.AdamW(policy.parameters(), lr=1e-2), env, CONFIG, **kwargs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_training_names_where_it_came_from_and_changes_nothing(dream, tiny, reward_model, value):
    policy, env = tiny(), OneWrong(dream(reward_model=reward_model(level=20)), value)
    before = [weight.clone() for weight in policy.parameters()]
    trainer = trainer_of(env, policy)
    with pytest.raises(ValueError, match=rf"sub-environment 5 \(task \d+, '\w.*'\) gave the reward {value}") as refused:
        trainer.iterate()
    assert f"(task {env.tasks[5]}," in str(refused.value)
    assert trainer.done == 0
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_evaluation_refuses_it_too(dream, tiny, value):
    env = OneWrong(dream(), value)
    with pytest.raises(ValueError, match=rf"sub-environment 5 \(task \d+, .* gave the reward {value}"):
        evaluate(tiny(), env, 8)


def test_a_reward_that_says_it_is_not_valid_is_left_out(dream, tiny, reward_model):
    policy = tiny()
    metrics = trainer_of(OneWrong(dream(reward_model=reward_model(level=20)), math.nan, scored=False), policy).iterate()
    assert metrics["scored"] == pytest.approx(7 / 8)
    assert math.isfinite(metrics["return"])


def test_advantages_that_are_not_finite_are_refused(dream, tiny, reward_model):
    from dataclasses import replace

    from prophrl_algos.algorithms import FA_GRPO

    def broken(returns, groups, scored):
        return torch.full_like(returns, math.inf)

    trainer = trainer_of(
        dream(reward_model=reward_model(level=20)), tiny(), algorithm=replace(FA_GRPO, advantages=broken)
    )
    with pytest.raises(ValueError, match=r"the advantage of rollout 0 \(group 0\) is inf, and 8 of 8 rollouts"):
        trainer.iterate()


def test_a_run_of_any_length_is_begun_at_once(dream, tiny):
    policy = tiny()
    endless = TrainerConfig(updates=10**12, groups=2, group_size=4, beta=0.0)
    trainer = Trainer(policy, torch.optim.AdamW(policy.parameters()), dream(), endless)
    trainer.iterate()
    assert trainer.done == 1
