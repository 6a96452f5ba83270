"""Every command of the pages exists, with the options that it is given there."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from prophet_gym.cli.main import COMMANDS as PROPHET
from prophet_gym.cli.main import main as prophet
from prophrl_algos.cli import COMMANDS as PROPHRL
from prophrl_algos.cli import main as prophrl

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "model_cards", "experiments", "benchmarks")
PAGES = [ROOT / "README.md", *(page for name in FOLDERS for page in sorted((ROOT / name).rglob("*.md")))]
PROGRAMS = {"prophet": (prophet, PROPHET), "prophrl": (prophrl, PROPHRL)}
COMMAND = re.compile(r"(?:\b|-m )(prophet|prophrl)(?:_gym|_algos)? ([a-z][a-z-]*)([^`\n|&;#]*)")


def options_given() -> dict[tuple[str, str], set[str]]:
    """Program and command -> the options that a page gives it."""
    given: dict[tuple[str, str], set[str]] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        fenced = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\n", " ")
        for code in [fenced, *re.findall(r"`([^`]+)`", prose)]:
            for program, command, rest in COMMAND.findall(code):
                given.setdefault((program, command), set()).update(re.findall(r"(?<= )--[\w.-]+", rest))
    return given


GIVEN = options_given()


def test_commands_are_found():
    assert {("prophet", "train"), ("prophrl", "train"), ("prophet", "evaluate")} <= GIVEN.keys()


@pytest.mark.parametrize(("program", "command"), sorted(GIVEN), ids=" ".join)
def test_a_command_of_the_pages_exists_with_its_options(program, command, capsys):
    main, commands = PROGRAMS[program]
    assert command in commands
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert not left.value.code
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    assert GIVEN[program, command] <= known


def test_pages_install_extras_from_the_clone_and_name_those_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        # The package is on no index, so its name alone installs only from a folder of wheels.
        assert not re.search(r"pip install '?\"?prophet-gym", text.replace("pip install --no-index", "")), page
        named |= {name for found in re.findall(r"['\"`]\.\[([\w,]+)\]", text) for name in found.split(",")}
    assert {"sb3", "train", "libero", "lerobot"} <= named <= extras.keys()


def test_lerobot_is_asked_for_only_where_it_can_be_installed():
    (line,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
        "lerobot"
    ]
    marker = Requirement(line).marker
    assert marker is not None
    assert not marker.evaluate({"python_version": "3.11"})
    assert marker.evaluate({"python_version": "3.12"})
    for page in ("commands.md", "libraries.md"):
        row = next(
            row for row in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines() if "`.[lerobot]`" in row
        )
        assert "Python >= 3.12" in row
