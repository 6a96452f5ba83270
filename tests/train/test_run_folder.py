"""One run at a time in a folder, with what it was begun with."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from prophet_gym.errors import CheckpointError, RunInUseError
from prophet_gym.prophet import tiny_full_prophet
from prophet_gym.train import _objects as objects
from prophet_gym.train import _pretrain as pretrain
from prophet_gym.train import _reward as reward
from prophet_gym.train import _small as small
from prophet_gym.train._run_folder import ARGUMENTS, begin_run, run_lock
from prophrl_algos.cli import _train as policy_training
from prophrl_algos.trainer import TrainerConfig

NO_OP = """
import sys
from pathlib import Path
from prophet_gym.prophet import tiny_full_prophet
from prophet_gym.train import _objects as objects
from prophet_gym.train import _pretrain as pretrain
from prophet_gym.train import _reward as reward
from prophet_gym.train import _small as small
from prophet_gym.train._run_folder import run_lock
with run_lock(Path({out!r})):
    print("held", flush=True)
    sys.stdin.readline()
"""


@dataclass(frozen=True)
class Args:
    data: Path
    out: Path
    width: int = 96


def holder(folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", NO_OP.format(out=str(folder))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout.readline() == b"held\n"
    return process


def ended(process, how):
    process.kill() if how == "killed" else process.communicate(b"\n")
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("how", ["killed", "done"])
def test_a_second_run_is_refused_until_the_first_has_ended_however_it_ended(how, tmp_path):
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(RunInUseError, match=rf"in use by another run \(process {process.pid} on "),
            run_lock(tmp_path),
        ):
            pass
        with run_lock(tmp_path, main=False):  # a process that trains with the first one
            pass
    finally:
        ended(process, how)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / ".run.json").read_text())["process"] == os.getpid()


def test_the_same_process_is_refused_too_and_an_error_frees_the_folder(tmp_path):
    with run_lock(tmp_path), pytest.raises(RunInUseError, match=f"process {os.getpid()}"), run_lock(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        _ = 1 / 0
    with run_lock(tmp_path):
        pass


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match="is a file; give a folder"), run_lock(tmp_path / "a"):
        pass


def test_a_run_goes_on_with_what_it_was_begun_with(tmp_path):
    begin_run(tmp_path, Args(Path("one"), tmp_path), begun=False, free=("out",))
    begin_run(
        tmp_path, Args(Path("two"), tmp_path), begun=False, free=("out",)
    )  # nothing has been made of the first yet
    begin_run(tmp_path, Args(Path("two"), tmp_path / "elsewhere"), begun=True, free=("out",))
    begin_run(tmp_path, Args(Path("two").resolve(), tmp_path), begun=True, free=("out",))  # the same, spelled otherwise
    before = (tmp_path / ARGUMENTS).read_bytes()
    with pytest.raises(ValueError, match=r"data was \S+/two, is \S+/one, width was 96, is 64; use"):
        begin_run(tmp_path, Args(Path("one"), tmp_path, 64), begun=True, free=("out",))
    assert (tmp_path / ARGUMENTS).read_bytes() == before


def test_every_stage_has_its_own(tmp_path):
    begin_run(tmp_path, {"width": 1}, begun=False, stage="one")
    begin_run(tmp_path, {"width": 2}, begun=False, stage="two")
    begin_run(tmp_path, {"width": 1}, begun=True, stage="one")
    with pytest.raises(ValueError, match=r"of another run \(two\): width was 2, is 1"):
        begin_run(tmp_path, {"width": 1}, begun=True, stage="two")


@pytest.mark.parametrize("content", ["", "[]", '{"one": 3}'])
def test_damaged_arguments_are_named(content, tmp_path):
    (tmp_path / ARGUMENTS).write_text(content)
    with pytest.raises(CheckpointError, match=r"arguments\.json"):
        begin_run(tmp_path, {"width": 1}, begun=True, stage="one")


@pytest.mark.parametrize("command", ["train", "adaptation", "pretrain", "train-reward", "objects"])
def test_every_training_command_holds_its_folder(command, toy_recording, tmp_path):
    data, out = toy_recording, tmp_path / "out"
    if command == "pretrain":
        pytest.importorskip("accelerate")
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        tiny_full_prophet().save_pretrained(tmp_path / "base", half=False)
    begun = {
        "train": lambda: small.main(small.Args(data=(data,), out=out, device="cpu")),
        "adaptation": lambda: small.main(small.Args(out, (data,), base="bundled", lora_rank=16, device="cpu")),
        "pretrain": lambda: pretrain.main(
            pretrain.Args(str(tmp_path / "base"), (str(data),), out, cpu=True, workers=0)
        ),
        "train-reward": lambda: reward.main(reward.Args(data=(data,), out=out)),
        "objects": lambda: objects.main(objects.Args(data=data, out=out)),
    }
    with run_lock(out), pytest.raises(RunInUseError, match=f"process {os.getpid()} on"):
        begun[command]()
    assert {path.name for path in out.iterdir()} <= {".run.lock"}


def fail_in(folder, *, writing):
    with run_lock(folder):
        assert folder.is_dir()
        if writing:
            (folder / "state").write_text("kept")
        raise ValueError("nothing to train on")


@pytest.mark.parametrize("writing", [False, True])
def test_a_run_that_is_refused_before_it_writes_leaves_no_folder(writing, tmp_path):
    with pytest.raises(ValueError, match="nothing to train on"):
        fail_in(tmp_path / "new" / "run", writing=writing)
    assert [path.name for path in tmp_path.rglob("state")] == ["state"] * writing
    assert (tmp_path / "new").exists() == writing


def test_a_policy_is_trained_by_one_run_in_a_folder(tmp_path):
    args = policy_training.Args(
        policy="benchmarks.toys:tiny", out=tmp_path, config=TrainerConfig(groups=1, group_size=2), loggers=("csv",)
    )
    with run_lock(tmp_path), pytest.raises(RunInUseError, match=f"process {os.getpid()} on"):
        policy_training.main(args)
    assert {path.name for path in tmp_path.iterdir()} <= {".run.lock"}
