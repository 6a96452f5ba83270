"""A run that several processes may make together; as a script, one of them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import torch
from torch import nn

import prophet_gym  # noqa: F401 registers the ids
from benchmarks.toys import tiny
from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.testing import CountingWorldModel, counting_starts
from prophet_gym.world_model import RewardOutput
from prophrl_algos.algorithms import ALGORITHMS, FlowScale
from prophrl_algos.rollout import Grouping, begin_from_starts
from prophrl_algos.run import run
from prophrl_algos.trainer import Learner, Trainer, TrainerConfig

SIZE = 2
"""Rollouts of a group, and sub-environments: a dream's last bits depend on how many are computed at once."""


class Green:
    """Reward what is greener than red, so that every action matters."""

    when, stride, max_frames = "chunk", 1, 1

    def score(self, videos, instructions):
        last = torch.stack([torch.as_tensor(video[-1]).float() / 255 for video in videos])
        reward = (last[..., 1] - last[..., 0]).mean((1, 2))
        return RewardOutput(reward, torch.ones(len(videos), dtype=torch.bool))


class Counted(ProphetVectorEnv):
    """An env with a state of its own, which checkpoints must hold: how many steps it took."""

    steps = 0

    def step(self, actions):
        self.steps += 1
        return super().step(actions)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def make_env(name: str):
    if name == "Prophet-LIBERO-v0":
        how = {"max_episode_steps": 2, "autoreset_mode": "Disabled", "starts": "train", "tasks": [3], "device": "cpu"}
        return gym.make_vec(name, num_envs=SIZE, reward="tests.prophrl_algos.trainer.learning:Green", **how)
    model = CountingWorldModel(chunk=2, action_dim=7)
    how = {"max_episode_steps": 3, "autoreset_mode": "Disabled", "reward_model": Green()}
    return Counted(model, counting_starts(), SIZE, **how)


def make_policy(name: str, env) -> nn.Module:
    if name == "tiny":
        return tiny(env)
    from tests.prophrl_algos.vla.tiny import tiny_pi0

    return tiny_pi0(exec_steps=2, train=name)


def make(
    learner: Learner,
    *,
    env: str = "counting",
    policy: str = "tiny",
    algorithm: str = "fa-grpo",
    rate: float = 1e-3,
    **more,
) -> Trainer:
    torch.manual_seed(0)
    envs = make_env(env)
    made, kind = make_policy(policy, envs), ALGORITHMS[algorithm]
    kind = kind.sized(made.spec)
    learnt = [weight for part in (made, kind.kernel) if isinstance(part, nn.Module) for weight in part.parameters()]
    optimizer = torch.optim.AdamW([weight for weight in learnt if weight.requires_grad], lr=1e-3)
    config = TrainerConfig(**{"groups": 5, "group_size": SIZE, "updates": 3, "microbatch": 4, "beta": 0.1} | more)
    how = {"algorithm": kind, "flowscale": FlowScale(), "grouping": Grouping(begin_from_starts)}
    return Trainer(made, optimizer, envs, config, learner=learner, **how)


def start(processes: int, folder: Path, *, paths: Sequence[Path | None] = (), **options) -> list[subprocess.Popen]:
    """Start the script in so many processes; each finds packages in its own one of `paths` first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.prophrl_algos.trainer.learning", str(folder), json.dumps(options)]
    started = []
    for rank in range(processes):
        places = [*map(str, filter(None, paths[rank : rank + 1])), *sys.path]
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": os.pathsep.join(places)}
        started.append(subprocess.Popen(command, env=shared | own, stderr=subprocess.PIPE, text=True))
    return started


def finish(started: list[subprocess.Popen]) -> list[str]:
    """Wait, and return what each wrote to stderr if it failed, else nothing."""
    said = [each.communicate(timeout=300)[1] for each in started]
    return [text if each.returncode else "" for each, text in zip(started, said, strict=True)]


def main(folder: Path, sharded: bool = False, per_rank: dict | None = None, **options) -> None:
    learner = Learner.joined(cpu=True, sharded=sharded)
    trainer = make(learner, **options | (per_rank or {}).get(str(learner.rank), {}))
    logged: list[dict] = []

    class Kept:
        def log(self, metrics, update):
            logged.append(metrics)

        def close(self):
            pass

    run(trainer, folder, loggers=[Kept()])
    if learner.main:
        (folder / "metrics.json").write_text(json.dumps(logged))


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
