"""A run's folder keeps what the run was begun with: the same command goes on, another one is refused."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prophet_gym.cli.report import write_json

ARGUMENTS = "arguments.json"


def claim(folder: Path, args: Any, last: str, *, free: Collection[str] = ()) -> None:
    """Write down what a run is begun with, or check that it is gone on with under the same.

    Args:
        folder: of the run.
        args: a dataclass of the command line.
        last: name of its checkpoint; while there is none, nothing is begun.
        free: names of arguments that may change.

    Raises:
        ValueError: the folder is of a run with other arguments.
    """
    asked: Mapping[str, Any] = json.loads(
        json.dumps({name: value for name, value in asdict(args).items() if name not in free}, default=str)
    )
    path = folder / ARGUMENTS
    if not (folder / last).is_file() or not path.is_file():
        write_json(path, asked)
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in asked if name in begun and begun[name] != asked[name]]
    if changed:
        raise ValueError(
            f"{folder} is of another run: "
            + ", ".join(f"{name} was {begun[name]}, is {asked[name]}" for name in changed)
            + "; use another folder"
        )
