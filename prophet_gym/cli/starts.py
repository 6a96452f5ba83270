"""`prophet starts`: film the start sets of a suite for a checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Args:
    """Film the start frames of a suite in the real simulator."""

    out: Path
    """Folder for the start sets, one subfolder each."""
    suite: str = "libero_object"
    look: str = "light"
    per_task: int = 50
    """Starts of every task in every set."""
    tasks: int = 10
    """The first so many tasks of the suite."""
    quality: int = 95
    """WebP quality, 0 to 100."""


def main(args: Args) -> None:
    """Run the command."""
    from tqdm import tqdm

    from prophet_gym.envs.starts import write_start_set
    from prophet_gym.sims.start_frames import film_starts
    from prophet_gym.specs import InitialState

    def film(start_set: Literal["train", "official"], bar: tqdm) -> Iterator[InitialState]:
        for task in range(args.tasks):
            for start in film_starts(args.suite, task, start_set, args.per_task, look=args.look):
                bar.update()
                yield start

    for start_set in ("official", "train"):
        with tqdm(total=args.tasks * args.per_task, desc=f"{args.suite} {start_set}", unit="start") as bar:
            size = write_start_set(args.out / start_set, film(start_set, bar), quality=args.quality)
        print(f"{args.out / start_set}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(tyro.cli(Args))
