"""Scores of the forward process: how well a policy denoises the actions that came out."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophrl_algos.algorithms import FA_GRPO_FORWARD, FLOW_GRPO_FORWARD, REINFLOW
from prophrl_algos.algorithms._algorithm import sampled_path
from prophrl_algos.evaluate import evaluate
from prophrl_algos.flow import FlowPath, FlowSchedule, FlowSpec, no_step, renoised, rescore, sample
from prophrl_algos.flow._forward import forward_step
from prophrl_algos.flow._sde import gaussian_kl
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.trainer import Trainer, TrainerConfig

SPEC = FlowSpec(horizon=3, latent_dim=4, action_dim=2, exec_steps=2, num_steps=5)
BANDIT = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=4)
LEVEL = 0.8


@pytest.fixture
def policy():
    return TinyFlowPolicy(SPEC)


@pytest.fixture
def obs(policy):
    images = np.random.default_rng(0).integers(256, size=(6, 6, 6, 3), dtype=np.uint8)
    return policy.prepare({"image": images}, [f"lift {row}" for row in range(6)])


@pytest.fixture
def sampled(policy, obs):
    generators = [torch.Generator().manual_seed(row) for row in range(6)]
    return sample(policy, obs, FlowSchedule(5, LEVEL, choose=no_step), generators)


@pytest.fixture
def path(sampled):
    return renoised(sampled, 1)


def moved(policy):
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    return other


def velocity_error(policy, obs, path, step):
    """By hand: v - (e - x_0) of the numbers that are scored, and v."""
    t, x0 = path.schedule.times[step], path.x0
    x = path.latents[:, step]
    noise = (x - (1 - t) * x0) / t
    with torch.no_grad():
        velocity = policy.velocity(policy.encode(obs, grad=False), x, t.expand(len(x)))
    return (velocity - (noise - x0))[:, :2, :2], velocity[:, :2, :2]


def test_each_time_of_the_schedule_is_the_action_and_its_share_of_noise(sampled, path):
    torch.testing.assert_close(path.x0, sampled.x0)
    times = path.schedule.times
    noise = (path.latents - (1 - times[:, None, None]) * path.x0[:, None])[:, :-1] / times[:-1, None, None]
    assert noise.mean().abs() < 0.2
    assert noise.std() == pytest.approx(1.0, abs=0.15)
    assert path.stochastic.all()
    assert not sampled.stochastic.any()


def test_noise_is_drawn_anew_for_each_path_by_itself_and_by_the_seed(sampled, path):
    assert not torch.equal(path.latents[:, 0], sampled.latents[:, 0])
    rows = torch.tensor([4, 1])
    assert torch.equal(renoised(sampled.select(rows), 1).latents, path.latents[rows])
    assert not torch.equal(renoised(sampled, 2).latents[:, 0], path.latents[:, 0])
    assert not torch.equal(path.latents[0, 0], path.latents[1, 0])
    assert len(renoised(sampled.select(rows[:0]), 1)) == 0


def test_what_is_made_for_scoring_is_not_sampled_by(policy, obs, path):
    with pytest.raises(ValueError, match="cannot be sampled by"):
        sample(policy, obs, path.schedule, [torch.Generator()] * 6)


def test_the_log_density_is_the_squared_error_of_the_velocity(policy, obs, path):
    scores = rescore(policy, obs, path)
    constant = rescore(moved(policy), obs, path).log_prob - scores.log_prob
    for step in range(5):
        error, _ = velocity_error(policy, obs, path, step)
        other, _ = velocity_error(moved(policy), obs, path, step)
        expected = (error**2 - other**2) / (2 * LEVEL**2)
        torch.testing.assert_close(constant[:, step], expected, atol=1e-4, rtol=1e-3)
    assert scores.log_prob.requires_grad
    torch.testing.assert_close(scores.std[0, :, 0, 0], LEVEL * path.schedule.times[:-1])


def test_the_kl_is_the_squared_difference_of_the_velocities(policy, obs, path):
    one, other = (rescore(each, obs, path, grad=False) for each in (policy, moved(policy)))
    kl = gaussian_kl(one.mean, one.std, other.mean, other.std)
    for step in range(5):
        difference = velocity_error(policy, obs, path, step)[1] - velocity_error(moved(policy), obs, path, step)[1]
        torch.testing.assert_close(kl[:, step], difference**2 / (2 * LEVEL**2), atol=1e-4, rtol=1e-3)


def test_paths_are_cut_joined_and_sent_as_sampled_ones_are(policy, obs, path):
    whole = rescore(policy, obs, path, grad=False)
    rows = torch.tensor([4, 1])
    joined = FlowPath.cat([path.select(rows), path.select(rows[:1])]).to(torch.device("cpu"))
    few = {name: tensor[torch.tensor([4, 1, 4])] for name, tensor in obs.items()}
    again = rescore(policy, few, joined, grad=False)
    torch.testing.assert_close(again.log_prob, whole.log_prob[[4, 1, 4]], atol=1e-4, rtol=1e-4)


def test_a_perfect_velocity_finds_the_action_at_any_time():
    x0, noise, t = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([[0.3], [1.0]])
    mean, std = forward_step(torch.lerp(x0, noise, t), noise - x0, t, 0.0, noise_level=2.0)
    torch.testing.assert_close(mean, x0)
    assert std[:, 0].tolist() == pytest.approx([0.6, 2.0])


@pytest.mark.parametrize("algorithm", [FA_GRPO_FORWARD, FLOW_GRPO_FORWARD], ids=lambda algorithm: algorithm.name)
def test_a_policy_that_denoises_learns_the_bandit_by_it(algorithm):
    policy = TinyFlowPolicy(BANDIT)
    obs = policy.prepare(BanditVectorEnv(1).reset()[0], ["pull"])

    def draw(rows, generator):
        wide = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in obs.items()}
        return wide, 0.3 * torch.randn(rows, 1, 2, generator=generator)

    sft(policy, draw, SftConfig(steps=200, batch_size=64, learning_rate=3e-3))
    before = evaluate(policy, BanditVectorEnv(64), 64).metrics()["return"]
    config = TrainerConfig(groups=4, group_size=8, epochs=4, beta=0.0, noise_level=1.0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, betas=(0.9, 0.95))
    trainer = Trainer(policy, optimizer, BanditVectorEnv(32), config, algorithm=algorithm)
    for _ in range(12):
        trainer.iterate()
    assert before < 0.4
    assert evaluate(policy, BanditVectorEnv(64), 64).metrics()["return"] > before + 0.3


@pytest.mark.parametrize(
    ("algorithm", "error"),
    [
        (replace(FA_GRPO_FORWARD, path=sampled_path), "choose=every_step, or path=renoised"),
        (replace(REINFLOW.sized(BANDIT), path=renoised), "the kernel would learn nothing"),
    ],
)
def test_what_would_learn_nothing_is_refused(algorithm, error):
    policy = TinyFlowPolicy(BANDIT)
    kernel = algorithm.kernel.parameters() if isinstance(algorithm.kernel, torch.nn.Module) else []
    optimizer = torch.optim.SGD([*policy.parameters(), *kernel], lr=0.1)
    with pytest.raises(ValueError, match=error):
        Trainer(policy, optimizer, BanditVectorEnv(8), TrainerConfig(groups=1, beta=0.0), algorithm=algorithm)


def test_every_update_has_noise_of_its_own_and_the_kl_is_to_the_reference():
    policy, seeds = TinyFlowPolicy(BANDIT), []

    def spied(path, seed):
        seeds.append(seed)
        return renoised(path, seed)

    config = TrainerConfig(groups=1, beta=1.0, minibatches=2, epochs=2)
    trainer = Trainer(
        policy,
        torch.optim.SGD(policy.parameters(), lr=0.0),
        BanditVectorEnv(8),
        config,
        algorithm=replace(FA_GRPO_FORWARD, path=spied),
    )
    trainer.reference.load_state_dict(moved(policy).state_dict())
    first, _ = trainer.iterate(), trainer.iterate()
    assert len(seeds) == len(set(seeds)) == 2
    assert first["ratio_min"] == pytest.approx(1, abs=1e-4)
    assert first["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert first["kl"] > 1e-4


def test_times_may_be_given_per_row():
    x, v = torch.randn(2, 2), torch.randn(2, 2)
    t = torch.tensor([[1.0], [0.5]])
    mean, std = forward_step(x, v, t, 0.0, noise_level=0.3)
    torch.testing.assert_close(mean, x - t * v)
    torch.testing.assert_close(std, torch.tensor([[0.3, 0.3], [0.15, 0.15]]))
