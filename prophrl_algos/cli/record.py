"""`prophrl record`: what a policy does in the real simulator, as episodes that a world model learns from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prophrl_algos.cli.published import Published

if TYPE_CHECKING:
    from prophet_gym.sims.simulator import LiberoSim
    from prophrl_algos.flow.policy import FlowPolicy


@dataclass(frozen=True)
class Args:
    """Record a policy in the real LIBERO simulator, successes and failures, from `train` placements.

    `prophet train --data` reads such a recording as it does one of scripts: a world model that is to be explored by a
    policy should have seen what the policy does. A recording that was killed is continued by the same command.
    """

    out: Path
    """Folder for the recording; an unfinished one is continued."""
    policy: str = "small-k4"
    """As `prophrl evaluate --policy`."""
    weights: Path | None = None
    """A folder or file that `prophrl sft` or `prophrl train` wrote."""
    suite: str = "libero_object"
    task: str = "all"
    """Task numbers such as 3 or 0,2,5, or all."""
    episodes: int = 100
    """Episodes in all, spread evenly over the tasks."""
    noise_level: float = 0.5
    """a of the SDE that rollouts are sampled with; 0 acts without noise."""
    look: str = "light"
    seed: int = 0
    workers: int = 2
    """Processes, each on one thread."""
    published: Published = field(default_factory=Published)
    """How a published policy is used."""


@dataclass(frozen=True)
class PolicyActor:
    """Acts in a simulator as a policy does; made anew, once, in every process that it is sent to.

    Attributes:
        policy: as `make_policy` takes it.
        weights: likewise.
        noise_level: of its sampling.
        published: likewise.
    """

    policy: str
    weights: Path | None
    noise_level: float
    published: Published

    def __call__(self, sim: "LiberoSim", rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Commands without end, chunk after chunk."""
        import torch

        from prophrl_algos.flow.sampler import sample
        from prophrl_algos.flow.schedule import FlowSchedule

        policy = _policy(self)
        schedule = FlowSchedule.uniform(policy.spec.num_steps, self.noise_level)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        while True:
            obs = policy.prepare({"image": sim.render()[None]}, [sim.instruction])
            with torch.no_grad():
                chunk = policy.decode(sample(policy, obs, schedule, [generator]).x0, obs)
            yield from chunk[0].cpu().numpy()


@cache
def _policy(actor: PolicyActor) -> "FlowPolicy":
    from prophrl_algos.cli.common import make_env, make_policy

    env = make_env("Prophet-LIBERO-v0", 1, starts="train")
    return make_policy(actor.policy, env, actor.weights, published=actor.published)


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.cli.collect import parse_tasks
    from prophet_gym.sims.recorder import Plan, collect

    if args.episodes < 1 or args.workers < 1 or args.noise_level < 0:
        raise ValueError(
            "episodes and workers must be at least 1 and noise_level at least 0, got "
            f"{args.episodes}, {args.workers} and {args.noise_level}"
        )
    actor = PolicyActor(args.policy, args.weights, args.noise_level, args.published)
    _policy(actor)
    plan = Plan(
        args.suite,
        parse_tasks(args.task),
        args.episodes,
        args.seed,
        args.look,
        actor=actor,
        about=f"{args.policy} {args.weights or ''} at noise {args.noise_level:g}".replace("  ", " "),
    )
    collect(plan, args.out, workers=args.workers)
