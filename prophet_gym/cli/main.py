"""The `prophet` command: finds the subcommand and imports only that one."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from prophet_gym.cli._running import Command, find, run

COMMANDS = {
    "demo": Command("prophet_gym.cli._demo", "dream a recorded episode, and the same start under other actions"),
    "evaluate": Command("prophet_gym.cli._evaluate", "compare a checkpoint's dreams with held-out recorded episodes"),
    "collect": Command("prophet_gym.cli._collect", "record scripted episodes in a simulator", resumes=True),
    "calibrate": Command(
        "prophet_gym.cli._calibrate", "compare a reward model with the truth, in recorded episodes and in dreams"
    ),
    "export": Command("prophet_gym.cli._export", "write a recording as a LeRobot data set"),
    "convert": Command("prophet_gym.cli._convert", "turn released weights into a checkpoint folder"),
    "train": Command(
        "prophet_gym.train._small", "train the small Prophet from recordings, or adapt one to a scene", resumes=True
    ),
    "pretrain": Command(
        "prophet_gym.train._pretrain",
        "train the full Prophet on any mixture of recordings",
        resumes=True,
        processes=True,
    ),
    "merge": Command("prophet_gym.cli._merge", "write a checkpoint with its adapters merged in"),
    "train-reward": Command(
        "prophet_gym.train._reward", "train a reward model from recordings: a success head or VLM adapters"
    ),
    "redream": Command(
        "prophet_gym.cli._redream", "write a recording's episodes as a checkpoint dreams them", resumes=True
    ),
    "objects": Command("prophet_gym.train._objects", "train an object reader from recordings"),
    "starts": Command("prophet_gym.cli._starts", "render the initial states of a suite"),
}


def help_text() -> str:
    """Return what `prophet --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = ["usage: prophet COMMAND [OPTIONS]", "", "A learned robot simulator behind Gymnasium.", ""]
    tail = ["", "`prophet COMMAND --help` lists a command's options; `prophet --version` prints the version."]
    return "\n".join([*head, *lines, *tail])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv` (the process's own if not given); how it ends is what `_running.run` says."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
    elif words[0] == "--version":
        print(version("prophet-gym"))
    else:
        run(f"prophet {words[0]}", find("prophet", words[0], COMMANDS, help_text), words[1:])
