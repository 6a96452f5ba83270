"""`prophet collect`: record scripted episodes of LIBERO, the simulator."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from prophet_gym.arguments import Arguments, Items, OutFolder, Seed, Workers

if TYPE_CHECKING:
    from prophet_gym.sims.libero._experts import Mode


@dataclass(frozen=True)
class Args(Arguments):
    """Record scripted episodes, successes and failures, of the LIBERO simulator."""

    out: OutFolder
    """Folder for the recording; an unfinished one is continued."""
    suite: str = "libero_object"
    task: str = "all"
    """Task numbers such as 3 or 0,2,5, or all."""
    episodes: Items = 500
    """Episodes in all, spread evenly over the tasks."""
    look: str = "light"
    seed: Seed = 0
    starts: Literal["random", "official"] = "random"
    """Official initial states are for evaluation alone: never train on what starts from them."""
    mode: str | None = None
    """Only this script, e.g. expert for demonstrations; the mixture of successes and failures if not given."""
    workers: Workers = 2
    """Processes, each on one thread."""


def parse_tasks(text: str) -> tuple[int, ...]:
    """`all` or `0,2,5` -> task numbers.

    Raises:
        ValueError: for anything else, a repeated or an unknown task.
    """
    if text == "all":
        return tuple(range(10))
    numbers = [int(part) if part.strip().isdigit() else -1 for part in text.split(",")]
    if not all(0 <= number < 10 for number in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError(f"task must be all or different numbers in 0..9 such as 0,2,5; got {text!r}")
    return tuple(numbers)


def parse_mode(text: str) -> "Mode":
    """The script of that name.

    Raises:
        UnknownOptionError: there is none.
    """
    from prophet_gym.errors import unknown_option
    from prophet_gym.sims.libero._experts import MODES

    if text not in MODES:
        raise unknown_option("mode", text, MODES)
    return text


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.sims.recorder import Plan, collect

    plan = Plan(
        args.suite,
        parse_tasks(args.task),
        args.episodes,
        args.seed,
        args.look,
        starts=args.starts,
        mode=None if args.mode is None else parse_mode(args.mode),
    )
    collect(plan, args.out, workers=args.workers)


if __name__ == "__main__":
    main(tyro.cli(Args))
