"""A vision-language model behind an OpenAI-compatible endpoint: vLLM, SGLang, OpenAI.

Whatever the server does, each question gets a `Reply` within a known time, and no answer is made up: what is not a
complete, well-formed answer is a reply without text.
"""

import base64
import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from prophet_gym.errors import require_count, require_number
from prophet_gym.rewards.judgements import png
from prophet_gym.rewards.vlm import Question, Reply

KEY_VARIABLE = "PROPHET_VLM_API_KEY"
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"
MAX_BYTES = 8_000_000
MOST_TOKENS = 10**9
RETRIED = frozenset({408, 409, 425, 429})
"""And every status from 500 on: the same request may succeed later. Other refusals stay refusals."""


@dataclass(frozen=True)
class Patience:
    """How long and how often to try.

    Attributes:
        timeout: Seconds for one request, from connecting to the last byte.
        total: Seconds for one question, all its requests and pauses together.
        retries: Requests after the first one.
        pause: Seconds before the first retry; doubled each time, and varied by up to half.
        concurrency: Requests at once.
        per_minute: Requests begun in a minute, at most; None for no limit.
    """

    timeout: float = 120.0
    total: float = 600.0
    retries: int = 4
    pause: float = 1.0
    concurrency: int = 16
    per_minute: float | None = None

    def __post_init__(self) -> None:
        require_number("timeout", self.timeout, above=0)
        require_number("total", self.total, above=0)
        require_number("pause", self.pause, least=0)
        require_count("retries", self.retries, 0)
        require_count("concurrency", self.concurrency)
        if self.per_minute is not None:
            require_number("per_minute, where it is given,", self.per_minute, above=0)


class RemoteVlm:
    """Asks an endpoint, many questions at once.

    The key comes from the environment variable `PROPHET_VLM_API_KEY`, for OpenAI's own host else from
    `OPENAI_API_KEY`; it is read when a request is made, sent to this host alone, and taken out of every message.
    Redirects are not followed and proxies not used.

    Attributes:
        name: `model @ host`, for logs.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        patience: Patience | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.7,
        prices: tuple[float, float] | None = None,
    ) -> None:
        """Check the address; nothing is sent yet.

        Args:
            url: Of the API, e.g. `http://localhost:8000/v1`.
            model: The name that the endpoint knows the model by.
            patience: How long and how often to try.
            max_tokens: The longest answer.
            temperature: Of sampling.
            prices: Per million tokens read and written; replies then say what they cost.

        Raises:
            ValueError: The address is none, or holds a key; a number makes no sense.
        """
        parts = urlsplit(url)
        odd = parts.username or parts.query or parts.fragment or any(letter.isspace() for letter in url)
        if parts.scheme not in ("http", "https") or not parts.hostname or odd:
            raise ValueError(
                "the address must be http://HOST/v1 or https://HOST/v1 without user name, query, fragment or space "
                f"(the key comes from ${KEY_VARIABLE}), got one with scheme {parts.scheme!r} and host "
                f"{parts.hostname!r}"
            )
        if not model:
            raise ValueError(f"the endpoint {parts.hostname} needs the name of a model: vlm:{url}#MODEL")
        self.host, self.port, self.secure = parts.hostname, parts.port, parts.scheme == "https"
        self.path = f"{parts.path.rstrip('/')}/chat/completions"
        self.model = model
        self.name = f"{model} @ {parts.hostname}"
        self.patience = patience or Patience()
        self.max_tokens = require_count("max_tokens", max_tokens)
        self.temperature = require_number("temperature", temperature, least=0)
        self.prices = None if prices is None else _prices(prices)
        self._gate = _Gate(self.patience.per_minute)
        self._warned: set[str] = set()

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order; never raises for what the server does.

        Raises:
            ValueError: The key in the environment is none.
        """
        if not questions:
            return []
        self._key()
        pictures: dict[int, str] = {}
        for question in questions:
            for part in question.parts:
                if isinstance(part, Tensor) and id(part) not in pictures:
                    pictures[id(part)] = data_url(part)
        with ThreadPoolExecutor(min(self.patience.concurrency, len(questions))) as pool:
            replies = list(pool.map(lambda question: self._ask(question, pictures), questions))
        self._warn(replies)
        return replies

    def _ask(self, question: Question, pictures: Mapping[int, str]) -> Reply:
        began = time.monotonic()
        deadline = began + self.patience.total
        random_pause = random.Random(question.seed)
        body = json.dumps(self._request(question, pictures)).encode()
        problem, attempts = "no time left for a request", 0
        while attempts <= self.patience.retries and self._gate.wait(deadline):
            attempts += 1
            try:
                reply = self._post(body, min(self.patience.timeout, deadline - time.monotonic()))
                return replace(reply, seconds=time.monotonic() - began, attempts=attempts)
            except _Refused as refusal:
                problem = refusal.problem
                if not refusal.again:
                    break
                pause = self.patience.pause * 2 ** (attempts - 1) * (1 + random_pause.random() / 2)
                pause = max(pause, refusal.wait)
            if attempts > self.patience.retries or time.monotonic() + pause >= deadline:
                break
            time.sleep(pause)
        return Reply(None, problem=problem, seconds=time.monotonic() - began, attempts=attempts)

    def _request(self, question: Question, pictures: Mapping[int, str]) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": pictures[id(part)]}}
            if isinstance(part, Tensor)
            else {"type": "text", "text": part}
            for part in question.parts
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": question.seed,
            "n": 1,
            "stream": False,
        }

    def _post(self, body: bytes, timeout: float) -> Reply:
        key = self._key()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            status, wait, kind, data = self._exchange(body, headers, timeout)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            text = f"{type(error).__name__}: {_one_line(str(error))}"
            raise _Refused(text.replace(key, "***") if key else text) from error
        if key:
            data = data.replace(key.encode(), b"***")
        if status != http.client.OK:
            again = status in RETRIED or status >= http.client.INTERNAL_SERVER_ERROR
            raise _Refused(f"status {status}: {_one_line(data.decode(errors='replace'))}", again=again, wait=wait)
        return self._priced(read_reply(data, streamed="event-stream" in kind.lower()))

    def _exchange(self, body: bytes, headers: Mapping[str, str], timeout: float) -> tuple[int, float, str, bytes]:
        """Status, seconds to wait, content type, body; a watchdog ends what takes longer, however it trickles."""
        if self.secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        late = threading.Event()
        end = time.monotonic() + timeout
        watchdog: threading.Timer | None = None
        try:
            connection.connect()
            # the connection forgets its socket when the answer has no length, so it is kept here
            watchdog = threading.Timer(end - time.monotonic(), _hang_up, (connection.sock, late))
            watchdog.daemon = True
            watchdog.start()
            connection.request("POST", self.path, body=body, headers=dict(headers))
            response = connection.getresponse()
            data = response.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise _Refused(f"more than {MAX_BYTES} bytes", again=False)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # a socket that the watchdog closed fails in any of these ways, or looks like a short answer
            if late.is_set():
                raise _Refused(f"no complete answer within {timeout:.1f} s") from error
            raise
        finally:
            if watchdog is not None:
                watchdog.cancel()
            connection.close()
        if late.is_set():
            raise _Refused(f"no complete answer within {timeout:.1f} s")
        return (
            response.status,
            _seconds(response.headers.get("Retry-After")),
            response.headers.get("Content-Type", ""),
            data,
        )

    def _key(self) -> str | None:
        key = os.environ.get(KEY_VARIABLE)
        if not key and self.host == OPENAI_HOST:
            key = os.environ.get(OPENAI_KEY_VARIABLE)
        key = (key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"the key in ${KEY_VARIABLE} must be printable ASCII, and what is there is not")
        return key or None

    def _priced(self, reply: Reply) -> Reply:
        if self.prices is None:
            return reply
        per_read, per_written = self.prices
        return replace(reply, cost=(reply.prompt_tokens * per_read + reply.answer_tokens * per_written) / 1e6)

    def _warn(self, replies: Sequence[Reply]) -> None:
        for problem in {reply.problem for reply in replies if reply.text is None}:
            kind = problem.split(":")[0]
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.warn(
                    f"{self.name} left a question unanswered ({problem}); such rows are not judged, and further cases "
                    "of this kind are counted, not reported",
                    RuntimeWarning,
                    stacklevel=3,
                )


class _Refused(Exception):  # noqa: N818 (a way out of a request, not an error of the caller's)
    def __init__(self, problem: str, *, again: bool = True, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.again = again
        self.wait = wait


class _Gate:
    """Lets requests through one by one, evenly spaced, where a rate is given."""

    def __init__(self, per_minute: float | None) -> None:
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, deadline: float) -> bool:
        """Wait for a turn; False where it would come too late."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            if turn >= deadline:
                return False
            self._next = turn + self.gap
        time.sleep(max(0.0, turn - time.monotonic()))
        return True


def read_reply(data: bytes, *, streamed: bool) -> Reply:
    """Read the body of an answer, whole or as a stream of events.

    Raises:
        _Refused: It is not one complete answer.
    """
    try:
        message = _join_events(data) if streamed else json.loads(data)
        choices = message["choices"]
        if not isinstance(choices, list) or len(choices) != 1:
            raise _Refused(f"one choice was asked for, got {len(choices)}")
        text = choices[0]["message"]["content"]
        if message.get("error"):
            raise _Refused(f"an error beside the answer: {_one_line(str(message['error']))}")
        usage = message.get("usage") or {}
        read = _tokens(usage, "prompt_tokens")
        written = _tokens(usage, "completion_tokens")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        end = _one_line(data[-80:].decode(errors="replace"))
        raise _Refused(f"no well-formed answer ({type(error).__name__}): it ends in {end!r}") from error
    if not isinstance(text, str):
        raise _Refused(f"the answer must be a text, got {type(text).__name__}")
    return Reply(text, prompt_tokens=read, answer_tokens=written)


def data_url(frame: Tensor) -> str:
    """A frame (uint8 `h w 3`) as a PNG inside an address."""
    return f"data:image/png;base64,{base64.b64encode(png(frame.numpy())).decode()}"


def _join_events(data: bytes) -> dict[str, Any]:
    """One message from the events of a stream; ValueError if its end is missing."""
    # not splitlines, which also ends lines where a text in another script may go on
    lines = re.split(r"\r\n|\n|\r", data.decode())
    events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    if not events or events[-1] != "[DONE]":
        raise ValueError("the stream has no end")
    texts: dict[int, str] = {}
    usage: dict[str, Any] = {}
    error: Any = None
    for event in map(json.loads, events[:-1]):
        usage, error = event.get("usage") or usage, event.get("error") or error
        for choice in event.get("choices", []):
            said = choice["delta"].get("content") or ""
            texts[choice.get("index", 0)] = texts.get(choice.get("index", 0), "") + said
    choices = [{"message": {"content": text}} for text in texts.values()]
    return {"choices": choices, "usage": usage, "error": error}


def _hang_up(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _tokens(usage: Mapping[str, Any], name: str) -> int:
    count = require_count(name, usage.get(name) or 0, 0)
    if count > MOST_TOKENS:
        raise ValueError(f"{name} must be at most {MOST_TOKENS}")
    return count


def _prices(given: tuple[float, float]) -> tuple[float, float]:
    try:
        read, written = given
    except (TypeError, ValueError) as error:
        raise ValueError(f"prices must be two, per million tokens read and written, got {given!r}") from error
    of_reading = require_number("the price of reading", read, least=0)
    return of_reading, require_number("the price of writing", written, least=0)


def _seconds(wanted: str | None) -> float:
    try:
        return max(0.0, float(wanted or 0))
    except ValueError:
        return 0.0


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
