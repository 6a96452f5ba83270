"""The `prophrl` command: finds the subcommand and imports only that one."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from prophet_gym.errors import ProphetError


@dataclass(frozen=True)
class Command:
    """A subcommand: the module that holds its `Args` and its `main(args)`, and what it does in a line."""

    module: str
    summary: str


COMMANDS = {
    "train": Command("prophrl_algos.cli.train", "improve a flow policy in the dream or in the simulator"),
    "evaluate": Command("prophrl_algos.cli.evaluate", "measure how often a policy succeeds, per task, with intervals"),
    "sft": Command("prophrl_algos.cli.sft", "fit a flow policy to recorded episodes"),
    "record": Command("prophrl_algos.cli.record", "record a policy in LIBERO, for a world model to learn from"),
    "plan": Command("prophrl_algos.cli.plan", "say how much memory learning with a published policy takes"),
}
ALGORITHMS: dict[str, str] = {
    "fa-grpo": "one ratio per action number, flow steps summed (ProphRL)",
    "fa-grpo-cps": "the same, with noise that keeps the flow's coefficients",
    "fa-grpo-forward": "the same, of how well the actions are denoised (after FPO)",
    "flow-grpo": "one ratio per flow step",
    "flow-grpo-cps": "the same, with noise that keeps the flow's coefficients",
    "flow-grpo-forward": "the same, of how well the actions are denoised (after FPO)",
    "grpo-guard": "Flow-GRPO with centred and scaled ratios",
    "pi-rl": "one random stochastic step, one ratio per chunk",
    "reinflow": "learned noise, one ratio per chunk",
}
"""Algorithms that this version can train with, each with a line on what it is."""


def overview() -> str:
    """What `prophrl` prints: commands, environments that are registered and algorithms."""
    import gymnasium as gym

    import prophet_gym  # noqa: F401 registers the ids

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
        *(f"  {name:<13}  {line}" for name, line in ALGORITHMS.items()),
        "",
        "`prophrl COMMAND --help` lists a command's options; `prophrl --version` prints the version.",
    ]
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv` (the process's own if not given).

    What the caller can put right is printed as one line, with exit status 1; a misspelt command is status 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(version("prophet-gym"))
    elif not words or words[0] in ("-h", "--help"):
        print(overview())
    elif words[0] in COMMANDS:
        _run(words[0], words[1:])
    else:
        near = get_close_matches(words[0], COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"prophrl: no command {words[0]!r}.{hint}\n\n{overview()}", file=sys.stderr)
        raise SystemExit(2)


def _run(name: str, words: Sequence[str]) -> None:
    import tyro

    # Which adapter reads a published policy, and why.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("prophrl_algos").setLevel(logging.INFO)
    module = import_module(COMMANDS[name].module)
    try:
        module.main(tyro.cli(module.Args, prog=f"prophrl {name}", args=words))
    except (ProphetError, ValueError, FileNotFoundError, NotADirectoryError, FloatingPointError) as error:
        print(f"prophrl {name}: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except ImportError as error:
        from prophet_gym.cli.main import extra_of

        if error.name is None:  # one of ours, which says what to install
            print(f"prophrl {name}: {error}", file=sys.stderr)
            raise SystemExit(1) from error
        missing = error.name.partition(".")[0]
        extra = extra_of(missing)
        if extra is None:
            raise
        print(f"prophrl {name} needs {missing}: pip install 'prophet-gym[{extra}]'", file=sys.stderr)
        raise SystemExit(1) from error
