"""The `prophet` command: finds the subcommand and imports only that one."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import requires, version

from prophet_gym.errors import ProphetError
from prophet_gym.sims.install import INSTALL


@dataclass(frozen=True)
class Command:
    """A subcommand: the module that holds its `Args` and its `main(args)`, and what it does in a line."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command("prophet_gym.cli.demo", "dream a recorded episode, and the same start under other actions"),
    "evaluate": Command("prophet_gym.cli.evaluate", "compare a checkpoint's dreams with held-out recorded episodes"),
    "collect": Command("prophet_gym.cli.collect", "record scripted episodes of LIBERO, the simulator"),
    "calibrate": Command(
        "prophet_gym.cli.calibrate", "compare a judge with the truth, in recorded episodes and in dreams"
    ),
    "export": Command("prophet_gym.cli.export", "write a recording as a LeRobot data set"),
    "convert": Command("prophet_gym.cli.convert", "turn released weights into a checkpoint folder"),
    "train": Command("prophet_gym.train.small", "train the small Prophet from recordings"),
    "pretrain": Command("prophet_gym.train.pretrain", "train the full Prophet on any mixture of recordings"),
    "adapt": Command("prophet_gym.train.adapt", "adapt a checkpoint to another scene from few recordings"),
    "merge": Command("prophet_gym.cli.merge", "write a checkpoint with its adapters merged in"),
    "train-reward": Command("prophet_gym.train.reward", "train a judge from recordings: success head or VLM adapters"),
    "redream": Command("prophet_gym.cli.redream", "write a recording's episodes as a checkpoint dreams them"),
    "objects": Command("prophet_gym.train.objects", "train an object reader from recordings"),
    "starts": Command("prophet_gym.cli.starts", "film the start sets of a suite"),
}


def help_text() -> str:
    """What `prophet --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: prophet COMMAND [OPTIONS]",
            "",
            "A learned robot simulator behind Gymnasium.",
            "",
            *lines,
            "",
            "`prophet COMMAND --help` lists a command's options; `prophet --version` prints the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv` (the process's own if not given).

    What the caller can put right is printed as one line, with exit status 1; a misspelt command is status 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return
    if words[0] == "--version":
        print(version("prophet-gym"))
        return
    if words[0] not in COMMANDS:
        near = get_close_matches(words[0], COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"prophet: no command {words[0]!r}.{hint}\n\n{help_text()}", file=sys.stderr)
        raise SystemExit(2)
    _run(words[0], words[1:])


def _run(name: str, words: Sequence[str]) -> None:
    import tyro

    try:
        module = import_module(COMMANDS[name].module)
        module.main(tyro.cli(module.Args, prog=f"prophet {name}", args=words))
    except (ProphetError, ValueError, FileNotFoundError, NotADirectoryError) as error:
        print(f"prophet {name}: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        extra = extra_of(missing)
        if extra is None:
            raise
        # The simulator is not whole with its extra alone.
        advice = INSTALL if extra == "libero" else f"pip install 'prophet-gym[{extra}]'"
        print(f"prophet {name} needs {missing}: {advice}", file=sys.stderr)
        raise SystemExit(1) from error


def extra_of(package: str) -> str | None:
    """The optional extra of prophet-gym that brings a package; None where none does."""
    for requirement in requires("prophet-gym") or ():
        found = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if found and found[1].replace("-", "_") == package and found[2] != "dev":
            return found[2]
    return None


if __name__ == "__main__":
    main()
