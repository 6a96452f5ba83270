"""The `prophrl` command: finds the subcommand and imports only that one."""

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version

from prophet_gym.cli._running import Command, find, run

COMMANDS = {
    "train": Command(
        "prophrl_algos.cli._train",
        "improve a flow policy in the dream or in the simulator",
        resumes=True,
        processes=True,
    ),
    "evaluate": Command("prophrl_algos.cli._evaluate", "measure how often a policy succeeds, per task, with intervals"),
    "sft": Command("prophrl_algos.cli._sft", "fit a flow policy to recorded episodes", resumes=True),
    "record": Command(
        "prophrl_algos.cli._record", "record a policy in LIBERO, for a world model to learn from", resumes=True
    ),
}


def overview() -> str:
    """Return what `prophrl` prints: commands, registered environments and algorithms."""
    import gymnasium as gym

    import prophet_gym  # noqa: F401 registers the ids
    from prophrl_algos.algorithms import ALGORITHMS

    ids = sorted(name for name in gym.registry if name.startswith(("Prophet-", "LIBERO-")))
    parts = [
        "usage: prophrl COMMAND [OPTIONS]",
        "",
        *(f"  {name:<8}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        "environments (--env):",
        *(f"  {name}" for name in ids),
        "",
        "algorithms (--algo):",
        *(f"  {name:<17}  {algorithm.summary}" for name, algorithm in ALGORITHMS.items()),
        "",
        "`prophrl COMMAND --help` lists a command's options; `prophrl --version` prints the version.",
    ]
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv` (the process's own if not given).

    What the caller can put right is printed in a few lines, with exit status 1, or 2 for a word of the command line;
    Ctrl-C is status 130.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
    elif words[0] == "--version":
        print(version("prophet-gym"))
    else:
        command = find("prophrl", words[0], COMMANDS, overview)
        # Which adapter reads a published policy, and why.
        logging.basicConfig(format="%(message)s")
        logging.getLogger("prophrl_algos").setLevel(logging.INFO)
        run(f"prophrl {words[0]}", command, words[1:])
