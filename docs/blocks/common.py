"""Find result files, and format their numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prophet_gym.estimates import wilson

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CHECKPOINT = ROOT / "prophet_gym" / "checkpoints" / "libero_small"


def load(name: str) -> dict[str, Any] | None:
    """Return a result file, None where nothing is measured yet."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.is_file() else None


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table whose columns after the first are right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def where(machine: Mapping[str, Any]) -> str:
    """Return what a result was measured on."""
    versions = machine["versions"]
    return f"{machine['cores']} cores ({machine['processor']}), torch {versions['torch']}"


def share(found: Mapping[str, Any] | None) -> str:
    """Return a rate in per cent with its interval."""
    if found is None or found["success"] is None:
        return ""
    return f"{found['success']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def points(gain: Mapping[str, float] | None) -> str:
    """Return a gain in percentage points with its interval."""
    return "" if gain is None else f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def part(count: int, of: int) -> str:
    """Return a count out of another with Wilson's interval of its share."""
    if not of:
        return "0/0"
    low, high = wilson(count, of).interval
    return f"{count}/{of} [{low:.0%}, {high:.0%}]"
