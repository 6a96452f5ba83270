"""Where the numbers lie, and how they are written down."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CHECKPOINT = ROOT / "prophet_gym" / "checkpoints" / "libero_small"


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else None


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; the last may have been cut by a kill."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def where(machine: dict[str, Any]) -> str:
    versions = machine["versions"]
    return f"{machine['cores']} cores ({machine['processor']}), torch {versions['torch']}"
