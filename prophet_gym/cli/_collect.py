"""`prophet collect`: record scripted episodes in a simulator."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from prophet_gym._arguments import Arguments, Items, OutFolder, Seed, Tasks, Workers

if TYPE_CHECKING:
    from prophet_gym.sims.libero._experts import Mode


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
    look: str = "light"
    """Look of the simulator: `light` draws fast, `official` as LIBERO does."""
    seed: Seed = 0
    """Seed of the initial states and scripts."""
    starts: Literal["random", "official"] = "random"
    """Where episodes begin; `official` states are for evaluation alone, never train on them."""
    mode: str | None = None
    """The only script to run, for example `expert`; by default a mixture that succeeds and fails."""
    workers: Workers = 2
    """Number of processes, each on one thread."""


def parse_mode(text: str) -> "Mode":
    """Return the script of a name.

    Raises:
        UnknownOptionError: No script has this name.
    """
    from prophet_gym.errors import unknown_option
    from prophet_gym.sims.libero._experts import MODES

    if text not in MODES:
        raise unknown_option("mode", text, MODES)
    return text


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.sims.recorder import Plan, collect
    from prophet_gym.sims.simulator import simulator_of

    plan = Plan(
        args.suite,
        args.tasks or tuple(range(simulator_of(args.suite).tasks)),
        args.episodes,
        args.seed,
        args.look,
        starts=args.starts,
        mode=None if args.mode is None else parse_mode(args.mode),
    )
    collect(plan, args.out, workers=args.workers)


if __name__ == "__main__":
    main(tyro.cli(Args))
