"""`prophet export`: write a recording as a LeRobot data set."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from prophet_gym._arguments import Arguments, OutFolder


@dataclass(frozen=True)
class Args(Arguments):
    """Write a recording as a LeRobot data set (layout v3.0); the recording stays as it is."""

    data: Path
    """Recording of `prophet collect`, or `bundled` for the four episodes that come with the bundled checkpoint."""
    out: OutFolder
    """New folder for the data set."""
    without: tuple[str, ...] = ()
    """Episodes to leave out, for example `task_03/episode_00007`."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym.data._lerobot_export import export_recording, reading_of
    from prophet_gym.data._recording import is_official, list_episodes, read_episode

    count = export_recording(args.data, args.out, without=args.without)
    first = read_episode(list_episodes(args.data, evaluating=True, without=args.without)[0])
    inspect = f"prophet inspect {quote(reading_of(args.out, first))}"
    print(f"{args.out}: {count} episodes; see what it has, also where its tools are:\n  {inspect}")
    if is_official(args.data):
        print("its initial states are official ones: evaluate on it, and train nothing on it")
    return {"folder": args.out, "episodes": count, "inspect": inspect}
