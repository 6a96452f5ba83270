"""Worker processes: refused, ended and named as they should be; no simulator is needed for that."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from prophet_gym.errors import SimulatorLostError
from prophet_gym.sims import _recorder as recorder
from prophet_gym.sims._episodes import LocalStages, Scene, WorkerStages
from prophet_gym.sims._recorder import Plan, collect
from prophet_gym.sims._workers import end_workers, start_workers

ROOT = Path(__file__).parents[2]
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows stops no process by a signal")


def stages(timeout: float = 300.0) -> WorkerStages:
    return WorkerStages("libero_object", "light", 64, workers=1, timeout=timeout)


def gone(pid: int, seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused_where_they_are_started(workers, tmp_path):
    plan = Plan(suite="libero_object", tasks=(3,), episodes=1, seed=0, look="light")
    with pytest.raises(ValueError, match="workers must be an integer of at least 1, got"):
        collect(plan, tmp_path / "recording", workers=workers)
    assert not (tmp_path / "recording").exists()


SCRIPTS = {
    "env": 'WorkerStages("libero_object", "light", 64, workers=1).begin({0: Scene(3, seed=0)})',
    "recorder": 'collect(Plan("libero_object", (3,), 1, 0, "light"), sys.argv[1], workers=1)',
}


@pytest.mark.parametrize("call", SCRIPTS)
def test_a_script_without_a_guard_is_told_of_it(call, tmp_path):
    if call == "recorder":
        pytest.importorskip("robosuite", reason="collect refuses sooner without the simulator")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom prophet_gym.sims._episodes import Scene, WorkerStages\n"
        f"from prophet_gym.sims._recorder import Plan, collect\n{SCRIPTS[call]}\n"
    )
    ended = subprocess.run(
        [sys.executable, script, tmp_path / "recording"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert "SimulatorLostError" in last
    assert 'guard what it runs with `if __name__ == "__main__":`' in last


@needs_signals
def test_a_frozen_worker_is_named_with_what_it_was_asked():
    with closing(stages(timeout=1.0)) as made:
        process = made._processes[0]
        os.kill(process.pid, signal.SIGSTOP)
        said = rf"worker 0 \(process {process.pid}\).*sub-environment 2.*for 1 s.*seed=7"
        with pytest.raises(SimulatorLostError, match=said):
            made.begin({2: Scene(3, seed=7)})
        # What it answers later belongs to no later call.
        os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(SimulatorLostError, match="for 1 s; the last request was begin of sub-environment 2"):
            made.begin({0: Scene(3, seed=0)})
        os.kill(process.pid, signal.SIGSTOP)
    assert gone(process.pid)


@needs_signals
def test_a_lost_worker_is_named_with_what_it_was_asked():
    with closing(stages()) as made:
        made._processes[0].kill()
        said = r"sub-environment 0 ended with exit code -9 .*worker 0.*advance of sub-environment 0: 5"
        with pytest.raises(SimulatorLostError, match=said):
            made.advance({0: np.zeros((5, 7))}, every_frame=True)


def test_an_answer_that_was_left_unread_belongs_to_no_later_call():
    with closing(stages()) as made:
        # As after Ctrl-C between a request and its answer; the answers say what is wrong with each.
        made._connections[0].send((0, "begin", 0, Scene(task=11, seed=0), {}))
        with pytest.raises(ValueError, match="task 12"):
            made.begin({0: Scene(task=12, seed=0)})


@pytest.mark.parametrize("make", [stages, lambda: LocalStages("libero_object", "light", 64)])
def test_a_simulator_is_closed_twice(make):
    made = make()
    made.close()
    made.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_does_not_speak_to_its_parents_workers():
    with closing(stages()) as made:
        code = os.fork()
        if code == 0:
            try:
                made.begin({0: Scene(3, seed=0)})
            except SimulatorLostError as error:
                made.close()
                os._exit(7 if 'context="spawn"' in str(error) else 1)
            finally:  # whatever happens: the fork must not go on with the tests
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(code, 0)[1]) == 7
        assert made._processes[0].is_alive()


ORPHAN = """
import os, sys, time
from pathlib import Path
from prophet_gym.sims._workers import start_workers

folder = Path(sys.argv[1])


def work():
    (folder / "worked").touch()


if __name__ == "__main__":
    start_workers(work, [()])
    time.sleep(600)
else:  # the worker imports this before it works; its parent is killed meanwhile
    parent = os.getppid()
    (folder / "draft").write_text(str(os.getpid()))
    (folder / "draft").rename(folder / "pid")
    while os.getppid() == parent:
        time.sleep(0.05)
"""


@needs_signals
def test_a_worker_whose_parent_was_killed_while_it_started_does_nothing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, script, tmp_path], env=os.environ | {"PYTHONPATH": str(ROOT)}) as parent:
        try:
            deadline = time.monotonic() + 240
            while not (tmp_path / "pid").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            parent.kill()
    assert gone(int((tmp_path / "pid").read_text()))
    assert not (tmp_path / "worked").exists()


@needs_signals
def test_a_recording_whose_workers_are_silent_ends(monkeypatch):
    monkeypatch.setattr(recorder, "_SILENCE", 0.1)
    processes = start_workers(time.sleep, [(600,)])
    os.kill(processes[0].pid, signal.SIGSTOP)
    try:
        with pytest.raises(SimulatorLostError, match=rf"for 0.1 s; still there: {processes[0].pid}\. Run again"):
            recorder._next_message(multiprocessing.get_context("spawn").Queue(), processes, heard=True)
    finally:
        end_workers(processes)


@needs_signals
def test_a_stopped_worker_is_ended_too():
    processes = start_workers(time.sleep, [(600,), (600,)])
    os.kill(processes[0].pid, signal.SIGSTOP)
    end_workers(processes)
    assert not any(process.is_alive() for process in processes)


def test_a_worker_that_is_ended_while_it_shows_a_bar_leaves_no_semaphore(tmp_path):
    body = """
import time
from prophet_gym._io.progress import progress
from prophet_gym.sims._workers import end_workers, start_workers

def work(path):
    with progress(None, "light meshes", total=2) as bar:
        bar.update()
        open(path, "w").close()
        time.sleep(600)

if __name__ == "__main__":
    import os, sys
    processes = start_workers(work, [(sys.argv[1],)])
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.1)
    end_workers(processes)
"""
    (tmp_path / "shows.py").write_text(body)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "shows.py"), str(tmp_path / "begun")],
        check=True, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    assert "leaked" not in done.stderr
