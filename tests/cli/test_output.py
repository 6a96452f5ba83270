"""`--quiet` and `--json` of every command of both programs: declared once, and what they say holds."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

import pytest

from prophet_gym.cli.main import COMMANDS as PROPHET
from prophet_gym.cli.main import Command
from prophet_gym.cli.main import main as prophet
from prophet_gym.data._recording import META
from prophrl_algos.cli import COMMANDS as PROPHRL
from prophrl_algos.cli import main as prophrl

ROOT = Path(__file__).parents[2]
PROGRAMS = {"prophet": (prophet, PROPHET), "prophrl": (prophrl, PROPHRL)}
ALL = [(program, name) for program, (_, commands) in PROGRAMS.items() for name in commands]
BARS = "prophet_gym/_io/progress.py"


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


@pytest.mark.parametrize(("program", "name"), ALL, ids=" ".join)
def test_every_command_takes_quiet_and_every_one_that_ends_gives_json(program, name, capsys):
    main, commands = PROGRAMS[program]
    with pytest.raises(SystemExit):
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert "--quiet" in printed
    assert ("--json" in printed) == (not commands[name].endless)
    module = import_module(commands[name].module)
    assert not {"quiet", "json"} & set(get_type_hints(module.Args)), "the runner declares them, for all commands"
    gives = get_type_hints(module.main).get("return")
    kinds = get_args(gives) if get_origin(gives) is UnionType else (gives,)
    results = [kind for kind in kinds if kind is not NoneType]
    assert [issubclass(get_origin(kind), Mapping) for kind in results] == ([] if commands[name].endless else [True])


def test_only_servers_have_no_results():
    assert [name for program, name in ALL if PROGRAMS[program][1][name].endless] == ["serve", "play"]


@pytest.mark.parametrize("package", ["prophet_gym", "prophrl_algos"])
def test_bars_are_made_in_one_place(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        used = any(name.partition(".")[0] == "tqdm" for name in imported)
        assert used == (str(path.relative_to(ROOT)) == BARS), path


@pytest.fixture
def told(checkpoint, recording, tmp_path):
    """Command -> words that make it run on tiny parts."""
    others = tmp_path / "others"
    shutil.copytree(recording, others)
    meta = json.loads((others / META).read_text())
    (others / META).write_text(json.dumps(meta | {"starts": "random"}))
    world = ["--world-model", str(checkpoint), "--data", str(recording), "--device", "cpu"]
    return {
        "demo": [*world, "--steps", "8", "--out", str(tmp_path)],
        "evaluate": [*world, "--horizons", "8"],
        "redream": [*world, "--out", str(tmp_path / "dreams")],
        "export": ["--data", str(others), "--out", str(tmp_path / "set")],
        "inspect": [str(others)],
    }


@pytest.mark.parametrize("name", ["demo", "evaluate", "redream", "export", "inspect"])
def test_a_quiet_command_writes_nothing_but_its_files(name, told, tmp_path, capfd):
    prophet([name, *told[name], "--quiet", "--json", str(tmp_path / "results.json")])
    assert capfd.readouterr() == ("", "")
    assert json.loads((tmp_path / "results.json").read_text())
    assert "TQDM_DISABLE" not in os.environ


@pytest.mark.parametrize("name", ["demo", "evaluate", "redream", "export", "inspect"])
def test_a_dash_prints_json_alone_and_bars_stay_on_stderr(name, told, capfd):
    prophet([name, *told[name], "--json", "-"])
    out, err = capfd.readouterr()
    assert isinstance(json.loads(out), dict)
    assert ("%|" in err or "it/s" in err or "/s]" in err) == (name != "inspect")


def test_without_either_people_are_told(told, capfd):
    prophet(["export", *told["export"]])
    out, err = capfd.readouterr()
    assert "2 episodes" in out
    assert "export" in err


PROBE = """
import math
import os
import numpy as np
from dataclasses import dataclass
from pathlib import Path
from prophet_gym._arguments import Arguments

@dataclass(frozen=True)
class Args(Arguments):
    resumes: str = ""

def main(args):
    print("prose")
    os.system("echo prose of another process")
    import logging, warnings
    logging.getLogger("probe").info("chatter")
    warnings.warn("look here", stacklevel=1)
    return {"loss": math.nan, "folder": Path("a"), "sizes": (1, np.float32(2)), "arguments": vars(args)}
"""


@pytest.fixture
def probe(tmp_path, monkeypatch):
    (tmp_path / "probe_output.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PROPHET, "probe", Command("probe_output", ""))


@pytest.mark.usefixtures("probe")
def test_results_are_plain_json_and_the_arguments_of_a_run_know_nothing_of_who_watches(capfd):
    with pytest.warns(UserWarning, match="look here"):  # what matters is said in any case
        prophet(["probe", "--quiet", "--json", "-"])
    found = json.loads(capfd.readouterr().out)
    assert found == {"loss": None, "folder": "a", "sizes": [1, 2], "arguments": {"resumes": ""}}


@pytest.mark.usefixtures("probe")
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        prophet(["probe", "--json", str(tmp_path)])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "json must be a file" in printed.err
    assert "prose" not in printed.out


@pytest.mark.usefixtures("probe")
def test_a_pipe_or_an_open_file_is_not_replaced_by_results(tmp_path, capsys):
    pipe, link = tmp_path / "pipe", tmp_path / "stdout"
    os.mkfifo(pipe)
    link.symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    for path in (pipe, link, Path("/proc/self/results.json")):
        with pytest.raises(SystemExit) as stopped:
            prophet(["probe", "--json", str(path)])
        assert stopped.value.code == 2
        assert "a device, a pipe or an open file" in " ".join(capsys.readouterr().err.split())
    assert pipe.is_fifo()
    assert link.is_symlink()


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize("words", [[], ["--json", "-"]])
def test_who_reads_may_go_and_nothing_is_said(words, tmp_path):
    reads, writes = os.pipe()
    os.close(reads)
    code = "from prophet_gym.cli._running import *; main('prophet', {'probe': Command('probe_output', '')}, None)"
    path = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    command = [sys.executable, "-W", "ignore", "-c", code, "probe", *words]
    try:
        done = subprocess.run(
            command, stdout=writes, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, check=False
        )
    finally:
        os.close(writes)
    assert b"Broken" not in done.stderr
    assert done.returncode == 1


def test_a_quiet_error_is_said(capsys):
    with pytest.raises(SystemExit):
        prophet(["inspect", "nowhere", "--quiet"])
    assert capsys.readouterr().err.startswith("prophet inspect: ")


@pytest.mark.slow
def test_the_smallest_evaluation_proves_an_installation(tmp_path):
    """As `make test-wheel` runs it, from what is installed."""
    words = [sys.executable, "-m", "prophrl_algos", "evaluate", "--tiny", "--device", "cpu", "--json", "-", "--quiet"]
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert len(found["episodes"]) == 1
    assert found["episodes"][0]["chunks"] > 0
    assert done.stderr == ""


@pytest.mark.parametrize("words", [[], ["--tiny", "--policy", "small"]])
def test_an_evaluation_needs_one_policy(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        prophrl(["evaluate", *words])
    assert stopped.value.code == 2
    assert "or --tiny, which brings one" in capsys.readouterr().err
