"""`prophet serve` as users run it: a process that starts, is refused, dies and comes back."""

import collections
import itertools
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from prophet_gym.cli.main import main
from prophet_gym.errors import SimulatorLostError
from prophet_gym.factory import make_vector_env
from prophet_gym.serve import RemoteProphetVectorEnv
from prophet_gym.serve._server import is_loopback, listen, read_token
from prophet_gym.testing import assert_same
from tests.serve.conftest import ROOT, free_port, served


@pytest.mark.slow
def test_a_restarted_server_continues_from_the_clients_last_snapshot(checkpoint, tmp_path):
    token, port = tmp_path / "token", free_port()
    alone = make_vector_env(2, weights=checkpoint, render="chunk", max_episode_steps=None)
    actions = np.random.default_rng(0).uniform(-1, 1, (4, *alone.action_space.shape)).astype(np.float32)
    expected = [alone.reset(seed=0), *map(alone.step, actions)]
    with served(checkpoint, token, port) as (process, url):
        envs = RemoteProphetVectorEnv(
            url, 2, token_file=token, render="chunk", max_episode_steps=None, snapshot_every=2
        )
        assert_same(envs.reset(seed=0), expected[0])
        for action, result in zip(actions[:3], expected[1:], strict=False):
            assert_same(envs.step(action), result)
        # Killed while it dreams, or just before or after: the client is told in every case.
        threading.Timer(0.01, process.kill).start()
        with pytest.raises(SimulatorLostError, match=r"does not answer .* reconnect\(\) continues"):
            collections.deque(map(envs.step, itertools.repeat(actions[3])), maxlen=0)
        with pytest.raises(SimulatorLostError):
            envs.reconnect()
    with served(checkpoint, token, port) as (process, _):
        observation, info = envs.reconnect()
        assert_same(observation, expected[2][0])  # as after the second step
        assert info["_instruction"].all()
        for action, result in zip(actions[2:], expected[3:], strict=True):
            assert_same(envs.step(action), result)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()
        envs.close()


def test_a_taken_port_is_one_line(checkpoint, capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as stopped:
            main(["serve", "--world-model", str(checkpoint), "--port", str(port)])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == (
        f"prophet serve: cannot listen on port {port} of 127.0.0.1 (Address already in use): choose another --port\n"
    )


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path):
    token = read_token(tmp_path / "token")
    assert len(token) >= 32
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert read_token(tmp_path / "token") == token
    assert read_token(None) != token


@pytest.mark.parametrize("content", ["", "short", "with spaces in it, and long", "ünïcödé-ünïcödé-ünïcödé", "\0" * 20])
def test_a_token_that_anybody_could_guess_or_nobody_can_send_is_refused(tmp_path, content):
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="must hold a token: 16 or more printable ASCII characters"):
        read_token(tmp_path / "token")


def test_what_is_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "127.8.0.1", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.4", "example.org"]))


def test_a_client_needs_no_server_package():
    """The env of a client imports nothing of the extra, so that only the machine of the server needs it."""
    extra = ("starlette", "uvicorn", "websockets")
    code = f"import sys, prophet_gym.serve; print([name for name in {extra} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
