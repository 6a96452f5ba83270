"""`prophet redream`: write a recording's episodes as a checkpoint dreams them, with the labels of the recording.

The paper trains a second reward model on such videos, so that it knows what dreams look like.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophet_gym._arguments import Items, OutFolder, resolved_device
from prophet_gym.cli._options import BatchOptions


@dataclass(frozen=True, kw_only=True)
class Args(BatchOptions):
    """Replace the frames of a recording by dreams of the same actions, in a new recording; labels stay the same."""

    data: Path
    """Recording of `prophet collect`."""
    out: OutFolder
    """Folder of the new recording; an unfinished one is continued."""
    episodes: Items = 200
    """Maximum number of episodes to dream."""
    without: tuple[str, ...] = ()
    """Episodes to leave out, for example `task_03/episode_00007`."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym._io.progress import progress
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.data._recording import begin_recording, list_episodes, read_episode, read_meta, write_episode
    from prophet_gym.evaluation._dreams import dreamt_frames
    from prophet_gym.specs import FIRST_CAMERA

    world_model = Checkpoint.named(args.world_model).world_model(resolved_device(args.device))
    paths = list_episodes(args.data, evaluating=True, without=args.without)[: args.episodes]
    # A dream shows the first camera, whatever was recorded.
    about = {"dreamt_by": args.world_model, "dream_seed": args.seed, "cameras": [FIRST_CAMERA]}
    meta = read_meta(args.data) | about
    begin_recording(args.out, meta, same=tuple(meta))
    targets = [args.out / path.relative_to(args.data) for path in paths]
    missing = [(path, target) for path, target in zip(paths, targets, strict=True) if not target.exists()]
    episodes = [read_episode(path) for path, _ in missing]
    for (path, _), episode in zip(missing, episodes, strict=True):
        if len(episode) < world_model.chunk:
            raise ValueError(
                f"{path} has {len(episode)} actions, fewer than the {world_model.chunk} of one chunk of "
                f"{args.world_model}; leave it out: --without {path.parent.name}/{path.stem}"
            )
    with progress(None, "redream", total=len(missing), unit="episode") as bar:
        for number, frames in dreamt_frames(world_model, episodes, args.batch_size, args.seed):
            write_episode(missing[number][1], episodes[number].cut(len(frames) - 1), frames)
            bar.update()
    print(f"wrote {len(missing)} episodes to {args.out}, {len(targets) - len(missing)} were there")
    print(f"  prophet train-reward --data {args.data} --dreams {args.out} --out DIR")
    return {"folder": args.out, "episodes": len(targets), "new": len(missing)}
