"""`prophet export`: write a recording as a LeRobot data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophet_gym._arguments import Arguments, OutFolder


@dataclass(frozen=True)
class Args(Arguments):
    """Write a recording as a LeRobot data set (layout v3.0); the recording stays as it is."""

    data: Path
    """Recording of `prophet collect`."""
    out: OutFolder
    """New folder for the data set."""
    without: tuple[str, ...] = ()
    """Episodes to leave out, for example `task_03/episode_00007`."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym.data._lerobot_export import export_recording

    count = export_recording(args.data, args.out, without=args.without)
    print(f"{args.out}: {count} episodes")
    return {"folder": args.out, "episodes": count}
