"""How a command of `prophet` and `prophrl` runs: what the caller can put right is a few lines, never a traceback."""

import ast
import inspect
import json
import logging
import math
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import requires, version
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NoReturn

from prophet_gym.errors import ProphetError
from prophet_gym.sims.libero._install import INSTALL

LINES = 6
"""Maximum number of lines of an error that are shown."""
# FloatingPointError: training diverged. MemoryError: too much was asked for at once.
MENDABLE = (ProphetError, ValueError, OSError, FloatingPointError, MemoryError)


@dataclass(frozen=True)
class Command:
    """Describe a subcommand: a module with its `Args` and `main(args)`, and one line on what it does.

    `main` prints for people and returns its results for programs, which `--json` writes. `resumes` says that the same
    command continues a run that was stopped, `processes` that the processes of one torchrun or `accelerate launch` may
    run it together, `endless` that it runs until Ctrl-C and has no results: what it prints is how to reach it.
    """

    module: str
    summary: str
    resumes: bool = False
    processes: bool = False
    endless: bool = False


STDOUT = Path("-")
"""Place of results that are printed, in place of what is written for people."""
_QUIET = "Show no progress, and print nothing but errors and warnings."
_QUIET_ENDLESS = "Show no progress; how it is reached is printed in any case."
_JSON = "Also write the results to this file, as JSON; `-` prints them in place of what is printed for people."


def main(
    program: str, commands: Mapping[str, Command], argv: Sequence[str] | None, more: Callable[[], Iterable[str]] = tuple
) -> None:
    """Run a command line (the process's own if not given); without a command, print what there is and `more` lines.

    Exits with status 2 where there is no such command; how a command ends is what `run` says.
    """
    # Modules in the current folder can be named in options, as under `python -m`, also where a console script runs.
    if "" not in sys.path:
        sys.path.insert(0, "")
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        print(_overview(program, commands, more()))
    elif name == "--version":
        print(version("prophet-gym"))
    elif name in commands:
        run(f"{program} {name}", commands[name], words[1:])
    else:
        near = get_close_matches(name, commands, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"{program}: no command {name!r}.{hint}\n\n{_overview(program, commands, more())}", file=sys.stderr)
        raise SystemExit(2)


def _overview(program: str, commands: Mapping[str, Command], more: Iterable[str]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in commands.items()]
    tail = f"`{program} COMMAND --help` lists a command's options; `{program} --version` prints the version."
    return "\n".join([f"usage: {program} COMMAND [OPTIONS]", "", *lines, *more, "", tail])


def run(title: str, command: Command, words: Sequence[str]) -> None:
    """Read the words and run the command, whose module is imported only here, so that `--help` of another stays fast.

    Exits with status 2 where an option does not exist or cannot be read, 1 for what the caller can put right, and 130
    for Ctrl-C; each says so in a few lines. `title` is program and command, for example `prophet demo`.
    """
    try:
        with _plain_warnings(title):
            _perform(title, command, words)
    except KeyboardInterrupt:
        lost = "give the same command again to continue it" if command.resumes else "what was not written yet is lost"
        # What a shell reports of a program that signal 2 ended: 128 + 2.
        _leave(title, f"interrupted; {lost}", 130)
    except BrokenPipeError:
        # Who read what is printed has gone, as `| head` does; what Python flushes on its way out must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except MENDABLE as error:
        _leave(title, said(error), 1, error)
    except ImportError as error:
        if error.name is None:  # one of ours, which says what to install
            _leave(title, said(error), 1, error)
        missing = error.name.partition(".")[0]
        extra = extra_of(missing)
        if extra is None:
            raise
        # The simulator is not whole with its extra alone.
        advice = INSTALL if extra == "libero" else f"pip install 'prophet-gym[{extra}]'"
        print(f"{title} needs {missing}: {advice}", file=sys.stderr)
        raise SystemExit(1) from error
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for this
            raise
        _leave(title, f"the device's memory is full; ask for smaller batches ({said(error)})", 1, error)


@contextmanager
def _plain_warnings(title: str) -> Iterator[None]:
    """Show a warning that names the script of the command, which nobody wrote, as `title` and text alone."""
    script, usual = getattr(sys.modules["__main__"], "__file__", None), warnings.formatwarning

    def shown(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **named: Any) -> str:
        return f"{title}: {message}\n" if filename == script else usual(message, category, filename, *rest, **named)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _perform(title: str, command: Command, words: Sequence[str]) -> None:
    """Read the words, run the command as loudly as they ask for, and write its results where they say."""
    module = import_module(command.module)
    args, silent, target = _read(title, module.Args, command, words)
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1" and not command.processes:
        raise ValueError(
            f"it runs in one process, but WORLD_SIZE={world} says that several were started (torchrun, accelerate "
            "launch): each would do the same and write the same files. Start it alone, or unset WORLD_SIZE"
        )
    with _output(silent=silent, hidden=(silent or target == STDOUT) and not command.endless):
        results = module.main(args)
    if target is not None and results is not None:  # of several processes the main one has them
        _write(target, results)
    if sys.stdout is not None:
        sys.stdout.flush()  # here, where an error is still said: a full disk, or a reader who has gone


def _read(title: str, usual: Any, command: Command, words: Sequence[str]) -> tuple[Any, bool, Path | None]:
    """Return a command's arguments, and what every command takes: whether to be silent, and where results go."""
    import tyro

    from prophet_gym._arguments import OutFile

    silent = Annotated[
        bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=_QUIET_ENDLESS if command.endless else _QUIET)
    ]
    options: list[Any] = [("quiet", silent, field(default=False, kw_only=True))]
    if not command.endless:
        place = Annotated[OutFile | None, tyro.conf.arg(help=_JSON)]
        options.append(("json", place, field(default=None, kw_only=True)))
    made = make_dataclass("Args", options, bases=(usual,), frozen=True)
    made.__doc__ = _described(usual)
    # What a command is about comes first: its own options, then those that it shares with others, then `options`.
    own = set(vars(usual).get("__annotations__", ()))
    place = {each.name: (each.name not in own) for each in fields(usual)} | {each[0]: 2 for each in options}
    made.__dataclass_fields__ = {each.name: each for each in sorted(fields(made), key=lambda each: place[each.name])}
    given: Any = tyro.cli(made, prog=title, args=words)
    # What a run's folder keeps are the arguments alone: a run resumes whoever watches it.
    args = usual(**{each.name: getattr(given, each.name) for each in fields(usual)})
    return args, given.quiet, getattr(given, "json", None)


def _described(usual: type) -> str:
    """Return the docstring of a command's arguments, with one line on each option.

    The class that is parsed is made as the program runs, so tyro finds no source of it and would not see comments
    behind options; and of texts in several lines it would keep the breaks.
    """
    texts = {name: text for part in reversed(usual.__mro__) for name, text in _texts_of(part).items()}
    lines = [f"    {each.name}: {texts[each.name]}" for each in fields(usual) if each.name in texts]
    return "\n".join([inspect.cleandoc(usual.__doc__ or ""), "", "Attributes:", *lines])


def _texts_of(part: type) -> dict[str, str]:
    """Return what a class says of its own fields, in a text below one or a comment behind it."""
    if not is_dataclass(part):
        return {}
    try:
        source = textwrap.dedent(inspect.getsource(part))
    except (OSError, TypeError):  # made as a program runs
        return {}
    (found,) = ast.parse(source).body
    body, lines = found.body if isinstance(found, ast.ClassDef) else [], source.encode().splitlines()
    texts: dict[str, str] = {}
    for field_, after in zip_longest(body, body[1:]):
        if not isinstance(field_, ast.AnnAssign) or not isinstance(field_.target, ast.Name):
            continue
        behind = lines[(field_.end_lineno or 1) - 1][field_.end_col_offset :].decode().strip()
        below = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if isinstance(below, str):
            texts[field_.target.id] = " ".join(below.split())
        elif behind.startswith("#"):
            texts[field_.target.id] = behind.lstrip("# ")
    return texts


@contextmanager
def _output(*, silent: bool, hidden: bool) -> Iterator[None]:
    """Show no progress where it is `silent`, and nothing that is printed for people where that is `hidden`."""
    with ExitStack() as stack:
        if silent:
            from prophet_gym._io.progress import quiet

            stack.enter_context(quiet())
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.INFO)
        if hidden:
            stack.enter_context(_unheard())
        yield


@contextmanager
def _unheard() -> Iterator[None]:
    """Send nowhere what is printed, also by processes that are started meanwhile: they write to descriptor 1."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        try:
            kept = os.dup(1)
        except OSError:  # it is closed
            yield
            return
        try:
            os.dup2(nowhere.fileno(), 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _write(target: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON to a file, or print them."""
    from prophet_gym._io.atomic import atomic_write

    text = json.dumps(_plain(results), indent=2, allow_nan=False) + "\n"
    if target == STDOUT:
        sys.stdout.write(text)
    else:
        atomic_write(target.expanduser(), text)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: no paths and tuples, and None for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # a number or an array of numpy or torch
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def said(error: BaseException) -> str:
    """Return what an error says, in at most `LINES` lines."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({str(error) or 'none was left'}); ask for smaller batches"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    shown = lines if len(lines) <= LINES else [*lines[: LINES - 1], f"... {len(lines) - LINES + 1} more lines"]
    return "\n".join(line if len(line) <= 1000 else f"{line[:1000]} ..." for line in shown)


def extra_of(package: str) -> str | None:
    """Return the optional extra of prophet-gym that brings a package; None if no extra does."""
    for requirement in requires("prophet-gym") or ():
        found = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if found and found[1].replace("-", "_") == package and found[2] != "dev":
            return found[2]
    return None


def _leave(title: str, text: str, status: int, error: BaseException | None = None) -> NoReturn:
    print(f"{title}: {text}", file=sys.stderr)
    raise SystemExit(status) from error
