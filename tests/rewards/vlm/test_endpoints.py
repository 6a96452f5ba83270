"""Endpoints as they are: fields they refuse, replies without an answer, keys they echo, a Ctrl-C in the middle."""

import json
import os
import signal
import sys
import threading
import time
import warnings
from email.utils import formatdate

import pytest
import torch

from prophet_gym.errors import UnknownOptionError
from prophet_gym.rewards import Patience, Prompt, Question, RemoteVlm, VlmReward, make_reward_model
from prophet_gym.rewards._vlm.replies import hide

YES = r"It is in. \box{Success}"
KEY = "sk-proj-Ab_9/x&y+z=="
FAST = Patience(timeout=2.0, total=8.0, retries=1)


def message(text, finish="stop", **said) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **said}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}).encode()


def says(body: bytes, status: int = 200, **headers):
    return lambda handler: handler.send(body, status, **headers)


def openai_error(text: str, param: str | None, code: str | None) -> bytes:
    return json.dumps(
        {"error": {"message": text, "type": "invalid_request_error", "param": param, "code": code}}
    ).encode()


def question(text: str = "Done?", seed: int = 11) -> Question:
    return Question((torch.full((4, 6, 3), 7, dtype=torch.uint8), text), seed=seed)


def newer_openai(handler):
    """Refuses fields one after the other, as the reasoning models of OpenAI do, in their words."""
    body = handler.body
    if "max_tokens" in body:
        text = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        handler.send(openai_error(text, "max_tokens", "unsupported_parameter"), 400)
    elif body.get("temperature", 1) != 1:
        text = "Unsupported value: 'temperature' does not support 0.7 with this model. "
        text += "Only the default (1) value is supported."
        handler.send(openai_error(text, "temperature", "unsupported_value"), 400)
    elif "seed" in body:
        handler.send(openai_error("Unknown parameter: 'seed'.", "seed", "unknown_parameter"), 400)
    else:
        handler.send(message(YES))


def test_refused_fields_are_renamed_or_left_out_remembered_and_said(server):
    server.script = [newer_openai]
    model = RemoteVlm(server.url, "m", patience=Patience(timeout=5.0, retries=0, concurrency=1), max_tokens=77)
    with pytest.warns(RuntimeWarning) as caught:
        replies = model.answer([question(), question("And now?")])
    assert [reply.text for reply in replies] == [YES, YES]
    assert len(server.requests) == 4 + 1
    (warning,) = [str(each.message) for each in caught]
    assert "max_tokens is sent as max_completion_tokens" in warning
    assert "refused=max_tokens,seed,temperature" in warning
    last = server.requests[-1][2]
    assert last["max_completion_tokens"] == 77
    assert not {"max_tokens", "temperature", "seed"} & set(last)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.answer([question()])[0].text == YES


def test_many_at_once_learn_it_together(server):
    server.script = [newer_openai]
    model = RemoteVlm(server.url, "m", patience=Patience(timeout=10.0, retries=0, concurrency=8))
    with pytest.warns(RuntimeWarning) as caught:
        replies = model.answer([question(seed=number) for number in range(16)])
    assert [reply.text for reply in replies] == [YES] * 16
    assert len(caught) == 1


def test_fields_can_be_left_out_beforehand(server):
    server.script = [newer_openai]
    reward_model = make_reward_model(f"vlm:{server.url}?samples=1&refused=max_tokens,temperature,seed#m")
    assert reward_model.score([torch.zeros(1, 4, 4, 3, dtype=torch.uint8)], ["x"]).reward.tolist() == [1.0]
    assert len(server.requests) == 1
    with pytest.raises(UnknownOptionError, match=r"'top_p'.*Known: max_tokens, seed, temperature"):
        RemoteVlm(server.url, "m", refused=["top_p"])
    with pytest.raises(UnknownOptionError, match="Did you mean 'seed'"):
        make_reward_model(f"vlm:{server.url}?refused=seeds#m")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (openai_error("Unrecognized request argument supplied: seed", None, None), "seed"),
        (b'{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}',
         "seed"),
        (b'{"message": "temperature is not supported by this model"}', "temperature"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 422])
def test_others_refuse_in_other_words(server, body, field, status):
    server.script = [
        lambda handler: handler.send(body, status) if field in handler.body else handler.send(message(YES))
    ]
    with pytest.warns(RuntimeWarning, match=f"refuses {field}"):
        assert RemoteVlm(server.url, "m", patience=FAST).answer([question()])[0].text == YES


@pytest.mark.parametrize(
    ("text", "param", "status"),
    [
        ("max_tokens is too large: 9000. This model has room for at most 4096 completion tokens", "max_tokens", 400),
        ("Unsupported parameter: 'seed'", "seed", 401),
        ("we are not able to support that many users in this season", None, 400),
    ],
)
def test_other_refusals_stay_refusals(server, text, param, status):
    server.script = [says(openai_error(text, param, None), status)]
    model = RemoteVlm(server.url, "m", patience=FAST)
    with pytest.warns(RuntimeWarning, match="left a question unanswered") as caught:
        reply = model.answer([question()])[0]
    assert (reply.text, len(server.requests), model.refused) == (None, 1, frozenset())
    assert text in reply.problem
    assert len(caught) == 1


def test_an_endpoint_that_refuses_everything_is_given_up(server):
    def never_content(handler):
        field = next((name for name in handler.body if name not in ("model", "messages")), "messages")
        handler.send(openai_error(f"Unknown parameter: '{field}'.", field, "unknown_parameter"), 400)

    server.script = [never_content]
    with pytest.warns(RuntimeWarning, match="max_completion_tokens"):
        reply = RemoteVlm(server.url, "m", patience=FAST).answer([question()])[0]
    assert reply.text is None
    assert len(server.requests) <= 6


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            message(None, "length", reasoning_content="hm " * 100),
            ["reasoning only", "300 char", "'length'", "max_tokens"],
        ),
        (message("", "stop", reasoning="hm"), ["reasoning only", "'stop'"]),
        (message(" \n", "stop"), ["an empty answer", "'stop'"]),
        (message(None, "content_filter"), ["an empty answer", "'content_filter'"]),
        (message(None, "stop", refusal="I'm sorry, I cannot"), ["the model refused: I'm sorry, I cannot"]),
        (message(None, "tool_calls", tool_calls=[{"id": "1"}]), ["tool calls only"]),
        (message([{"text": YES}]), ["the answer must be a text, got list"]),
    ],
)
def test_a_whole_reply_without_an_answer_is_named_and_paid_for_once(server, body, said):
    server.script = [says(body)]
    with pytest.warns(RuntimeWarning, match="left a question unanswered"):
        reply = RemoteVlm(server.url, "m", patience=FAST).answer([question()])[0]
    assert (reply.text, len(server.requests)) == (None, 1)
    for part in said:
        assert part in reply.problem


def test_an_answer_that_was_cut_off_says_so(server):
    server.script = [says(message("The can is", "length"))]
    reward_model = VlmReward(
        RemoteVlm(server.url, "m", patience=FAST), samples=1, retries=0, prompt=Prompt("$instruction")
    )
    with pytest.warns(RuntimeWarning, match=r"ends in 'The can is' \(finish_reason 'length'\)"):
        reward_model.score([torch.zeros(1, 4, 4, 3, dtype=torch.uint8)], ["x"])


@pytest.mark.parametrize(
    "body",
    [
        openai_error("The model is overloaded", None, None),
        b'{"error": {"message": "The model is overloaded", "code": 402}, "choices": []}',
        b'{"error": "The model is overloaded"}',
    ],
)
def test_an_error_with_status_200_is_shown(server, body):
    server.script = [says(body)]
    with pytest.warns(RuntimeWarning, match="an error in place of an answer: The model is overloaded"):
        RemoteVlm(server.url, "m", patience=FAST).answer([question()])


def test_a_wrong_base_address_is_named(server):
    server.script = [says(openai_error("Not Found", None, None), 404)]
    url = server.url.removesuffix("/v1")
    with pytest.warns(RuntimeWarning) as caught:
        RemoteVlm(url, "m", patience=FAST).answer([question()])
    (warning,) = [str(each.message) for each in caught]
    assert f"status 404 from {url}/chat/completions: Not Found; most addresses end in /v1" in warning
    server.script = [says(b"", 302, Location="http://127.0.0.1:9/v1")]
    with pytest.warns(RuntimeWarning, match="redirects are not followed"):
        RemoteVlm(server.url, "m", patience=FAST).answer([question()])


ECHOES = {
    "escaped": "".join(f"\\u{ord(char):04x}" for char in KEY),
    "escaped in part": KEY.replace("-", "\\u002D"),
    "slashes": KEY.replace("/", "\\/"),
    "twice": KEY.replace("-", "\\\\u002d"),
    "address": KEY.replace("/", "%2F").replace("&", "%26"),
    "html": KEY.replace("&", "&amp;"),
    "html numbers": "".join(f"&#{ord(char)};" for char in KEY),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("echo", [KEY, *ECHOES.values()], ids=["plain", *ECHOES])
def test_a_key_is_hidden_however_it_is_echoed(server, monkeypatch, echo, encoding):
    monkeypatch.setenv("PROPHET_VLM_API_KEY", KEY)
    text = f'{{"error": {{"message": "bad key {echo}, again {echo}"}}}}'
    answer = f'{{"choices": [{{"message": {{"content": "your key is {echo}"}}}}]}}'
    bodies = [text, f"<html>{echo}</html>", f'{{"error": "{echo[: len(echo) // 2 + 1]}', answer]
    server.script = [
        *[says(body.encode(encoding), status) for body in bodies[:3] for status in (200, 401)],
        says(bodies[3].encode(encoding)),
    ]
    model = RemoteVlm(server.url, "m", patience=Patience(timeout=2.0, retries=0, concurrency=1))
    with pytest.warns(RuntimeWarning) as caught:
        replies = model.answer([question() for _ in range(8)])
    seen = str(replies) + "".join(str(each.message) for each in caught)
    assert "***" in seen
    for letters in (KEY[: len(KEY) // 2], echo[: len(echo) // 2]):
        assert letters not in seen.replace("\x00", "")


def test_a_key_made_of_escapes_is_hidden_too():
    for key in ("x78%25amp;", "u0075\\u0075", "&amp;%2525", "aaaaaaab"):
        assert hide(f"It is {key} not {key[:3]}", key) == f"It is *** not {key[:3]}"
    key = "sk-Fuzz_x07%u"
    escaped = "".join(f"\\u{ord(char):04x}" for char in key)
    assert hide(f"It is {escaped[:-6]}", key) == "It is ***"
    assert hide(f"It is {escaped[:-12]}, and so on", key) == "It is *** and so on"
    assert hide("nothing", None) == "nothing"


def test_hiding_takes_time_in_proportion():
    began = time.process_time()
    for piece in ("\\", "s", "sk-", KEY[:-1], "&#", "%25", "\0"):
        hide(piece * (2_000_000 // len(piece)), KEY)
    assert time.process_time() - began < 60


def test_retry_after_may_be_a_date(server):
    due = int(time.time()) + 2
    server.script = [says(b"", 503, Retry_After=formatdate(due, usegmt=True)), says(message(YES))]
    reply = RemoteVlm(server.url, "m", patience=Patience(timeout=5.0)).answer([question()])[0]
    assert reply.text == YES
    assert time.time() >= due, "the second request must not come before the date"
    *_, second = server.requests[-1]
    server.script = [says(b"", 503, Retry_After=formatdate(time.time() + 3600, usegmt=True))]
    with pytest.warns(RuntimeWarning, match="status 503"):
        assert RemoteVlm(server.url, "m", patience=FAST).answer([question()])[0].text is None
    assert time.monotonic() - second < 8


@pytest.mark.skipif(os.name == "nt", reason="needs the signals of POSIX")
def test_ctrl_c_ends_all_requests_at_once(server):
    hung_up, arrived = threading.Semaphore(0), iter(range(12))

    def stalls(handler):
        with server.lock:
            last = next(arrived) == 3
        if last:
            os.kill(os.getpid(), signal.SIGINT)
        if not handler.rfile.read(1):  # empty only when the other side hangs up
            hung_up.release()
        handler.close_connection = True

    server.script = [stalls]
    model = RemoteVlm(server.url, "m", patience=Patience(timeout=300.0, total=600.0, concurrency=4))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        model.answer([question(str(number)) for number in range(12)])
    assert time.monotonic() - began < 60  # not 300 s, and not three times over
    assert all(hung_up.acquire(timeout=60) for _ in range(4))
    assert len(server.requests) == 4


@pytest.mark.skipif(os.name == "nt", reason="needs the signals of POSIX")
def test_ctrl_c_ends_a_pause(server):
    arrived = iter(range(12))

    def refuses(handler):
        handler.send(b"", 503, Retry_After="60")
        with server.lock:
            last = next(arrived) == 1
        if last:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    server.script = [refuses]
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        RemoteVlm(server.url, "m", patience=Patience(timeout=5.0, total=1000.0)).answer([question(), question("b")])
    assert time.monotonic() - began < 30


def test_zeros_inside_of_escapes_hide_no_key():
    escaped = KEY.replace("-", "\\u002d")
    assert hide("bad key " + "\0".join(escaped) + "\0, yes", KEY) == "bad key *** yes"
    assert hide("bad key " + "\0".join(escaped)[:40], KEY) == "bad key ***"


def test_a_missing_client_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'prophet-gym\[vlm\]'"):
        RemoteVlm("http://host/v1", "m")
