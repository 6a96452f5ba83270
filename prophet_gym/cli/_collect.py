"""`prophet collect`: record scripted episodes in a simulator."""

from dataclasses import dataclass
from typing import Literal

from prophet_gym._arguments import Arguments, Items, OutFolder, Seed, Tasks, Workers


@dataclass(frozen=True)
class Args(Arguments):
    """Record scripted episodes, successes and failures, in a simulator."""

    out: OutFolder
    """Folder of the recording; an unfinished one is continued."""
    suite: str = "libero_object"
    """Suite of tasks, for example `libero_object` or `libero_goal`."""
    tasks: Tasks = ()
    """Numbers of the tasks, for example `--tasks 0 2 5`; all by default."""
    episodes: Items = 500
    """Number of episodes, spread evenly over the tasks."""
    look: str | None = None
    """Look of the simulator; its first by default. LIBERO has `light`, `light-v2` (both fast) and `official`."""
    seed: Seed = 0
    """Seed of the initial states and scripts."""
    starts: Literal["random", "official"] = "random"
    """Initial states to begin from; `official` ones are for evaluation alone, never for training."""
    mode: str | None = None
    """Only script to run, for example `expert`; by default a mixture of scripts that succeed and scripts that fail."""
    workers: Workers = 2
    """Number of processes, each on one thread."""


def main(args: Args) -> None:
    from prophet_gym.sims._recorder import Plan, collect
    from prophet_gym.sims.simulator import simulator_of

    simulator = simulator_of(args.suite)
    plan = Plan(
        args.suite,
        args.tasks or tuple(range(simulator.tasks)),
        args.episodes,
        args.seed,
        args.look or simulator.looks[0],
        starts=args.starts,
        mode=args.mode,
    )
    collect(plan, args.out, workers=args.workers)
