"""A run on a bandit that Ray workers collect from, whose rollouts can be made slow; and who belongs to a run."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophrl_algos.algorithms import FA_GRPO
from prophrl_algos.flow import FlowSpec
from prophrl_algos.rollout import GroupPlan, LocalRollouts, RayOptions, RayRollouts, Rollouts
from prophrl_algos.rollout._queue import parts_of
from prophrl_algos.trainer import Trainer, TrainerConfig

SPEC = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=3)
GROUPS, GROUP_SIZE = 4, 4


class SlowBanditVectorEnv(BanditVectorEnv):
    """Take a while for every step, as a world model does, without computing anything."""

    def __init__(self, num_envs: int, delay: float) -> None:
        super().__init__(num_envs)
        self.delay = delay

    def step(self, actions: Any) -> tuple[Any, ...]:
        time.sleep(self.delay)
        return super().step(actions)


def make(delay: float = 0.0, groups_at_once: int = 1) -> LocalRollouts:
    """Make what collects, with the same weights everywhere."""
    env = SlowBanditVectorEnv(groups_at_once * GROUP_SIZE, delay)
    return LocalRollouts(TinyFlowPolicy(SPEC, hidden=16), env, FA_GRPO.schedule(SPEC, 0.5))


class InTurn:
    """Collect in this process the tasks that workers would have, one after another."""

    def __init__(self, local: LocalRollouts) -> None:
        self.local = local

    def collect(self, plan: GroupPlan, *, seed: int, update: int) -> Rollouts:
        tasks = parts_of(plan, self.local.env.num_envs // plan.group_size, update)
        return Rollouts.cat([self.local.collect(task.plan, seed=seed, update=update) for task in tasks])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Ignore the state."""


def trainer_of(config: TrainerConfig, options: RayOptions | None, made: Callable[[], LocalRollouts] = make) -> Trainer:
    """Return a trainer whose rollouts Ray workers collect, or this process in turn; its collector is to be closed."""
    local = made()
    assert isinstance(local.policy, torch.nn.Module)
    optimizer = torch.optim.AdamW(local.policy.parameters(), lr=3e-3)
    trainer = Trainer(local.policy, optimizer, local.env, config)
    trainer.collector = InTurn(local) if options is None else RayRollouts(made, local, options, optimizer=optimizer)
    return trainer


def run_to(folder: Path, updates: int, *, delay: float, options: RayOptions | None, groups: int = GROUPS) -> None:
    """Begin or continue a run in a folder."""
    from prophrl_algos.run import run

    torch.set_num_threads(1)
    config = TrainerConfig(updates=updates, groups=groups, group_size=GROUP_SIZE, beta=0.0)
    trainer = trainer_of(config, options, partial(make, delay))
    with trainer.collector if isinstance(trainer.collector, RayRollouts) else nullcontext():
        run(trainer, folder)


def processes_of(pid: int, title: str = "ray::Worker") -> list[psutil.Process]:
    """Return the processes under a learner whose title begins so: those that collect, or all if it is empty."""
    found = []
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for child in children:
        try:
            if " ".join(child.cmdline()).startswith(title):
                found.append(child)
        except psutil.Error:
            continue
    return found


def twice_or_lost(ledger: torch.Tensor, updates: int, groups: int) -> list[tuple[int, int]]:
    """Return the groups (update, number) that a ledger does not have exactly once."""
    pairs = [tuple(row) for row in ledger[:, :2].tolist()]
    wanted = [(update, group) for update in range(updates) for group in range(groups)]
    return sorted(pair for pair in {*pairs, *wanted} if pairs.count(pair) != (pair in set(wanted)))
