"""Servers of the counting model: one in a thread, whose model can be looked at, and real processes."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra prophet-gym[serve]")

from prophet_gym.rewards import FunctionReward
from prophet_gym.serve import RemoteProphetVectorEnv
from prophet_gym.serve._server import listen, make_server
from prophet_gym.serve._sessions import Limits, Sessions
from prophet_gym.testing import CountingWorldModel, counting_starts
from tests.browser import CHROMIUM, chromium

TOKEN = "a-token-of-the-tests-0123456789"
ROOT = Path(__file__).parents[2]


def counting_parts(**kwargs):
    """An env of the counting model, whose reward is half the red that the last frame has."""
    reward = FunctionReward(lambda video, _: float(video[-1, ..., 0].float().mean()) / 512, max_frames=3)
    return {"world_model": CountingWorldModel(chunk=4), "reward_model": reward, "starts": counting_starts()} | kwargs


class Running:
    """A server in a thread of this process."""

    def __init__(self, limits=None, routes=(), **parts):
        self.parts = counting_parts(**parts)
        self.sessions = Sessions(self.parts, {"train": self.parts["starts"]}, limits or Limits())
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.envs = []
        self.server = make_server(self.sessions, TOKEN, routes(self.sessions) if callable(routes) else routes)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)

    def env(self, num_envs=2, **kwargs):
        self.envs.append(RemoteProphetVectorEnv(self.url, num_envs, **kwargs))
        return self.envs[-1]

    def ask(self, path, body=b"", method=None, headers=None, token=TOKEN):
        """Status and body of the answer to a plain request; a dict is sent as JSON, and asked for as JSON."""
        head = {"Authorization": f"Bearer {token}"} if token else {}
        if isinstance(body, dict):
            body, head = json.dumps(body).encode(), head | {"Content-Type": "application/json"}
            head["Accept"] = "application/json"
        return ask(self.url + path, body, method, head | (headers or {}))

    def stop(self):
        for envs in self.envs:
            envs.close()
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.socket.close()


def ask(url, body=b"", method=None, headers=None):
    request = urllib.request.Request(url, body or None, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def wait_until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def running(monkeypatch):
    """Start servers of given limits and parts; all are stopped at the end."""
    monkeypatch.setenv("PROPHET_TOKEN", TOKEN)
    started = []

    def start(limits=None, routes=(), **parts):
        started.append(Running(limits, routes, **parts))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture(scope="module")
def everyones():
    """A server for the tests of a module that leave nothing behind but sessions."""
    started = Running(Limits(sessions=200))
    yield started
    started.stop()


@pytest.fixture
def shared(everyones, monkeypatch):
    monkeypatch.setenv("PROPHET_TOKEN", TOKEN)
    return everyones


@pytest.fixture
def server(running):
    return running()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """`browser.open(address, width)`; skipped where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium, which no requirement brings: apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny untrained checkpoint with a success head and initial states."""
    from tests.test_factory import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@contextmanager
def served(checkpoint, token_file, port=0, *options):
    """Run `prophet serve` in a process of its own; give the process and its address."""
    command = [sys.executable, "-m", "prophet_gym", "serve", "--world-model", str(checkpoint), "--device", "cpu"]
    command += ["--port", str(port), "--token-file", str(token_file), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        yield process, line.split(" at ")[-1].strip()
    finally:
        process.kill()
        process.communicate()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
