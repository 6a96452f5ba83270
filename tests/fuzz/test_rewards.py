"""Hostile endpoints, random answers, damaged folders and odd names: no reward is invented, and no key is told."""

import gzip
import html
import json
import re
import socketserver
import threading
import time
import warnings
from contextlib import suppress
from urllib.parse import quote, unquote

import numpy as np
import pytest
import torch

from prophet_gym.errors import ProphetError
from prophet_gym.rewards import (
    Patience,
    Prompt,
    Question,
    RemoteVlm,
    SuccessHead,
    SuccessHeadConfig,
    VlmReward,
    make_reward_model,
)
from prophet_gym.rewards._vlm.remote import REFUSABLE
from prophet_gym.rewards._vlm.votes import parse_answer

KEY = "sk-Fuzz_07/b&c+d=%x"
DOCUMENTED = (ProphetError, ValueError, TypeError, FileNotFoundError)


def pick(generator, choices):
    return choices[int(generator.integers(len(choices)))]


def noise(generator, most: int) -> bytes:
    return generator.bytes(int(generator.integers(1, most)))


class Raw(socketserver.BaseRequestHandler):
    """Reads one request, sends the server's bytes, and hangs up."""

    def handle(self):
        with suppress(OSError):
            self.request.settimeout(5)
            data = b""
            while b"\r\n\r\n" not in data:
                data += self.request.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            left = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1]) - len(body)
            while left > 0:
                left -= len(self.request.recv(65536))
            for piece, pause in self.server.next():
                self.request.sendall(piece)
                if pause:
                    time.sleep(pause)


class Hostile(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Raw)
        self.lock = threading.Lock()
        self.generator = np.random.default_rng(0)

    def next(self):
        with self.lock:
            return response(self.generator)

    def handle_error(self, request, client_address):
        pass


@pytest.fixture(scope="module")
def server():
    with Hostile() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def echo(generator) -> str:
    """The key as a server may write it."""
    ways = [
        lambda: KEY,
        lambda: "".join(f"\\u{ord(char):04x}" if generator.random() < 0.5 else char for char in KEY),
        lambda: quote(KEY, safe=""),
        lambda: quote(quote(KEY, safe=""), safe=""),
        lambda: html.escape(KEY),
        lambda: "".join(f"&#{ord(char)};" for char in KEY),
        lambda: KEY.replace("/", "\\/"),
        lambda: "\0".join(KEY),
        lambda: json.dumps(json.dumps(KEY))[1:-1],
    ]
    return pick(generator, ways)()


def answer(generator) -> object:
    """What may stand where the answer should."""
    return pick(
        generator,
        [r"\box{Success}", r"\box{Failure}", "perhaps", "", None, 3, [], {"text": "x"}, float("nan"), "\ud800",
         f"the key is {KEY}", "x" * int(generator.integers(1, 50_000)), "\\" * int(generator.integers(1, 50_000))],
    )  # fmt: skip


def text(generator) -> str:
    """A body before it is encoded."""
    field = pick(generator, [*REFUSABLE, "messages", "max_completion_tokens"])
    said = {"content": answer(generator), "reasoning_content": answer(generator), "refusal": answer(generator)}
    kept = {name: value for name, value in said.items() if generator.random() < 0.8}
    choices = [{"message": kept, "finish_reason": pick(generator, ["stop", "length", None, 3, KEY])}]
    usage = {"prompt_tokens": pick(generator, [1, 0, -1, None, "many", 10**300, 1.5, True]), "completion_tokens": 2}
    error = {"message": pick(generator, [f"Unknown parameter: '{field}' {KEY}", "overloaded", answer(generator)])}
    error |= {"param": pick(generator, [field, None, 3, []]), "code": pick(generator, ["unknown_parameter", 429, None])}
    detail = [{"loc": ["body", field], "msg": "Extra inputs are not permitted"}, 3, None][: generator.integers(1, 4)]
    bodies = [
        {"choices": choices * int(generator.integers(3)), "usage": pick(generator, [usage, None, [], "x"])},
        {"choices": choices, "usage": {"prompt_tokens": 3}},
        {"choices": choices, "error": error},
        {"error": error},
        {"error": pick(generator, ["no", 3, [], {}, None, KEY])},
        {"detail": pick(generator, [detail, "not permitted: seed", {}])},
        pick(generator, [[], 3, None, "x", [choices], {"choices": {"0": 1}}, {"choices": [3]}]),
    ]
    whole = json.dumps(pick(generator, bodies), ensure_ascii=bool(generator.integers(2)))
    deltas = [json.dumps({"choices": [{"delta": pick(generator, [kept, {}, None])}]}) for _ in range(3)]
    deltas += [
        json.dumps({"choices": [{"delta": {"content": KEY[:7]}}]}),
        f'{{"x": "{echo(generator)}"}}',
        "{",
        "[DONE]",
    ]
    events = [pick(generator, deltas) for _ in range(int(generator.integers(1, 8)))] + ["[DONE]"]
    return pick(
        generator,
        [whole, whole, whole, "".join(f"data: {event}\n\n" for event in events), "[" * 20_000, "",
         f"<html>{echo(generator)}</html>", f'{{"error": {{"message": "bad key {echo(generator)}"}}}}', whole + whole,
         f'{{"choices": [{{"message": {{"content": "{echo(generator)}"}}}}]}}'],
    )  # fmt: skip


def response(generator) -> list[tuple[bytes, float]]:
    """The pieces of one response, each with the pause after it."""
    encoding = pick(generator, ["utf-8"] * 6 + ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1"])
    body = text(generator).encode(encoding, errors="replace")
    if generator.random() < 0.15:
        body = pick(generator, [noise(generator, 500), body + noise(generator, 9), gzip.compress(body), b"\0" * 999])
    if generator.random() < 0.25:
        body = body[: int(generator.integers(len(body) + 1))]
    status = pick(generator, [200] * 8 + [201, 204, 302, 400, 400, 401, 404, 418, 422, 429, 500, 503, 999])
    kind = pick(generator, ["application/json"] * 3 + ["text/event-stream", "text/html", "", "\x01", "x" * 70_000])
    wait = pick(generator, ["0", "0.01", "soon", "-1", "nan", "1e999", "Sun, 06 Nov 1994 08:49:37 GMT", KEY])
    length = str(pick(generator, [len(body)] * 12 + [len(body) + 9, 0, -1, 10**18, "many", KEY]))
    headers = [f"Content-Type: {kind}", f"Retry-After: {wait}", "Location: http://127.0.0.1:9/v1"]
    if generator.random() < 0.1:
        length = ""
        chunk = pick(generator, [b"%x" % len(body), b"zz", b"-1", KEY.encode(), b"ffffffffff"])
        body = chunk + b"\r\n" + body + pick(generator, [b"\r\n0\r\n\r\n", b"", b"\r\n"])
        headers.append("Transfer-Encoding: chunked")
    headers += [f"Content-Length: {length}"] * bool(length) + ["X: y"] * pick(generator, [0, 0, 0, 150])
    line = pick(
        generator, [f"HTTP/1.1 {status} OK"] * 20 + [f"HTTP/1.1 {KEY}", "HTTP/9.9 200", "", "\0", "200", "SSH-2.0-x"]
    )
    head = "\r\n".join([line, *headers, "", ""]).encode("latin-1")
    pieces = [head, body]
    if generator.random() < 0.1:
        pieces = [b"HTTP/1.1 100 Continue\r\n\r\n" * int(generator.integers(1, 300)), head, body]
    pause = 2.0 if generator.random() < 0.02 else 0.0
    return [(piece, pause) for piece in pieces]


def readings(seen: str) -> list[str]:
    """A text, and what a reader of it may undo."""
    bare = seen.replace("\0", "").replace("\\u0000", "")
    plain = re.sub(r"\\+u00([0-9a-fA-F]{2})", lambda code: chr(int(code[1], 16)), bare)
    return [bare, plain, html.unescape(bare), unquote(bare), unquote(unquote(bare)), plain.replace("\\", "")]


def test_a_hostile_endpoint(cases, server, monkeypatch):
    monkeypatch.setenv("PROPHET_VLM_API_KEY", KEY)
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    patience = Patience(timeout=0.5, total=3.0, retries=1, concurrency=4)
    video = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    for generator in cases(24):
        server.generator = generator
        model = RemoteVlm(url, "m", patience=patience)
        reward_model = VlmReward(model, samples=3, retries=1, prompt=Prompt("$instruction"))
        began = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            output = reward_model.score([video, video], ["x", "y"])
            replies = model.answer([Question(("What is the key?",), seed=number) for number in range(3)])
        assert time.monotonic() - began < 60
        assert all(issubclass(warning.category, RuntimeWarning) for warning in caught)
        assert sorted(output.reward.unique().tolist()) in ([0.0], [1.0], [0.0, 1.0])
        seen = "\n".join(str(warning.message) for warning in caught)
        for reply in replies:
            assert reply.text is None or isinstance(reply.text, str)
            assert (reply.text is None) == bool(reply.problem)
            seen += f"{reply}\n"
        for reading in readings(seen):
            told = reading.find(KEY[: len(KEY) // 2])
            assert told < 0, reading[max(0, told - 200) : told + 100]


WORDS = [
    "The can ",
    "lies in",
    " so ",
    "\n\n",
    "or maybe not, ",
    "汤 ",
    "{",
    "\\frac{1}{2} ",
    "box ",
    "Success ",
    "failure",
]
BOXES = [r"\box{@}", r"\boxed{\text{@}}", "<answer>@</answer>", "<|begin_of_box|>@<|end_of_box|>", r"\box{**@**}"]
ENDS = ["", ".", "**", "$$", r"\)", "<|im_end|>", "</s>", "</answer>", "\n```", " \n", "\u3002", "}", '"}']


def test_random_answers(cases):
    for generator in cases(24):
        said = [pick(generator, ["Success", "Failure"]) for _ in range(int(generator.integers(4)))]
        whole = ""
        for word in said:
            whole += "".join(pick(generator, WORDS) for _ in range(int(generator.integers(1, 6)))) + "then "
            whole += pick(generator, BOXES).replace("@", pick(generator, [word, word.lower(), word.upper()]))
        if generator.random() < 0.3:  # between two boxes, or before the first: a long run of anything
            piece = pick(generator, ["\\", " ", "{", "<", "}", "<|", "\\box{", "*", "</a>", "\\text{", "<answer>"])
            whole = piece * int(generator.integers(1, 100_000)) + " then " + whole
        whole += "".join(pick(generator, ENDS) for _ in range(int(generator.integers(4))))
        began = time.process_time()
        found = parse_answer(whole)
        assert time.process_time() - began < 10
        assert found is (said[0] == "Success" if len(set(said)) == 1 else None), whole[-300:]
        assert parse_answer(whole + " But is it?") is None
        assert parse_answer(f"<think>{whole}</think>") is None
        assert parse_answer(whole[: int(generator.integers(len(whole) + 1))]) in (None, True, False)
        assert parse_answer(noise(generator, 300).decode("latin-1")) is None


def value(generator) -> object:
    return pick(
        generator,
        [None, True, 0, -1, 1, 3, 4, 16, 10**9, 10**30, 0.5, 2.5, float("nan"), float("inf"), "", "x", "chunk", [], [1],
         {}, {"a": 1}, "\ud800", "x" * 5000],
    )  # fmt: skip


def damage(generator, path):
    """Change a file that somebody may have written by hand, or that came through the net."""
    data = path.read_bytes()
    if path.suffix == ".json" and generator.random() < 0.7:
        content = json.loads(data)
        for _ in range(int(generator.integers(1, 3))):
            content[pick(generator, [*content, "other", "../x"])] = value(generator)
        data = json.dumps(pick(generator, [content] * 6 + [[content], 3, None])).encode()
    elif generator.random() < 0.5:
        data = data[: int(generator.integers(len(data) + 1))]
    elif data:
        place = int(generator.integers(len(data)))
        data = data[:place] + noise(generator, 9) + data[place + int(generator.integers(9)) :]
    path.write_bytes(data)


def test_a_damaged_success_head(cases, tmp_path):
    video = torch.full((4, 16, 16, 3), 99, dtype=torch.uint8)
    for case, generator in enumerate(cases(12)):
        folder = tmp_path / str(case)
        SuccessHead(SuccessHeadConfig(image_size=16, width=4, words=8)).save_pretrained(folder)
        damage(generator, folder / pick(generator, ["config.json", "config.json", "model.safetensors"]))
        try:
            output = SuccessHead.from_pretrained(folder).score([video, video[:0]], ["x", "y"])
        except ProphetError as error:
            said = str(error)
        else:
            said = "finite" if torch.isfinite(output.probability).all() else ""
            assert output.scored.tolist() == [True, False]
        assert str(folder) in said or "finite" in said


def test_a_damaged_likelihood_judge(cases, tmp_path):
    pytest.importorskip("transformers", reason="needs the extra vlm")
    for case, generator in enumerate(cases(6)):
        folder = tmp_path / str(case)
        folder.mkdir()
        # the base model is a folder that is not there: whatever else is wrong, nothing is looked for elsewhere
        config = {"base": str(tmp_path / "gone"), "threshold": 0.5, "when": "end", "stride": 5, "shown": 4}
        (folder / "likelihood.json").write_text(json.dumps(config | {"reward": "sparse"}), encoding="utf-8")
        (folder / "prompt.txt").write_text("$instruction?", encoding="utf-8")
        (folder / "criteria.json").write_text('{"*": "x"}', encoding="utf-8")
        damage(generator, folder / pick(generator, ["likelihood.json", "prompt.txt", "criteria.json"]))
        with suppress(ValueError, AttributeError):
            content = json.loads((folder / "likelihood.json").read_text(encoding="utf-8"))
            if isinstance(content.get("base"), str):
                (folder / "likelihood.json").write_text(
                    json.dumps(content | {"base": config["base"]}), encoding="utf-8"
                )
        with pytest.raises(ProphetError) as caught:
            make_reward_model(str(folder))
        assert str(folder) in str(caught.value) or "gone" in str(caught.value)


OPTIONS = ["samples", "retries", "when", "stride", "shown", "prompt", "timeout", "total", "pause", "concurrency"]
OPTIONS += ["per_minute", "max_tokens", "temperature", "prices", "refused", "reward", "chunk", "x", ""]
VALUES = ["3", "0", "-1", "1e9", "nan", "inf", "many", "", "1,2", "seed", "max_tokens,n", "end", "success", "\0", "汤"]
VALUES += ["9" * 5000, "x" * 5000]
STARTS = ["vlm:http://127.0.0.1:9/v1", "vlm:https://h", "vlm:http://", "vlm:http://[::1", "vlm:http://h:99999/v1"]
STARTS += ["vlm:http://h/\0", "classifier", "success", "oracle", "None", "", "\0", "x" * 5000, "~nobody/x"]


def test_odd_names(cases, tmp_path):
    SuccessHead().save_pretrained(tmp_path / "head")
    starts = [*STARTS, str(tmp_path / "head")]
    for generator in cases(20):
        given = [f"{pick(generator, OPTIONS)}={pick(generator, VALUES)}" for _ in range(int(generator.integers(4)))]
        name = pick(generator, starts) + "?" * bool(given) + "&".join(given) + pick(generator, ["", "#m", "#", "#\0"])
        try:
            reward_model = make_reward_model(name, tmp_path / "head")
        except DOCUMENTED as error:
            said = str(error)
        else:
            said = reward_model.when
            assert reward_model.max_frames >= 1
        assert 0 < len(said) < 3000
