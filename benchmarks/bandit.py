"""Run every algorithm on a bandit of known optimum, on one budget: learning curves, and each flow step's gradients.

    python -m benchmarks.bandit --json benchmarks/results/bandit.json

A tiny flow policy over 2-D actions is first fitted to N(0, 0.3^2), then improved for `updates` rounds of 64 pulls with
`epochs` optimizer steps each; the reward is 1 at one point and falls off around it. Curves are of the mean reward of
the policy's ODE, without noise. The optimum is 1.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophrl_algos.algorithms import FA_GRPO, FLOW_GRPO, GRPO_GUARD, PI_RL, REINFLOW, Algorithm
from prophrl_algos.algorithms.flowscale import FlowScale, flowscale_weights, scale_gradients
from prophrl_algos.evaluate import evaluate
from prophrl_algos.flow import FlowSchedule, FlowSpec, rescore, sample, step_stds
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.trainer import Trainer, TrainerConfig

SPEC = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=10)
OFF, ON = None, FlowScale()
ARMS: dict[str, tuple[Callable[[], Algorithm], FlowScale | None]] = {
    "FA-GRPO": (lambda: FA_GRPO, OFF),
    "FA-GRPO + FlowScale": (lambda: FA_GRPO, ON),
    "Flow-GRPO": (lambda: FLOW_GRPO, OFF),
    "Flow-GRPO + FlowScale": (lambda: FLOW_GRPO, ON),
    "GRPO-Guard": (lambda: GRPO_GUARD, OFF),
    "pi_RL": (lambda: PI_RL, OFF),
    "ReinFlow": (lambda: REINFLOW.sized(SPEC), OFF),
}
ONE_STEP = ("FA-GRPO", "Flow-GRPO")
SPREADS = {
    "before": FlowScale(alpha=1.0),
    "defaults": FlowScale(),
    "alpha 0": FlowScale(alpha=0.0),
    "alpha 0, unclipped": FlowScale(alpha=0.0, w_min=0.0, w_max=1e6),
}


@dataclass(frozen=True)
class Args:
    seeds: int = 10
    updates: int = 20
    epochs: int = 4
    evaluate_every: int = 4
    learning_rate: float = 1e-3
    json: Path | None = None


def start(seed: int) -> TinyFlowPolicy:
    """Fit the policy before reinforcement: its actions are near N(0, 0.3^2)."""
    policy = TinyFlowPolicy(SPEC, seed=seed)
    obs = policy.prepare(BanditVectorEnv(1).reset()[0], ["pull"])

    def draw(rows: int, generator: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        wide = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in obs.items()}
        return wide, 0.3 * torch.randn(rows, 1, 2, generator=generator)

    sft(policy, draw, SftConfig(steps=300, batch_size=128, learning_rate=3e-3, seed=seed))
    return policy


def learn(policy: TinyFlowPolicy, arm: str, seed: int, args: Args, epochs: int) -> Iterator[tuple[int, float]]:
    """Return (update, mean reward) along a run."""
    make, flowscale = ARMS[arm]
    algorithm, policy = make(), copy.deepcopy(policy)
    kernel = algorithm.kernel.parameters() if isinstance(algorithm.kernel, torch.nn.Module) else []
    optimizer = torch.optim.AdamW([*policy.parameters(), *kernel], lr=args.learning_rate, betas=(0.9, 0.95))
    config = TrainerConfig(updates=args.updates, groups=8, group_size=8, epochs=epochs, beta=0.0, seed=seed)
    trainer = Trainer(policy, optimizer, BanditVectorEnv(64), config, algorithm=algorithm, flowscale=flowscale)
    yield 0, reward(policy)
    while trainer.done < args.updates:
        trainer.iterate()
        if trainer.done % args.evaluate_every == 0:
            yield trainer.done, reward(policy)


def reward(policy: TinyFlowPolicy) -> float:
    return evaluate(policy, BanditVectorEnv(128), 128).metrics()["return"]


def interval(curves: np.ndarray) -> list[dict[str, float]]:
    """Return the mean over seeds with a 95% bootstrap interval, per point."""
    picks = np.random.default_rng(0).integers(len(curves), size=(2000, len(curves)))
    low, high = np.quantile(curves[picks].mean(1), [0.025, 0.975], axis=0)
    triples = zip(curves.mean(0), low, high, strict=True)
    return [{"mean": float(m), "low": float(a), "high": float(b)} for m, a, b in triples]


def gradient_spread(policy: TinyFlowPolicy, rows: int = 1024) -> dict[str, Any]:
    """Return ||dl_k/dv|| per flow step, averaged over samples, under each setting of FlowScale."""
    schedule = FlowSchedule(SPEC.num_steps, 0.5)
    obs = policy.prepare(BanditVectorEnv(rows).reset()[0], ["pull"] * rows)
    path = sample(policy, obs, schedule, [torch.Generator().manual_seed(row) for row in range(rows)])
    gains = (schedule.probe(SPEC.latent_dim, 1.0)[0] - schedule.probe(SPEC.latent_dim)[0]).abs().mean(1)
    found = {}
    for name, setting in SPREADS.items():
        scores = rescore(policy, obs, path)
        scores.mean.retain_grad()
        weights = flowscale_weights(step_stds(path.scores, path.stochastic), setting)
        scale_gradients(scores.log_prob, weights).sum().backward()
        assert scores.mean.grad is not None
        norms = (scores.mean.grad.flatten(2).norm(dim=2) * gains).mean(0)
        found[name] = {"norms": norms.tolist(), "spread": float(norms.max() / norms.min())}
    return found


def identity(policy: TinyFlowPolicy, seed: int) -> float:
    """Return the largest difference of FA-GRPO's and K times Flow-GRPO's on-policy gradient, by the norm."""
    gradients = []
    for arm, scale in (("FA-GRPO", 1.0), ("Flow-GRPO", float(SPEC.num_steps))):
        trained = copy.deepcopy(policy)
        before = torch.cat([weight.detach().flatten() for weight in trained.parameters()])
        config = TrainerConfig(groups=8, group_size=8, beta=0.0, seed=seed, max_grad_norm=1e9)
        optimizer = torch.optim.SGD(trained.parameters(), lr=scale)
        Trainer(trained, optimizer, BanditVectorEnv(64), config, algorithm=ARMS[arm][0]()).iterate()
        gradients.append(before - torch.cat([weight.detach().flatten() for weight in trained.parameters()]))
    return float((gradients[0] - gradients[1]).norm() / gradients[0].norm())


def main(args: Args) -> None:
    from prophet_gym.evaluation._report import machine, write_json

    began = time.perf_counter()
    starts = [start(seed) for seed in range(args.seeds)]
    curves: dict[str, Any] = {}
    runs = [(arm, args.epochs) for arm in ARMS] + [(arm, 1) for arm in ONE_STEP]
    for arm, epochs in runs:
        found = [list(learn(policy, arm, seed, args, epochs)) for seed, policy in enumerate(starts)]
        table = np.array([[value for _, value in curve] for curve in found])
        name = arm if epochs == args.epochs else f"{arm}, 1 step"
        curves[name] = {
            "updates": [update for update, _ in found[0]],
            "curve": interval(table),
            "final": table[:, -1].tolist(),
            "seeds_at_90_percent": int((table[:, -1] >= 0.9).sum()),
        }
        print(f"{name:<24} {table[:, -1].mean():.3f} (worst seed {table[:, -1].min():.3f})", flush=True)
    spread = gradient_spread(starts[0])
    for name, each in spread.items():
        print(f"spread of the gradient over flow steps, {name}: {each['spread']:.1f}")
    write_json(
        args.json,
        {
            "settings": {"seeds": args.seeds, "updates": args.updates, "epochs": args.epochs,
                         "learning_rate": args.learning_rate, "rollouts": 64, "flow_steps": SPEC.num_steps},
            "curves": curves,
            "gradient": spread,
            "one_step_identity": [identity(policy, seed) for seed, policy in enumerate(starts)],
            "seconds": round(time.perf_counter() - began, 1),
            "machine": machine(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Args))
