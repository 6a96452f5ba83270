"""The `prophrl` command: what can be learned in, and with what."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

ALGORITHMS: dict[str, str] = {}
"""Algorithms that this version can train with, each with a line on what it is."""


def overview() -> str:
    """What `prophrl` prints: the environments that are registered and the algorithms that exist."""
    import gymnasium as gym

    import prophet_gym  # noqa: F401 registers the ids

    ids = sorted(name for name in gym.registry if name.startswith(("Prophet-", "LIBERO-")))
    algorithms = [f"  {name}  {line}" for name, line in ALGORITHMS.items()] or [
        "  none yet: this version holds the dream, not yet the learning in it"
    ]
    return "\n".join(["environments:", *(f"  {name}" for name in ids), "", "algorithms:", *algorithms])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv` (the process's own if not given)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(version("prophet-gym"))
    elif not words or words in (["-h"], ["--help"]):
        print(f"usage: prophrl [--help | --version]\n\n{overview()}")
    else:
        print(f"prophrl: takes no arguments yet, got {' '.join(words)!r}\n\n{overview()}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
