"""What the arguments of a command must be is checked when they are made."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import torch
import tyro

from prophet_gym._arguments import (
    Arguments,
    Cameras,
    Count,
    Device,
    DeviceOrAuto,
    Fraction,
    Minutes,
    OutFile,
    OutFolder,
    Seed,
    Several,
    SomeTasks,
    Tasks,
    Writable,
)
from prophet_gym.errors import UnknownOptionError


@dataclass(frozen=True)
class Inner(Arguments):
    steps: Count = 5


@dataclass(frozen=True)
class Args(Arguments):
    """Some of every kind."""

    episodes: Count = 1
    seed: Seed = 0
    share: Fraction = 0.5
    minutes: Minutes = math.inf
    device: Device = "cpu"
    trained_on: DeviceOrAuto = "auto"
    tasks: Tasks = ()
    some: SomeTasks = (0,)
    horizons: Annotated[tuple[Count, ...], Several()] = (8,)
    cameras: Cameras = ("agentview",)
    most: Count | None = None
    out: OutFolder = Path("out")
    json: OutFile | None = None
    video: Annotated[Path, Writable(endings=(".gif", ".webp"))] | None = None
    inner: Inner = field(default_factory=Inner)
    free: int = -1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"episodes": 0}, "episodes must be an integer of at least 1, got 0"),
        ({"episodes": 10**12}, r"episodes must be an integer in 1\.\.1000000000, got 1000000000000"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"share": 1.5}, "share must be at most 1, got 1.5"),
        ({"share": math.nan}, "share must be a finite number of at least 0, got nan"),
        ({"minutes": 0.0}, "minutes must be a finite number above 0, got 0.0"),
        ({"minutes": math.nan}, "minutes must be a finite number above 0, got nan"),
        ({"device": "nope"}, "unknown device 'nope'. Known: cpu, cuda, mps"),
        ({"device": "meta"}, "unknown device 'meta'"),
        ({"device": "cpu:7"}, "device must be on this machine, got 'cpu:7'"),
        ({"device": "xpu:99"}, "device must be on this machine, got 'xpu:99'"),
        ({"device": "auto"}, "unknown device 'auto'"),
        ({"trained_on": "nope"}, "unknown trained_on 'nope'. Known: auto, cpu, cuda, mps"),
        ({"tasks": (1, 2, 1)}, "tasks must be different, got 1 more than once"),
        ({"tasks": (-1,)}, "tasks must be an integer of at least 0, got -1"),
        ({"some": ()}, "some must have at least one value, got none"),
        ({"horizons": ()}, "horizons must have at least one value"),
        ({"horizons": (8, 0)}, "horizons must be an integer of at least 1, got 0"),
        ({"cameras": ("wrist",)}, "cameras must include agentview, got wrist"),
        ({"cameras": ("agentview", "agentview")}, "cameras must be different, got agentview more than once"),
        ({"most": 0}, "most must be an integer of at least 1, got 0"),
    ],
)
def test_a_value_that_will_not_do_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        Args(**given)


def test_an_unknown_device_is_an_option_that_does_not_exist():
    with pytest.raises(UnknownOptionError):
        Args(device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_this_machine_lacks_is_refused():
    with pytest.raises(ValueError, match=r"device must be on this machine, got 'cuda': torch .* finds 0 cuda devices"):
        Args(device="cuda")


def test_what_will_do_is_taken(tmp_path):
    made = Args(minutes=0.5, seed=2**40, tasks=(3, 5), most=None, out=tmp_path / "new" / "deep", json=tmp_path / "a")
    assert made.free == -1
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused_and_nothing_is_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for given, message in [
        ({"out": file}, "out must be a folder, got .*file, which is a file"),
        ({"out": file / "deeper" / "still"}, "out cannot be written: .*file is a file, not a folder"),
        ({"json": tmp_path}, "json must be a file, got .*, which is a folder"),
        ({"json": file / "x.json"}, "json cannot be written: .*file is a file"),
        ({"video": tmp_path / "film.avi"}, r"video must end in \.gif or \.webp, got .*film\.avi"),
    ]:
        with pytest.raises(ValueError, match=message):
            Args(**given)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="out cannot be written: no permission in"):
        Args(out=tmp_path / "new")
    tmp_path.chmod(0o700)


def test_a_command_line_says_it_in_a_few_lines(capsys):
    with pytest.raises(SystemExit) as stopped:
        tyro.cli(Args, prog="prophet probe", args=["--inner.steps", "0"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "steps must be an integer of at least 1, got 0" in error
    assert error.count("\n") <= 7


def test_every_argument_of_both_programs_that_counts_or_writes_is_checked():
    from importlib import import_module
    from typing import get_type_hints

    from prophet_gym.cli.main import COMMANDS
    from prophrl_algos.cli import COMMANDS as LEARNING

    for command in (*COMMANDS.values(), *LEARNING.values()):
        made = import_module(command.module).Args
        assert issubclass(made, Arguments), command.module
        for name, hint in get_type_hints(made, include_extras=True).items():
            bare = hint in (int, float, int | None, float | None)
            assert not bare, f"{command.module}: say what {name} must be, e.g. Count or Positive"
            assert not (name in ("out", "json", "device") and hint in (Path, Path | None, str)), (command.module, name)
