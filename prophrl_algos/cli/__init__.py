"""The `prophrl` command: finds the subcommand and imports only that one."""

import logging
from collections.abc import Sequence

from prophet_gym.cli import _running
from prophet_gym.cli._running import Command

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
        "prophrl_algos.cli._record", "record a policy in LIBERO, as data for a world model", resumes=True
    ),
    "push": Command("prophrl_algos.cli._push", "check a policy, and publish it on the Hub"),
    "pull": Command("prophrl_algos.cli._pull", "fetch a policy from the Hub, and check it"),
    "report": Command("prophrl_algos.cli._report", "write one HTML file about runs: curves, films, settings, machine"),
}


def environments_and_algorithms() -> list[str]:
    """Return the registered environments and the algorithms, a line each."""
    import gymnasium as gym

    import prophet_gym  # noqa: F401 registers the ids
    from prophrl_algos.algorithms import ALGORITHMS

    ids = sorted(name for name in gym.registry if name.startswith(("Prophet-", "LIBERO-")))
    algorithms = [f"  {name:<17}  {algorithm.summary}" for name, algorithm in ALGORITHMS.items()]
    return ["", "environments (--env):", *(f"  {name}" for name in ids), "", "algorithms (--algo):", *algorithms]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv` (the process's own if not given); how it ends is what `_running.run` says."""
    # Which adapter reads a published policy, and why.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("prophrl_algos").setLevel(logging.INFO)
    _running.main("prophrl", COMMANDS, argv, environments_and_algorithms)
