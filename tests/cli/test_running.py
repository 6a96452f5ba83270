"""How both programs end: a few lines and a status, whatever goes wrong that a caller can put right."""

import os
import signal
import subprocess
import sys
import time

import pytest

from prophet_gym.cli._running import said
from prophet_gym.cli.main import COMMANDS, Command
from prophet_gym.cli.main import main as prophet
from prophrl_algos.cli import main as prophrl

PROBE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Args:
    pass

def main(args):
    {body}
"""
START = """
from prophet_gym.cli.main import COMMANDS, Command, main
COMMANDS["probe"] = Command("probe", "", resumes={resumes})
main(["probe"])
"""


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """`probe(body)`: a command that does this, as `prophet probe`."""

    def make(body, **about):
        name = f"probe_{abs(hash(body))}"
        (tmp_path / f"{name}.py").write_text(PROBE.format(body=body))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(COMMANDS, "probe", Command(name, "", **about))

    return make


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("open('/')", "prophet probe: [Errno 21] Is a directory: '/'\n"),
        ("import os; os.mkdir('/')", "prophet probe: [Errno 17] File exists: '/'\n"),
        ("raise PermissionError(13, 'Permission denied', 'x')", "prophet probe: [Errno 13] Permission denied: 'x'\n"),
        (
            "raise MemoryError",
            "prophet probe: not enough memory (none was left); ask for smaller batches\n",
        ),
        ("raise ValueError", "prophet probe: ValueError\n"),
        ("raise ValueError('\\n'.join(map(str, range(99))))", "prophet probe: 0\n1\n2\n3\n4\n... 94 more lines\n"),
        ("raise FloatingPointError('the loss is nan')", "prophet probe: the loss is nan\n"),
    ],
)
def test_what_the_caller_can_mend_is_a_few_lines(probe, capsys, body, message):
    probe(body)
    with pytest.raises(SystemExit) as stopped:
        prophet(["probe"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == message


def test_a_very_long_line_is_cut():
    assert len(said(ValueError("x" * 10**6))) < 1100


def test_a_fault_of_ours_keeps_its_traceback(probe):
    probe("raise TypeError('ours')")
    with pytest.raises(TypeError, match="ours"):
        prophet(["probe"])


@pytest.mark.parametrize(("resumes", "said"), [(True, "give the same command again to continue"), (False, "is lost")])
def test_an_interrupt_is_one_line_and_status_130(tmp_path, resumes, said):
    body = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    (tmp_path / "probe.py").write_text(PROBE.format(body=body))
    done = subprocess.run(
        [sys.executable, "-c", START.format(resumes=resumes)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert done.returncode == 130
    assert done.stderr.startswith("prophet probe: interrupted; ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_training_that_is_interrupted_says_how_to_go_on(tmp_path):
    words = [
        "--config.groups", "1", "--config.group-size", "2", "--config.updates", "100000", "--loggers", "csv",
        "--out", str(tmp_path / "run"), "--policy", "benchmarks.toys:tiny", "--tasks", "3",
    ]  # fmt: skip
    training = subprocess.Popen(
        [sys.executable, "-m", "prophrl_algos", "train", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    # Its folder is claimed just before the first update.
    while training.poll() is None and not (tmp_path / "run" / "arguments.json").is_file():
        time.sleep(0.1)
    training.send_signal(signal.SIGINT)
    _, error = training.communicate(timeout=120)
    assert training.returncode == 130
    lines = error.strip().split("\n")
    assert lines[-1] == "prophrl train: interrupted; give the same command again to continue it"
    assert "Traceback" not in error
    assert len(lines) <= 3


def test_a_warning_in_a_command_is_one_line_without_a_place(tmp_path):
    body = "from prophet_gym._checks import warn; warn('no head; 5% of it')"
    (tmp_path / "probe.py").write_text(PROBE.format(body=body))
    (tmp_path / "prophet").write_text(START.format(resumes=False))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "prophet")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.stderr == "prophet probe: no head; 5% of it\n"


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE.format(body="print('x' * 10**7, flush=True)"))
    printing = subprocess.Popen(
        [sys.executable, "-c", START.format(resumes=False)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    printing.stdout.close()
    assert printing.stderr.read() == ""
    assert printing.wait(timeout=60) == 1
    printing.stderr.close()


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (prophrl, ["sft", "--policy", "benchmarks.toys:tiny", "--data", "nowhere", "--out"]),
        (prophet, ["train-reward", "--data", "nowhere", "--out"]),
        (prophet, ["objects", "--data", "nowhere", "--out"]),
    ],
)
def test_several_processes_of_one_torchrun_are_refused(main, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        main([*words, str(tmp_path / "run")])
    assert stopped.value.code == 1
    assert "runs in one process, but WORLD_SIZE=2 says that several were started (torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_torchrun_of_one_is_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(SystemExit):
        prophrl(["evaluate", "--policy", "nope"])
    assert "unknown policy 'nope'" in capsys.readouterr().err


def test_pretraining_is_what_several_processes_may_do_together(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        prophet(["pretrain", "--base", "nowhere", "--data", "nowhere", "--out", "out"])
    assert "weights='nowhere'" in capsys.readouterr().err
