"""`prophet redream`: a recording's episodes as a checkpoint dreams them, with the recorded labels of the same actions.

The paper trains a second judge on such videos, so that it knows what dreams look like.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from prophet_gym.arguments import Arguments, Device, Items, OutFolder, Seed


@dataclass(frozen=True)
class Args(Arguments):
    """Write a recording in which the frames are dreamt, and everything else is as it really was."""

    data: Path
    """A recording of `prophet collect`."""
    out: OutFolder
    """Folder of the new recording; episodes that are there already are not dreamt again."""
    checkpoint: str = "bundled"
    """Dreams: `bundled`, the name of a bundled checkpoint, or a folder."""
    episodes: Items = 200
    """At most so many."""
    rows: Items = 8
    """Episodes dreamt at once."""
    device: Device = "cpu"
    seed: Seed = 0
    """Of the dreams' noise."""
    without: tuple[str, ...] = ()
    """Episodes to leave out, e.g. `task_03/episode_00007`."""


def main(args: Args) -> None:
    """Run the command."""
    from tqdm import tqdm

    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.cli.calibrate import dreamt_frames
    from prophet_gym.data.recording import begin_recording, list_episodes, read_episode, read_meta, write_episode

    world_model = Checkpoint.named(args.checkpoint).world_model(args.device)
    paths = list_episodes(args.data, evaluating=True, without=args.without)[: args.episodes]
    meta = read_meta(args.data) | {
        "dreamt_by": args.checkpoint,
        "dream_seed": args.seed,
    }
    begin_recording(args.out, meta, same=tuple(meta))
    targets = [args.out / path.relative_to(args.data) for path in paths]
    missing = [(path, target) for path, target in zip(paths, targets, strict=True) if not target.exists()]
    episodes = [read_episode(path) for path, _ in missing]
    for (path, _), episode in zip(missing, episodes, strict=True):
        if len(episode) < world_model.chunk:
            raise ValueError(
                f"{path} has {len(episode)} actions, fewer than the {world_model.chunk} of one chunk of "
                f"{args.checkpoint}; leave it out: --without {path.parent.name}/{path.stem}"
            )
    bar = tqdm(total=len(missing), desc="redream", unit="episode")
    with bar:
        for number, frames in dreamt_frames(world_model, episodes, args.rows, args.seed):
            write_episode(missing[number][1], episodes[number].cut(len(frames) - 1), frames)
            bar.update()
    print(f"wrote {len(missing)} episodes to {args.out}, {len(targets) - len(missing)} were there")


if __name__ == "__main__":
    main(tyro.cli(Args))
