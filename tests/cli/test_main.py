"""The `prophet` command finds its subcommands and says in one line what went wrong."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from typing import get_type_hints

import pytest
from tyro.conf import Positional

from prophet_gym.cli.main import COMMANDS, Command, main


def test_help_lists_every_command(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed and command.summary in printed for name, command in COMMANDS.items())


def test_help_imports_nothing_heavy():
    probe = "import sys; from prophet_gym.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_inspect_loads_no_network_before_it_counts_one():
    probe = "import sys, prophet_gym.train._inspect; sys.exit('prophet_gym.prophet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(name, capsys):
    module = import_module(COMMANDS[name].module)
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"prophet {name}" in printed
    for field, hint in get_type_hints(module.Args, include_extras=True).items():
        positional = Positional in getattr(hint, "__metadata__", ())
        assert (field.upper() if positional else f"--{field.replace('_', '-')}") in printed
        text = documented(module.Args, field)
        assert text, f"{field} needs a text below it, or a comment behind it"
        assert text in "".join(printed.replace("│", "").split()), f"the help must say what --{field} is"


def documented(args, field):
    """Return what the source of a class, or of a base of it, says of a field, without white space."""
    for part in args.__mro__[:-1]:
        found = re.search(
            rf'^    {field}: (?:[^\n#]*?# (?P<behind>[^\n]+)|.*?\n    """(?P<below>.*?)""")',
            inspect.getsource(part),
            re.DOTALL | re.MULTILINE,
        )
        if found:
            return "".join((found["behind"] or found["below"]).split())
    return ""


def test_help_begins_with_the_options_of_the_command_and_breaks_no_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    places = [printed.index(f"--{name} ") for name in ("out", "data", "urdf", "quiet")]
    assert places == sorted(places)
    (line,) = [line for line in printed.splitlines() if "Recordings of `prophet collect` or" in line]
    assert "of which the model reads the actions alone. (default: )" in line


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evalute"])
    assert stopped.value.code == 2
    assert "Did you mean 'evaluate'?" in capsys.readouterr().err


def test_what_the_caller_can_mend_is_one_line_without_a_traceback(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--world-model", str(tmp_path / "nowhere")])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("prophet evaluate: weights=")
    assert "Traceback" not in error


def test_a_missing_package_is_named_with_the_extra_that_brings_it(capsys, tmp_path, monkeypatch):
    (tmp_path / "needs_peft.py").write_text("import peft.utils")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setitem(COMMANDS, "probe", Command("needs_peft", ""))
    with pytest.raises(SystemExit) as stopped:
        main(["probe"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "prophet probe needs peft: pip install 'prophet-gym[train]'\n"


def test_a_missing_module_of_our_own_is_no_extra(tmp_path, monkeypatch):
    (tmp_path / "needs_nothing_known.py").write_text("import prophet_gym.no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "probe", Command("needs_nothing_known", ""))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        main(["probe"])
