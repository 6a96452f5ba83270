"""`prophet starts`: film the start sets of a suite for a checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from prophet_gym.arguments import Arguments, Items, OutFolder, Whole

SETS: tuple[Literal["official", "train"], ...] = ("official", "train")


@dataclass(frozen=True)
class Args(Arguments):
    """Film where episodes start, in LIBERO: `prophet starts --checkpoint FOLDER --suite libero_goal`.

    Frame size and look are the checkpoint's; without one, 128 pixels in the look `light`.
    """

    checkpoint: str | None = None
    """The checkpoint that will dream from them: a folder, `bundled` or a Hub name."""
    out: OutFolder | None = None
    """Folder for the start sets `train` and `official`, for `starts=OUT/train`; if not given, `starts` in the
    checkpoint's folder, where `starts="train"` finds them."""
    suite: str = "libero_object"
    look: str | None = None
    """Look of the simulator, if not the checkpoint's: light, plain or official."""
    size: Annotated[int, Whole(8, 4096)] | None = None
    """Side of the frames in pixels, if not the checkpoint's."""
    per_task: Items = 50
    """Starts of every task in every set."""
    tasks: Annotated[int, Whole(1, 10)] = 10
    """The first so many tasks of the suite."""
    quality: Annotated[int, Whole(1, 101)] = 95
    """WebP quality, 1 to 100, or 101 without loss."""


def main(args: Args) -> None:
    """Run the command."""
    from tqdm import tqdm

    from prophet_gym.envs.initial_states import write_initial_states
    from prophet_gym.sims._initial_states import render_initial_states
    from prophet_gym.specs import InitialState

    out, look, size = resolved(args)

    def video(split: Literal["train", "official"], bar: tqdm) -> Iterator[InitialState]:
        for task in range(args.tasks):
            for start in render_initial_states(args.suite, task, split, args.per_task, look=look, size=size):
                bar.update()
                yield start

    for split in SETS:
        with tqdm(total=args.tasks * args.per_task, desc=f"{args.suite} {split}", unit="start") as bar:
            written = write_initial_states(out / split, video(split, bar), quality=args.quality)
        print(f"{out / split}: {size}x{size} pixels, look {look}, {written / 1e6:.1f} MB")


def resolved(args: Args) -> tuple[Path, str, int]:
    """Where the sets go, the look and the size of their frames.

    Raises:
        ValueError: neither a folder nor a checkpoint's folder was given, or the checkpoint's frames are not square.
    """
    from prophet_gym.checkpoint import Checkpoint

    look, size, out = args.look or "light", args.size or 128, args.out
    if args.checkpoint is not None:
        config = Checkpoint.named(args.checkpoint).config
        height, width = config["frame_size"]
        if height != width and args.size is None:
            raise ValueError(f"the simulator films squares, and {args.checkpoint} dreams {height}x{width}; give --size")
        look, size = args.look or config["look"], args.size or height
        if out is None and Path(args.checkpoint).expanduser().is_dir():
            out = Path(args.checkpoint).expanduser() / "starts"
    if out is None:
        raise ValueError("give --out FOLDER, or --checkpoint FOLDER of a checkpoint on this machine")
    return out, look, size


if __name__ == "__main__":
    main(tyro.cli(Args))
