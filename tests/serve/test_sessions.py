"""Steps are counted once, clients do not disturb each other, and limits hold."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from prophet_gym.errors import ProphetError, SimulatorLostError
from prophet_gym.serve._messages import pack, unpack
from prophet_gym.serve._sessions import Limits
from prophet_gym.testing import CountingWorldModel, assert_same
from tests.serve.conftest import ROOT, TOKEN, wait_until
from tests.serve.test_remote_env import local, still


def opened(server, **options):
    """The path of a session that was reset, as plain requests see it."""
    status, body = server.ask("/v1/sessions", {"max_episode_steps": None, **options})
    assert status == 201
    path = f"/v1/sessions/{json.loads(body)['session']}"
    assert server.ask(f"{path}/reset", {"seed": 0, "step_id": 1})[0] == 200
    return path


def step(server, path, number, value=0.0):
    return server.ask(f"{path}/step", pack({"actions": np.full((1, 4, 7), value, np.float32), "step_id": number}))


def test_a_repeated_step_gets_the_same_answer_and_runs_once(server):
    path = opened(server)
    first = step(server, path, 2)
    assert first[0] == 200
    assert step(server, path, 2) == first
    assert server.parts["world_model"].batch_sizes == [1]
    assert unpack(first[1])["step_id"] == 2
    assert step(server, path, 3)[0] == 200


@pytest.mark.parametrize(("number", "value"), [(4, 0.0), (1, 0.0), (0, 0.0), (-1, 0.0), ("2", 0.0), (2, 0.5)])
def test_a_step_out_of_turn_is_refused_and_changes_nothing(server, number, value):
    path = opened(server)
    answer = step(server, path, 2)
    status, body = step(server, path, number, value)
    assert status == 409
    assert "the next step_id is 3" in json.loads(body)["error"]["message"]
    assert step(server, path, 2) == answer
    assert unpack(step(server, path, 3)[1])["served"]["elapsed"] == [2]


def test_a_refused_step_counts_for_nothing(server):
    path = opened(server)
    status, body = step(server, path, 2, 7.0)
    assert (status, json.loads(body)["error"]["kind"]) == (400, "InvalidActionError")
    assert unpack(step(server, path, 2)[1])["step_id"] == 2


class Failing(CountingWorldModel):
    """Has no memory for its second chunk at the first try."""

    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        if len(self.batch_sizes) == 2:
            raise MemoryError("no memory")
        return chunk


def test_a_model_that_fails_leaves_the_episode_and_the_step_can_be_taken_again(running):
    server, expected = running(world_model=Failing(chunk=4)), local(max_episode_steps=None)
    envs = server.env(max_episode_steps=None)
    envs.reset(seed=0), expected.reset(seed=0)
    assert_same(envs.step(still(envs)), expected.step(still(envs)))
    with pytest.raises(RuntimeError, match="no memory"):
        envs.step(still(envs))
    assert_same(envs.step(still(envs)), expected.step(still(envs)))


def test_the_same_step_from_two_connections_at_once_runs_once(running):
    server = running(world_model=Slow(chunk=4))
    path = opened(server)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: step(server, path, 2), range(4)))
    assert answers == [answers[0]] * 4
    assert server.parts["world_model"].batch_sizes == [1]


class Slow(CountingWorldModel):
    """Takes 0.3 seconds for a chunk."""

    def rollout(self, state, actions, *, generators):
        time.sleep(0.3)
        return super().rollout(state, actions, generators=generators)


def test_an_interrupted_client_goes_on_with_the_turn_that_comes(running, monkeypatch):
    server = running(world_model=Slow(chunk=4))
    envs = server.env(max_episode_steps=None)
    envs.reset(seed=0)
    alarm = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(KeyboardInterrupt):
        envs.step(still(envs))
    signal.signal(signal.SIGALRM, alarm)
    envs.step(still(envs) + 0.5)
    assert envs.served["elapsed"] == [2, 2]
    envs.step(still(envs))
    assert envs.served["elapsed"] == [3, 3]


def test_a_step_after_an_interrupt_is_not_taken_twice_where_its_answer_is_lost(server, monkeypatch):
    envs = server.env(max_episode_steps=None)
    envs.reset(seed=0)
    envs._step_id = None  # as an interrupt leaves it
    send = envs._connection._send

    def losing(*request):
        monkeypatch.setattr(envs._connection, "_send", send)
        send(*request)
        raise ConnectionResetError("the answer is lost")

    monkeypatch.setattr(envs._connection, "_send", losing)
    with pytest.raises(SimulatorLostError, match="the answer is lost"):
        envs.step(still(envs))
    envs.step(still(envs))
    assert envs.served["elapsed"] == [2, 2]


def test_fifty_sessions_step_together_and_each_dreams_as_alone(server):
    def play(seed):
        envs = server.env(1, max_episode_steps=None)
        rng = np.random.default_rng(seed)
        actions = rng.uniform(-1, 1, (4, 1, 4, 7)).astype(np.float32)
        return [envs.reset(seed=seed), *map(envs.step, actions)]

    with ThreadPoolExecutor(50) as threads:
        played = list(threads.map(play, range(50)))
    assert len(server.sessions) == 50
    assert sum(server.parts["world_model"].batch_sizes) == 200
    assert len(server.parts["world_model"].batch_sizes) < 150
    for seed, found in enumerate(played):
        envs = local(1, max_episode_steps=None)
        rng = np.random.default_rng(seed)
        assert_same(found[0], envs.reset(seed=seed))
        for result in found[1:]:
            assert_same(result, envs.step(rng.uniform(-1, 1, (1, 4, 7)).astype(np.float32)))


def test_there_are_no_more_sessions_than_allowed_and_a_closed_one_makes_room(running):
    server = running(Limits(sessions=2))
    first, second = server.env(), server.env()
    with pytest.raises(ProphetError, match="all 2 sessions are taken"):
        server.env()
    first.close()
    server.env().reset(seed=0)
    second.reset(seed=0)


def test_an_idle_session_is_closed_and_its_client_is_told(running):
    server = running(Limits(idle_minutes=0.005))
    envs = server.env(snapshot_every=1)
    observation, _ = envs.reset(seed=0)
    wait_until(lambda: len(server.sessions) == 0)
    with pytest.raises(SimulatorLostError, match=r"no session .* idle for 0.005 minutes.*reconnect"):
        envs.step(still(envs))
    again, _ = envs.reconnect()
    assert_same(again, observation)
    assert 'act="close",status="200"} 1' in server.ask("/metrics")[1].decode()


def test_a_killed_client_leaves_others_alone_and_its_session_is_closed(running):
    server = running(Limits(idle_minutes=1 / 60), world_model=Slow(chunk=4))
    code = f"""
from prophet_gym.serve import RemoteProphetVectorEnv
envs = RemoteProphetVectorEnv({server.url!r}, 2, max_episode_steps=None)
envs.reset(seed=0)
print("ready", flush=True)
while True:
    envs.step(envs.action_space.sample())
"""
    client = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "ready\n"
    envs, expected = server.env(max_episode_steps=None), local(max_episode_steps=None)
    assert_same(envs.reset(seed=1), expected.reset(seed=1))
    client.kill()  # in the middle of a step
    client.communicate()
    for _ in range(3):
        assert_same(envs.step(still(envs)), expected.step(still(envs)))
    end = time.monotonic() + 20
    while len(server.sessions) > 1 and time.monotonic() < end:
        envs.step(still(envs))
    assert len(server.sessions) == 1


def test_a_client_that_does_not_read_holds_up_nobody(running):
    server = running(Limits(), world_model=CountingWorldModel(chunk=4, frame_size=(256, 256)), starts=large())
    path = opened(server, num_envs=16)
    body = pack({"actions": np.zeros((16, 4, 7), np.float32)})
    head = f"POST {path}/step HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as lazy:
        for _ in range(3):
            lazy.sendall(head.encode() + body)  # and nobody reads the 12 MB of each answer
        wait_until(lambda: server.parts["world_model"].batch_sizes)
        envs = server.env(1, max_episode_steps=None)
        began = time.monotonic()
        envs.reset(seed=0)
        for _ in range(5):
            envs.step(still(envs))
        assert time.monotonic() - began < 5
    assert len(server.sessions) == 2


def large():
    from prophet_gym.testing import counting_starts

    return counting_starts(size=(256, 256))


def test_a_request_that_does_not_end_is_given_up(server, monkeypatch):
    monkeypatch.setattr("prophet_gym.serve._app.SLOWEST", 0.3)
    head = f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(head.encode() + b"a")
        slow.settimeout(10)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_what_is_under_way_ends_before_the_server_stops(running):
    server = running(world_model=Slow(chunk=4))
    envs = server.env(max_episode_steps=None)
    envs.reset(seed=0)
    with ThreadPoolExecutor(1) as threads:
        stepped = threads.submit(envs.step, still(envs))
        wait_until(lambda: any(session.lock.locked() for session in server.sessions._open.values()))
        server.server.should_exit = True
        assert stepped.result()[4]["live"].all()
    server.thread.join(20)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("prophet-")]


@pytest.mark.parametrize("indices", [3, "0", {}, {"0": 1}, [0, 0, 0]])
def test_a_snapshot_of_what_is_no_list_of_sub_environments_is_refused(server, indices):
    path = opened(server)
    status, body = server.ask(f"{path}/snapshot", {"indices": indices})
    assert status == 400
    assert "indices must be a list of at most" in json.loads(body)["error"]["message"]


def test_a_snapshot_that_the_server_keeps_is_restored_without_being_sent(server):
    path = opened(server)
    assert step(server, path, 2, 0.1)[0] == 200
    status, body = server.ask(f"{path}/restore", {"kept": True})
    assert status == 400
    assert "keeps no snapshot yet" in json.loads(body)["error"]["message"]
    saved = unpack(server.ask(f"{path}/snapshot", pack({}))[1])["states"]
    assert unpack(server.ask(f"{path}/snapshot", pack({"keep": True}))[1])["states"] == []
    first = unpack(step(server, path, 3, 0.2)[1])
    assert unpack(server.ask(f"{path}/snapshot", pack({"kept": True}))[1])["states"] == saved
    assert server.ask(f"{path}/restore", pack({"kept": True, "step_id": 4}))[0] == 200
    again = unpack(step(server, path, 5, 0.2)[1])
    assert_same(again["observation"], first["observation"])
    assert again["served"]["elapsed"] == [2]
