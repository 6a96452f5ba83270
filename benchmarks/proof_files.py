"""The files of a proof's logs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EVALUATIONS, TRIES, CHOICE, PROTOCOL = "evaluations.jsonl", "tries.jsonl", "choice.json", "protocol.json"


def add_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append an object, on a line of its own even where the last one was cut by a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.is_file() and not path.read_text().endswith("\n")
    with path.open("a") as file:
        file.write("\n" * cut + json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last may have been cut by a kill."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def columns(episodes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A list per key: a line of the log holds hundreds of episodes."""
    return {key: [each[key] for each in episodes] for key in episodes[0]}


def write_json_whole(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(value, indent=1) + "\n")
    draft.replace(path)
