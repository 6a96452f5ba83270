"""What the server answers to those that are not our client: curl, OpenEnv, Prometheus, browsers, and attackers."""

import base64
import json
import re

import cv2
import numpy as np
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from prophet_gym.errors import ProphetError, SimulatorLostError
from prophet_gym.serve import RemoteProphetVectorEnv
from prophet_gym.serve._messages import pack, unpack
from prophet_gym.serve._sessions import Limits
from prophet_gym.testing import assert_same
from tests.serve.conftest import TOKEN, wait_until
from tests.serve.test_remote_env import local, still

BEARER = {"Authorization": f"Bearer {TOKEN}"}


def image(text):
    """Pixels of a PNG file in base64."""
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "0", "ü", f"Bearer {TOKEN}"])
@pytest.mark.parametrize("path", ["/metrics", "/v1/sessions", "/metadata", "/nowhere"])
def test_without_the_token_nothing_is_answered_but_health(shared, token, path):
    head = {"Authorization": f"Bearer {token}".encode().decode("latin-1")} if token else {}
    for headers in (head, {"Authorization": "Basic " + base64.b64encode(f"user:{token}".encode()).decode()}):
        status, body = shared.ask(path, b"{}", headers=headers, token=None)
        assert status == 401
        assert "token" in json.loads(body)["error"]["message"]
        assert TOKEN not in body.decode()
    status, body = shared.ask("/health", token=None)
    assert (status, json.loads(body)["status"]) == (200, "healthy")


def test_a_client_with_a_wrong_token_is_told_so(server, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("another-token-entirely\n")
    with pytest.raises(ProphetError, match="the token of the server is needed"):
        server.env(token_file=tmp_path / "token")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    server.env(token_file=tmp_path / "token")
    monkeypatch.delenv("PROPHET_TOKEN")
    with pytest.raises(ValueError, match="PROPHET_TOKEN"):
        server.env()


def test_a_browser_may_give_the_token_as_a_password_but_only_to_our_own_pages(running):
    server = running(routes=[Route("/page", lambda request: PlainTextResponse("hello"))])
    basic = {"Authorization": "Basic " + base64.b64encode(f"any:{TOKEN}".encode()).decode()}
    assert server.ask("/page", headers=basic, token=None) == (200, b"hello")
    assert server.ask("/page", headers=basic | {"Origin": server.url}, token=None)[0] == 200
    for origin in ("http://elsewhere.example", "null", f"http://127.0.0.1:{server.port + 1}"):
        assert server.ask("/page", headers=basic | {"Origin": origin}, token=None)[0] == 403
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=BEARER | {"Origin": origin})


def test_another_version_is_refused_by_name(server, monkeypatch):
    monkeypatch.setattr("prophet_gym.serve._client.PROTOCOL", 2)
    with pytest.raises(ProphetError, match=r"the server speaks protocol 1 .*the client '2': install the same version"):
        server.env()


def test_an_address_without_our_server_says_so(server):
    with pytest.raises(SimulatorLostError, match="answers 404 as no `prophet serve` does"):
        RemoteProphetVectorEnv(server.url + "/elsewhere")


BROKEN = {
    "nothing": b"",
    "text": b"no message",
    "half": pack({"actions": np.zeros((1, 4, 7), np.float32)})[:-5],
    "a header that says it is huge": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "no JSON": b"\x02\0\0\0\0\0\0\0{}",
    "another tensor than it names": pack({"actions": np.zeros(1)}).replace(b'\\"0\\"', b'\\"7\\"'),
    "a tensor named twice": pack({"actions": [np.zeros((4, 7))], "more": np.zeros(1)}).replace(b'\\"1\\"', b'\\"0\\"'),
    "too few actions": pack({"actions": np.zeros((1, 3, 7), np.float32)}),
    "actions of texts": pack({"actions": "up"}),
    "not finite": pack({"actions": np.full((1, 4, 7), np.nan, np.float32)}),
    "a step_id of another kind": pack({"actions": np.zeros((1, 4, 7), np.float32), "step_id": [1]}),
    "deep": None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_body_is_one_clear_error_and_changes_nothing(shared, name):
    path = f"/v1/sessions/{json.loads(shared.ask('/v1/sessions', {})[1])['session']}"
    assert shared.ask(f"{path}/reset", {"seed": 0})[0] == 200
    body, headers = BROKEN[name], {}
    if body is None:
        body, headers = b"[" * 100_000, {"Content-Type": "application/json"}
    status, answer = shared.ask(f"{path}/step", body or b" ", headers=headers)
    assert status in (400, 409)
    assert json.loads(answer)["error"]["message"]
    envs = local(1)
    envs.reset(seed=0)
    good = unpack(shared.ask(f"{path}/step", pack({"actions": still(envs)}))[1])
    np.testing.assert_array_equal(good["observation"]["image"], envs.step(still(envs))[0]["image"])


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/sessions/none/step", "POST", 404),
        ("/v1/sessions/none/fly", "POST", 404),
        ("/v1/sessions/none", "DELETE", 404),
        ("/v1/sessions", "GET", 405),
        ("/v2", "GET", 404),
    ],
)
def test_what_is_not_there_is_not_found(shared, path, method, status):
    assert shared.ask(path, method=method)[0] == status


def test_a_request_that_is_too_large_is_refused(running):
    server = running(Limits(megabytes=1))
    assert server.ask("/v1/sessions", b"0" * 1_000_001)[0] == 413
    with connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=BEARER) as socket:
        socket.send(b"0" * 1_100_000)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)
    server.env().reset(seed=0)


def test_curl_reads_and_writes_json(server):
    path = f"/v1/sessions/{json.loads(server.ask('/v1/sessions', {'num_envs': 2})[1])['session']}"
    envs = local(2)
    first, _ = envs.reset(seed=3, options={"task": 1})
    found = json.loads(server.ask(f"{path}/reset", {"seed": 3, "options": {"task": 1}})[1])
    np.testing.assert_array_equal([image(each) for each in found["observation"]["image"]], first["image"])
    assert found["info"]["instruction"] == ["count task 1"] * 2
    _, reward, _, _, info = envs.step(still(envs))
    found = json.loads(server.ask(f"{path}/step", {"actions": still(envs).tolist()})[1])
    assert found["reward"] == reward.tolist()
    np.testing.assert_array_equal([[image(each) for each in row] for row in found["info"]["frames"]], info["frames"])
    assert json.loads(server.ask(path, {}, "DELETE")[1]) == {"closed": True}
    assert server.ask(path, {}, "DELETE")[0] == 404


def test_binary_messages_over_a_websocket_are_those_of_http(server):
    envs = local(2)
    with connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=BEARER, max_size=None) as socket:

        def ask(**message):
            socket.send(pack(message))
            return unpack(socket.recv(timeout=20))

        session = ask(act="create", num_envs=2)["session"]
        assert_same(ask(act="reset", session=session, seed=1, step_id=1)["observation"], envs.reset(seed=1)[0])
        actions = still(envs)
        first = ask(act="step", session=session, actions=actions, step_id=2)
        assert_same(first["info"], envs.step(actions)[4])
        assert_same(ask(act="step", session=session, actions=actions, step_id=2), first)
        assert ask(act="step", session=session, actions=actions, step_id=9)["status"] == 409
        assert ask(act="fly", session=session)["status"] == 404
        socket.send(b"nonsense")
        assert unpack(socket.recv(timeout=20))["error"]["kind"] == "ValueError"
        assert ask(act="close", session=session) == {"closed": True}
    assert len(server.sessions) == 0


def test_an_openenv_client_plays_over_a_websocket(server):
    """The messages of OpenEnv 0.3; its client gives the token as the password in its address."""
    envs = local(1, autoreset_mode="Disabled", max_episode_steps=2)
    with connect(f"ws://any:{TOKEN}@127.0.0.1:{server.port}/ws") as socket:

        def ask(message):
            socket.send(message if isinstance(message, str) else json.dumps(message))
            return json.loads(socket.recv(timeout=20))

        assert ask({"type": "step", "data": {"actions": []}})["data"]["code"] == "VALIDATION_ERROR"
        given = {"seed": 5, "task": 1, "render": "step", "max_episode_steps": 2, "episode_id": "mine"}
        answer = ask({"type": "reset", "data": given})
        observation, info = envs.reset(seed=5, options={"task": 1})
        assert (answer["type"], answer["data"]["done"], answer["data"]["reward"]) == ("observation", False, None)
        np.testing.assert_array_equal(image(answer["data"]["observation"]["image"]), observation["image"][0])
        assert answer["data"]["observation"]["instruction"] == info["instruction"][0]
        for count in (1, 2):
            answer = ask({"type": "step", "data": {"actions": still(envs)[0].tolist()}})
            _, reward, _, truncated, info = envs.step(still(envs))
            assert answer["data"]["reward"] == reward[0]
            assert answer["data"]["done"] == truncated[0] == (count == 2)
            frames = [image(each) for each in answer["data"]["observation"]["frames"]]
            np.testing.assert_array_equal(frames, info["frames"][0])
        assert ask({"type": "state"})["data"]["step_count"] == 2
        for wrong, code in [("{", "INVALID_JSON"), ("[]", "INVALID_JSON"), ({"type": "fly"}, "UNKNOWN_TYPE")]:
            assert ask(wrong)["data"]["code"] == code
        assert ask({"type": "step", "data": {"actions": [[9.0] * 7] * 4}})["data"]["code"] == "VALIDATION_ERROR"
        assert ask({"type": "reset", "data": {"task": 99}})["data"]["code"] == "VALIDATION_ERROR"
        assert len(server.sessions) == 1
        socket.send(json.dumps({"type": "close"}))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)
    wait_until(lambda: len(server.sessions) == 0)  # nothing is left of a connection
    schema = json.loads(server.ask("/schema")[1])
    assert set(schema) == {"action", "observation", "state"}
    assert json.loads(server.ask("/metadata")[1])["name"] == "prophet"


def test_a_websocket_without_the_token_is_refused(server):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/ws")
    assert refused.value.response.status_code == 401


def test_metrics_are_prometheus_text(server):
    envs = server.env(3)
    envs.reset(seed=0)
    envs.step(still(envs))
    with pytest.raises(ValueError, match="task"):
        envs.reset(options={"task": 77})
    lines = server.ask("/metrics")[1].decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r'[a-z_]+(\{[a-z]+="\w+"(,[a-z]+="\w+")*\})?', name) for name in found)
    assert {name: int(value) for name, value in found.items() if "requests" in name} == {
        'prophet_requests_total{act="create",status="200"}': 1,
        'prophet_requests_total{act="reset",status="200"}': 1,
        'prophet_requests_total{act="reset",status="400"}': 1,
        'prophet_requests_total{act="step",status="200"}': 1,
    }
    assert (found["prophet_sessions"], found["prophet_sub_environments"]) == ("1", "3")
    assert found["prophet_model_elements_total"] == "9"  # encoded, dreamt, scored
    assert float(found["prophet_memory_bytes"]) > 1e6
    assert float(found['prophet_request_seconds_total{act="step"}']) > 0
