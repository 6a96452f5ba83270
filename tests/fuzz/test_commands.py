"""Both programs under wrong words: a status of 1 or 2, a short message, never a traceback, and nothing written."""

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

from prophet_gym.cli.main import COMMANDS as PROPHET
from prophet_gym.cli.main import main as prophet
from prophet_gym.train._run_folder import LOCK
from prophrl_algos.cli import COMMANDS as PROPHRL
from prophrl_algos.cli import main as prophrl

# Each fails for a reason of its own, so that no case ever does what its command is for, whatever else is asked.
DOOMED = {
    "prophet demo": ["--data", "nowhere"],
    "prophet evaluate": ["--data", "nowhere"],
    "prophet collect": ["--out", "new", "--suite", "nowhere"],
    "prophet calibrate": ["--data", "nowhere"],
    "prophet export": ["--data", "nowhere", "--out", "new"],
    "prophet convert": ["nowhere.pt", "new", "--vae", "none"],
    "prophet train": ["--data", "nowhere", "--out", "new"],
    "prophet pretrain": ["--base", "nowhere", "--data", "nowhere", "--out", "new"],
    "prophet rank": ["--suite", "nowhere", "--policies", "script:expert", "--out", "new"],
    "prophet distill": ["--teacher", "nowhere", "--data", "nowhere", "--sampler-steps", "1", "--out", "new"],
    "prophet merge": ["--base", "nowhere", "--lora", "nowhere", "--out", "new"],
    "prophet train-reward": ["--data", "nowhere", "--out", "new"],
    "prophet redream": ["--data", "nowhere", "--out", "new"],
    "prophet objects": ["--data", "nowhere", "--out", "new"],
    "prophet starts": ["--out", "new", "--suite", "nowhere"],
    "prophet report": ["nowhere"],
    "prophet inspect": ["nowhere"],
    "prophet serve": ["--world-model", "nowhere"],
    "prophet play": ["--world-model", "nowhere"],
    "prophet push": ["nowhere", "me/dream"],
    "prophet pull": ["nowhere"],
    "prophrl report": ["nowhere"],
    "prophrl push": ["nowhere", "me/policy"],
    "prophrl pull": ["nowhere"],
    "prophrl train": ["--policy", "small", "--policy-weights", "nowhere", "--out", "new"],
    "prophrl evaluate": ["--policy", "small", "--policy-weights", "nowhere"],
    "prophrl sft": ["--policy", "small", "--data", "nowhere", "--out", "new"],
    "prophrl record": ["--policy", "small", "--policy-weights", "nowhere", "--out", "new"],
}
EVERYWHERE = {"--json": Path, "--quiet": bool}
"""What the programs add to the options of a command."""
REASONS = ("--suite", "--policy-weights", "--base", "--lora", "--vae", "--data", "--policy")
"""Options of DOOMED that are only given other values that fail too."""
WHOLE = ["-1", "0", str(10**12), "1.5", "nan", "", "one", "0x10", "--"]
REAL = ["nan", "inf", "-inf", "-1", "1e400", "one", ""]
PLACES = ["file", "file/deeper", "nowhere/deeper", "junk", ".", "", "x" * 300, "/proc/nowhere/x", "\0"]
TEXTS = ["", "nowhere", "None", "../..", "\N{ROBOT FACE}", "x" * 300, "a:b:c", ".a:b", ":", "json:", "0,0", "-1"]
MISSING = ["nowhere", "file", "junk", "nowhere:made"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: a file, and a folder whose files are not what their names say."""
    (tmp_path / "file").write_text("mine")
    junk = tmp_path / "junk"
    junk.mkdir()
    for name in ("meta.json", "config.json", "prophet.json", "index.json", "last.pt", "model.safetensors"):
        (junk / name).write_text('{"cut')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options_of(made: Any, prefix: str = "--") -> dict[str, Any]:
    """Option -> type of every field, those of nested dataclasses too."""
    found = {}
    for name, hint in get_type_hints(made).items():
        option = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            found |= options_of(hint, f"{option}.")
        else:
            found[option] = hint
    return found


def wrong_values(hint: Any) -> list[str]:
    """Values that a field of this type should not be given, most of them."""
    origin = get_origin(hint)
    if origin is Annotated:
        return wrong_values(get_args(hint)[0])
    if origin is Literal or hint is bool:
        return ["nowhere", "", "1"]
    if hint in (int, float, Path, str):
        return {int: WHOLE, float: REAL, Path: PLACES, str: TEXTS}[hint]
    return wrong_values(get_args(hint)[0])


def words_of(generator, command: str, options: dict[str, Any]) -> list[str]:
    words = list(DOOMED[command])
    for option in generator.choice(list(options), size=generator.integers(1, 4), replace=True).tolist():
        values = MISSING if option in REASONS else wrong_values(options[option])
        value = values[generator.integers(len(values))]
        kind = generator.random()
        if kind < 0.05:
            words += [option]
        elif kind < 0.1:
            words += ["--frobnicate", value]
        elif option in words[:-1] and kind < 0.7:
            words[words.index(option) + 1] = value
        else:
            words += [option, *[value] * int(generator.integers(1, 3))]
    return words


def written(folder: Path) -> dict[str, bytes | None]:
    """Every file; but for the empty lock of a run, which stays in a folder that was there before."""
    found = (path for path in folder.rglob("*") if path.name != LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def test_wrong_words_are_refused_in_a_few_lines(cases, place, capsys):
    before = written(place)
    programs = {"prophet": (prophet, PROPHET), "prophrl": (prophrl, PROPHRL)}
    assert set(DOOMED) == {f"{program} {name}" for program, (_, known) in programs.items() for name in known}
    options = {
        f"{program} {name}": options_of(import_module(command.module).Args) | EVERYWHERE
        for program, (_, known) in programs.items()
        for name, command in known.items()
    }
    for generator in cases(50):
        command = list(DOOMED)[generator.integers(len(DOOMED))]
        program, name = command.split()
        words = words_of(generator, command, options[command])
        if generator.random() < 0.05:
            name = f"{name}x"
        with pytest.raises(SystemExit) as stopped:
            programs[program][0]([name, *words])
        shown = capsys.readouterr()
        case = f"{program} {name} {[word[:40] for word in words]}: {shown.err[-2000:]}"
        assert stopped.value.code in (1, 2), case
        assert "Traceback" not in shown.err, case
        said = [line for line in shown.err.split("\n") if line.startswith(command)]
        if stopped.value.code == 1:
            assert said, case
            message = shown.err[shown.err.index(said[-1]) :]
            assert message.count("\n") <= 6, case
            assert len(message) < 2500, case
        else:
            assert shown.err.count("\n") <= 60, case
        assert written(place) == before, case
