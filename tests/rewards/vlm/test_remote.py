"""The remote model against a real HTTP server on this machine that misbehaves in every way we could think of."""

import base64
import json
import socket
import threading
import time
import warnings
from contextlib import suppress

import cv2
import numpy as np
import openai  # noqa: F401 imported before anything is timed: the import takes seconds
import pytest
import torch

from prophet_gym.rewards import Patience, Prompt, Question, RemoteVlm, VlmReward

YES = r"It is in. \box{Success}"
FAST = Patience(timeout=0.6, total=5.0, retries=1)
KEY = "sk-secret-123"


def message(*texts: str, usage=(100, 20)) -> bytes:
    choices = [{"index": i, "message": {"role": "assistant", "content": text}} for i, text in enumerate(texts)]
    return json.dumps(
        {"choices": choices, "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}
    ).encode()


def events(*texts: str, end: bool = True) -> bytes:
    lines = [json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in texts]
    return "".join(f"data: {line}\n\n" for line in [*lines, *["[DONE]"] * end]).encode()


def says(body: bytes, status: int = 200, **headers):
    return lambda handler: handler.send(body, status, **headers)


def stalls(handler):
    handler.server.over.wait(20)


def trickles_a_body(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.trickle(b" " * 5000, 0.02)


def trickles_headers(handler):
    handler.trickle(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 5000, 0.02)


def streams_for_ever(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    handler.trickle(events(*[r"\box{Success} "] * 500, end=False), 0.001)


def hangs_up(handler):
    handler.close_connection = True


def cuts_off(handler):
    handler.send(message(YES)[:-30], Content_Length=len(message(YES)))
    handler.close_connection = True


def no_http(handler):
    handler.wfile.write(b"\x00\xff nonsense\r\n\r\n")
    handler.close_connection = True


NO_ANSWER = {
    "stalls": stalls,
    "trickles a body": trickles_a_body,
    "trickles headers": trickles_headers,
    "streams for ever": streams_for_ever,
    "hangs up": hangs_up,
    "cuts off": cuts_off,
    "no http": no_http,
    "429": says(b'{"error": "slow down"}', 429),
    "500": says(b"oops \\box{Success}", 500),
    "401": says(b'{"error": "no key"}', 401),
    "404": says(b"", 404),
    "redirect": says(b"", 302, Location="http://127.0.0.1:9/v1"),
    "garbage": says(b"\x80\x81 \\box{Success}"),
    "html": says(b"<html>\\box{Success}</html>"),
    "truncated json": says(message(YES)[:-10]),
    "other json": says(b"[1, 2]"),
    "a string": says(json.dumps(YES).encode()),
    "no choice": says(message()),
    "three choices": says(message(YES, YES, YES)),
    "choices of another kind": says(b'{"choices": {"0": 1}}'),
    "no content": says(b'{"choices": [{"message": {"content": null}}]}'),
    "content of parts": says(b'{"choices": [{"message": {"content": [{"text": "x"}]}}]}'),
    "an error beside": says(json.dumps({"error": "overloaded", **json.loads(message(YES))}).encode()),
    "an error in a stream": says(
        events(YES, end=False) + b'data: {"error": {"code": 500}}\n\ndata: [DONE]\n\n', Content_Type="text/event-stream"
    ),
    "deep json": says(b"[" * 100_000),
    "cut stream": says(events("It is in.", r"\box{Success}", end=False), Content_Type="text/event-stream"),
    "garbage stream": says(b"data: {\n\ndata: [DONE]\n\n", Content_Type="text/event-stream"),
    "too large": says(b" " * 8_000_001),
}


# Statuses that may pass, and connections that break, are tried again.
AGAIN = {"429", "500", *list(NO_ANSWER)[: list(NO_ANSWER).index("429")]}


def question(shade: int = 7, text: str = "Done?") -> Question:
    return Question(("Step 0:", torch.full((4, 6, 3), shade, dtype=torch.uint8), text), seed=11)


@pytest.mark.parametrize("name", NO_ANSWER)
def test_no_reward_is_invented_and_nothing_hangs(name, server):
    server.script = [NO_ANSWER[name]]
    patience = Patience(timeout=0.4, total=2.5, retries=1)
    reward_model = VlmReward(
        RemoteVlm(server.url, "m", patience=patience), samples=1, retries=0, prompt=Prompt("$instruction")
    )
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match="left a question unanswered"):
        output = reward_model.score([torch.zeros(2, 4, 4, 3, dtype=torch.uint8)], ["x"])
    assert time.monotonic() - began < 3
    assert (output.reward.tolist(), output.scored.tolist()) == ([0.0], [False])
    assert reward_model.counts["unanswered"] == 1
    # a refusal that will stay one is not repeated, nor a reply that came whole and was paid for
    assert len(server.requests) == (2 if name in AGAIN else 1)


def test_the_run_goes_on_after_trouble(server):
    server.script = [says(b"", 500), cuts_off, says(b"", 429, Retry_After="1.5"), says(message(YES))]
    reply = RemoteVlm(server.url, "m", patience=Patience(timeout=1.0, retries=3)).answer([question()])[0]
    assert (reply.text, reply.problem) == (YES, "")
    times = [moment for *_, moment in server.requests]
    assert times[3] - times[2] >= 1.5


def test_a_wait_longer_than_our_patience_is_not_waited_for(server):
    server.script = [says(b"", 429, Retry_After="3600")]
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match="status 429"):
        RemoteVlm(server.url, "m", patience=FAST).answer([question()])
    assert time.monotonic() - began < 1


def test_what_is_sent(server):
    server.script = [says(message(YES))]
    text = 'put "{the}" 汤\naway'
    RemoteVlm(server.url, "my/model", patience=FAST, max_tokens=50, temperature=0.1).answer([question(200, text)])
    path, headers, body, _ = server.requests[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    sent = {key: value for key, value in body.items() if key != "messages"}
    assert sent == {"model": "my/model", "max_tokens": 50, "temperature": 0.1, "seed": 11}
    (turn,) = body["messages"]
    label, image, asked = turn["content"]
    assert (turn["role"], label["text"], asked["text"]) == ("user", "Step 0:", text)
    kind, data = image["image_url"]["url"].split(",")
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert kind == "data:image/png;base64"
    assert decoded.shape == (4, 6, 3)
    assert (decoded == 200).all()


def test_a_handshake_that_never_ends():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip():
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.sendall(b"\x16\x03\x03\x40\x00")
                while not over.wait(0.05):
                    connection.sendall(b"\0")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/v1"
        began = time.monotonic()
        with pytest.warns(RuntimeWarning, match="left a question unanswered"):
            RemoteVlm(url, "m", patience=Patience(timeout=0.4, total=1.5, retries=0)).answer([question()])
        assert time.monotonic() - began < 3
        over.set()
        thread.join()


def test_questions_are_asked_at_once_up_to_the_limit(server):
    busy: list[int] = []

    def later(handler):  # over before it answers: the next question may come before the server's thread goes on
        with server.lock:
            busy.append((busy[-1] if busy else 0) + 1)
        time.sleep(0.2)
        with server.lock:
            busy.append(busy[-1] - 1)
        handler.send(message("x"))

    server.script = [later]
    model = RemoteVlm(server.url, "m", patience=Patience(timeout=5.0, concurrency=8))
    began = time.monotonic()
    replies = model.answer([question(text=str(i)) for i in range(16)])
    assert time.monotonic() - began < 16 * 0.2
    assert [reply.text for reply in replies] == ["x"] * 16
    assert 2 <= max(busy) <= 8


def test_each_question_gets_its_own_answer(server):
    def echo(handler):
        text = handler.body["messages"][0]["content"][-1]["text"]
        time.sleep(0.05 * (int(text) % 3))
        handler.send(message(text))

    server.script = [echo]
    questions = [question(text=str(i)) for i in range(9)]
    replies = RemoteVlm(server.url, "m", patience=Patience(timeout=5.0)).answer(questions)
    assert [reply.text for reply in replies] == [str(i) for i in range(9)]


class Kept:
    """A model whose replies are kept beside it, as a user's log would."""

    def __init__(self, model):
        self.model, self.name, self.replies = model, model.name, []

    def answer(self, questions):
        replies = self.model.answer(questions)
        self.replies += replies
        return replies


def test_the_key_is_sent_to_its_host_and_written_nowhere(server, monkeypatch, capfd):
    monkeypatch.setenv("PROPHET_VLM_API_KEY", f"{KEY}\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    leak = f"bad key {KEY}".encode()
    server.script = [says(leak, 500), says(message(f"your key is {KEY}")), says(message(YES)), says(leak, 401)]
    model = RemoteVlm(server.url, "m", patience=Patience(timeout=1.0, retries=1, concurrency=1))
    kept = Kept(model)
    with pytest.warns(RuntimeWarning, match="bad key") as caught:
        VlmReward(kept, samples=3, retries=0, prompt=Prompt("$instruction")).score(
            [torch.zeros(1, 4, 4, 3, dtype=torch.uint8)] * 2, ["x", "y"]
        )
    assert {headers["Authorization"] for _, headers, *_ in server.requests} == {f"Bearer {KEY}"}
    seen = str(kept.replies) + "".join(str(w.message) for w in caught) + "".join(capfd.readouterr())
    assert "***" in seen
    assert KEY not in seen + repr(vars(model)) + repr(model)


def test_openais_key_goes_to_openai_alone(server, monkeypatch):
    monkeypatch.delenv("PROPHET_VLM_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    server.script = [says(message(YES))]
    RemoteVlm(server.url, "m", patience=FAST).answer([question()])
    assert "Authorization" not in server.requests[0][1]
    assert RemoteVlm("https://api.openai.com/v1", "m")._key() == "sk-of-openai"


def test_a_key_that_is_none(server, monkeypatch):
    monkeypatch.setenv("PROPHET_VLM_API_KEY", "sk\r\nX-Evil: 1")
    with pytest.raises(ValueError, match="must be printable ASCII") as error:
        RemoteVlm(server.url, "m").answer([question()])
    assert "Evil" not in str(error.value)


def test_nobody_listens():
    patience = Patience(timeout=0.5, total=2.0, retries=1)
    model = RemoteVlm("http://127.0.0.1:9/v1", "m", patience=patience)
    with pytest.warns(RuntimeWarning, match="ConnectionRefusedError"):
        assert model.answer([question()])[0].text is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.answer([question()])  # said once


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://user:pass@host/v1",
        "http://",
        "http://h?k=1",
        "http://h/v1#model",
        "http://a host/v1",
    ],
)
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError, match="the address must be http") as error:
        RemoteVlm(url, "m")
    assert "pass" not in str(error.value)
    with pytest.raises(ValueError, match="needs the name of a model"):
        RemoteVlm("http://host/v1", "")


def test_patience_must_make_sense():
    with pytest.raises(ValueError, match="concurrency must be an integer of at least 1, got 0"):
        Patience(concurrency=0)
    with pytest.raises(ValueError, match="total must be a finite number above 0, got 0"):
        Patience(total=0.0)
