"""Short runs of every algorithm give the numbers of commit f4e30db, whatever has become of the code since."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophrl_algos._named import make_algorithm
from prophrl_algos.algorithms import FlowScale
from prophrl_algos.evaluate import evaluate
from prophrl_algos.flow import FlowSpec
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.trainer import Trainer, TrainerConfig

GOLDEN = Path(__file__).parents[2] / "data" / "golden_runs.json"
SPEC = FlowSpec(horizon=3, latent_dim=3, action_dim=2, exec_steps=2, num_steps=3)
BANDIT = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=4)


def numbers_of(trainer, updates=2):
    """Metrics of some updates, times left out, and two sums over the weights after them."""
    found = []
    for _ in range(updates):
        metrics = trainer.iterate()
        found.append({name: value for name, value in metrics.items() if not name.startswith("seconds")})
    weights = torch.cat([weight.detach().double().flatten() for weight in trainer.policy.parameters()])
    order = torch.arange(1, len(weights) + 1, dtype=torch.float64)
    return {"updates": found, "weights": float(weights.sum()), "weighted": float((weights * order).sum())}


def a_run(name, env):
    torch.manual_seed(0)
    policy = TinyFlowPolicy(SPEC, hidden=16)
    algorithm = make_algorithm(name, SPEC)
    kernel = list(algorithm.kernel.parameters()) if isinstance(algorithm.kernel, torch.nn.Module) else []
    optimizer = torch.optim.SGD([*policy.parameters(), *kernel], lr=0.5)
    config = TrainerConfig(
        updates=2, groups=4, group_size=4, epochs=2, minibatches=2, microbatch=3, beta=0.1, noise_level=0.7, seed=3
    )
    trainer = Trainer(policy, optimizer, env, config, algorithm=algorithm, flowscale=FlowScale())
    return numbers_of(trainer)


def a_cloning_and_its_evaluation():
    policy = TinyFlowPolicy(BANDIT, hidden=16)
    obs = policy.prepare(BanditVectorEnv(1).reset()[0], ["pull"])

    def draw(rows, generator):
        wide = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in obs.items()}
        return wide, 0.3 * torch.randn(rows, 1, 2, generator=generator)

    loss = sft(policy, draw, SftConfig(steps=30, batch_size=16, learning_rate=3e-3))
    return {"loss": loss} | evaluate(policy, BanditVectorEnv(8), 16, seed=2).metrics()


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def near(found, expected, tolerance=1e-3):
    """Equal up to what other processors round otherwise."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        return all(near(found[name], value, tolerance) for name, value in expected.items())
    if isinstance(expected, list):
        return all(near(*pair, tolerance) for pair in zip(found, expected, strict=True))
    return found == pytest.approx(expected, rel=tolerance, abs=1e-2 * tolerance)


@pytest.mark.parametrize("name", sorted(json.loads(GOLDEN.read_text()).keys() - {"sft"}))
def test_a_run_in_a_dream_whose_episodes_differ_in_length(name, golden, dream, reward_model):
    found = a_run(name, dream(reward_model=reward_model(level=90), max_episode_steps=4))
    # Where a processor lacks AVX2, the forward algorithms differ the most.
    assert near(found, golden[name], 1e-2 if name.endswith("-forward") else 1e-3)


def test_cloning_and_evaluation(golden):
    assert near(a_cloning_and_its_evaluation(), golden["sft"])
