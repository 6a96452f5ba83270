"""The `prophet` command: finds the subcommand and imports only that one."""

from collections.abc import Sequence

from prophet_gym.cli import _running
from prophet_gym.cli._running import Command

COMMANDS = {
    "demo": Command("prophet_gym.cli._demo", "dream a recorded episode, and its initial state under other actions"),
    "evaluate": Command("prophet_gym.cli._evaluate", "compare a checkpoint's dreams with held-out recorded episodes"),
    "collect": Command("prophet_gym.cli._collect", "record scripted episodes in a simulator", resumes=True),
    "calibrate": Command(
        "prophet_gym.cli._calibrate", "compare a reward model with the truth, in recorded episodes and in dreams"
    ),
    "rank": Command(
        "prophet_gym.cli._rank", "compare how policies rank in the dream and in the simulator", resumes=True
    ),
    "serve": Command("prophet_gym.serve._command", "serve a world model to other programs and machines", endless=True),
    "play": Command("prophet_gym.serve._play", "drive the arm in a dream from a page in the browser", endless=True),
    "export": Command("prophet_gym.cli._export", "write a recording as a LeRobot data set"),
    "convert": Command("prophet_gym.cli._convert", "turn released weights into a checkpoint folder"),
    "inspect": Command("prophet_gym.train._inspect", "say what a data set has, lacks and would train"),
    "train": Command(
        "prophet_gym.train._robot",
        "train the small Prophet from recordings or a LeRobot data set, or adapt one to a scene",
        resumes=True,
        processes=True,
    ),
    "pretrain": Command(
        "prophet_gym.train._pretrain",
        "train the full Prophet on any mixture of data sets",
        resumes=True,
        processes=True,
    ),
    "distill": Command(
        "prophet_gym.train._distill",
        "train a Prophet to dream as its teacher does, in fewer sampler steps",
        resumes=True,
        processes=True,
    ),
    "merge": Command("prophet_gym.cli._merge", "write a checkpoint with its adapters merged in"),
    "train-reward": Command(
        "prophet_gym.train._reward", "train a reward model from recordings: a success head or VLM adapters"
    ),
    "redream": Command(
        "prophet_gym.cli._redream", "replace the frames of a recording by dreams of the same actions", resumes=True
    ),
    "objects": Command("prophet_gym.train._objects", "train an object reader from recordings"),
    "report": Command(
        "prophet_gym.cli.report._command", "write one HTML file about training runs: curves, settings, machine"
    ),
    "push": Command("prophet_gym.cli.hub._push", "check a checkpoint, and publish it on the Hub"),
    "pull": Command("prophet_gym.cli.hub._pull", "fetch a checkpoint from the Hub, and check it"),
    "starts": Command("prophet_gym.cli._starts", "render the initial states of a suite"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv` (the process's own if not given); how it ends is what `_running.run` says."""
    _running.main("prophet", COMMANDS, argv)
