"""Ask a vision-language model behind an OpenAI-compatible endpoint: vLLM, SGLang, OpenAI.

Whatever the server does, each question gets a `Reply` within a known time, and no answer is made up: what is not a
complete, well-formed answer is a reply without text. The `openai` client makes the requests; retries, the limits of
time and size and the reading of answers are ours, since an answer decides a reward.
"""

import asyncio
import base64
import os
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from prophet_gym._checks import require_count, require_number, unknown_option
from prophet_gym.rewards._vlm.client import OPENAI_HOST, causes, open_client, require_client, run
from prophet_gym.rewards._vlm.replies import Refused, hide, read_refusal, read_reply, seconds_to_wait
from prophet_gym.rewards._vlm.reward_log import png
from prophet_gym.rewards._vlm.votes import Question, Reply

KEY_VARIABLE = "PROPHET_VLM_API_KEY"
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
RENAMED = {"max_tokens": "max_completion_tokens"}
"""Fields of a request that have another name on some endpoints: the limit of an answer is never left out."""
DROPPABLE = frozenset({*RENAMED, "temperature", "seed", "n", "stream"})
"""Fields of a request that an endpoint may refuse: they are renamed or left out there."""


@dataclass(frozen=True)
class Patience:
    """Limit how long and how often an endpoint is asked.

    Attributes:
        timeout: Seconds for one request, from connecting to the last byte.
        total: Seconds for one question, all its requests and pauses together.
        retries: Requests after the first one.
        pause: Seconds before the first retry; doubled each time, and varied by up to half.
        concurrency: Questions asked at the same time.
        per_minute: Requests begun in a minute, at most; None for no limit.

    Raises:
        ValueError: A limit is not a number in its range.
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


@dataclass
class _Call:
    """Hold what the questions of one `answer` share while they are asked."""

    client: Any
    images: Mapping[int, str]
    patience: Patience
    learnt: dict[str, str] = field(default_factory=dict)
    next_turn: float = 0.0

    async def wait_for_turn(self, deadline: float) -> bool:
        """Space requests evenly where a rate is given; return False where the turn would come too late."""
        turn = max(time.monotonic(), self.next_turn)
        if turn >= deadline:
            return False
        self.next_turn = turn + (60.0 / self.patience.per_minute if self.patience.per_minute else 0.0)
        await asyncio.sleep(max(0.0, turn - time.monotonic()))
        return True


class RemoteVlm:
    """Answer questions by asking an endpoint, many at the same time.

    The key comes from the environment variable `PROPHET_VLM_API_KEY`, or, for OpenAI's own host, from
    `OPENAI_API_KEY`. It is read when a request is made, sent to this host alone, and removed from every message.
    Redirects are not followed and proxies not used. A field of the request that the endpoint refuses (`max_tokens`, a
    temperature, `seed`) is renamed or left out from then on, with one warning.

    Attributes:
        name: `model @ host`, for logs.
        refused: Fields of a request that this endpoint does not take, as far as is known.
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
        refused: Sequence[str] = (),
    ) -> None:
        """Check the address; nothing is sent yet.

        Args:
            url: Address of the API, e.g. `http://localhost:8000/v1`.
            model: The name that the endpoint knows the model by.
            patience: How long and how often to try.
            max_tokens: The longest answer.
            temperature: Sampling temperature.
            prices: Per million tokens read and written; replies then say what they cost.
            refused: Fields that this endpoint is known to refuse, of `max_tokens` (then sent as
                `max_completion_tokens`), `temperature`, `seed`, `n` and `stream` (then left out).

        Raises:
            ValueError: The address is malformed or holds a key; a number is out of its range.
            UnknownOptionError: There is no such field.
            ModuleNotFoundError: `openai` is not installed.
        """
        parts = urlsplit(url)
        odd = parts.username or parts.query or parts.fragment or any(char.isspace() for char in url)
        if parts.scheme not in ("http", "https") or not parts.hostname or odd:
            raise ValueError(
                "the address must be http://HOST/v1 or https://HOST/v1 without user name, query, fragment or space "
                f"(the key comes from ${KEY_VARIABLE}), got one with scheme {parts.scheme!r} and host "
                f"{parts.hostname!r}"
            )
        require_client()
        if not model:
            raise ValueError(f"the endpoint {parts.hostname} needs the name of a model: vlm:{url}#MODEL")
        assert parts.port is None or parts.port > 0  # reading the port is what raises ValueError for one that is not
        self.url, self.host = url.rstrip("/"), parts.hostname
        self.model = model
        self.name = f"{model} @ {parts.hostname}"
        self.patience = patience or Patience()
        self.max_tokens = require_count("max_tokens", max_tokens)
        self.temperature = require_number("temperature", temperature, least=0)
        self.prices = None if prices is None else _prices(prices)
        self.refused = _known_fields(refused)
        self._warned: set[str] = set()

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Return one reply per question, in order; never raise for what the server does.

        A Ctrl-C ends it at once, with all requests that are under way.

        Raises:
            ValueError: The key in the environment is not printable ASCII.
        """
        if not questions:
            return []
        self._key()
        images = {id(part): part for question in questions for part in question.parts if isinstance(part, Tensor)}
        encoded = {name: data_url(part) for name, part in images.items()}
        replies, learnt = run(self._ask_all(questions, encoded))
        self._warn_of_fields(learnt)
        self._warn(replies)
        return replies

    async def _ask_all(
        self, questions: Sequence[Question], images: Mapping[int, str]
    ) -> tuple[list[Reply], dict[str, str]]:
        limit = asyncio.Semaphore(self.patience.concurrency)
        async with open_client(self.url, self._key()) as client:
            call = _Call(client, images, self.patience)

            async def ask(question: Question) -> Reply:
                async with limit:
                    return await self._ask(question, call)

            replies = await asyncio.gather(*map(ask, questions))
        return replies, call.learnt

    async def _ask(self, question: Question, call: _Call) -> Reply:
        began = time.monotonic()
        deadline = began + self.patience.total
        random_pause = random.Random(question.seed)
        problem, attempts, failures = "no time left for a request", 0, 0
        while failures <= self.patience.retries and await call.wait_for_turn(deadline):
            attempts += 1
            try:
                reply = await self._post(question, call, deadline)
                return replace(reply, seconds=time.monotonic() - began, attempts=attempts)
            except Refused as refusal:
                problem = refusal.problem
                if refusal.field is not None:
                    # The same question without the field is neither a retry nor a reason to wait. Another question may
                    # have learned it while this one was under way.
                    if refusal.field not in self.refused:
                        self.refused |= {refusal.field}
                        call.learnt[refusal.field] = problem
                    continue
                failures += 1
                if not refusal.again:
                    break
                pause = self.patience.pause * 2 ** (failures - 1) * (1 + random_pause.random() / 2)
                pause = max(pause, refusal.wait)
            if failures > self.patience.retries or time.monotonic() + pause >= deadline:
                break
            await asyncio.sleep(pause)
        return Reply(None, problem=problem, seconds=time.monotonic() - began, attempts=attempts)

    async def _post(self, question: Question, call: _Call, deadline: float) -> Reply:
        import openai

        key, refused = self._key(), self.refused
        timeout = min(self.patience.timeout, max(0.001, deadline - time.monotonic()))
        address = f"{self.url}/chat/completions"
        headers = {} if key else {"Authorization": openai.Omit()}
        create = call.client.chat.completions.with_raw_response.create
        try:
            # httpx limits the time between two bytes, which a server that trickles never exceeds
            async with asyncio.timeout(timeout):
                fields = self._request(question, call.images, refused)
                response = (await create(**fields, extra_headers=headers)).http_response
        except TimeoutError as error:
            raise Refused(f"no complete answer within {timeout:.1f} s from {address}") from error
        except openai.APIStatusError as error:
            response = error.response
            refusal = read_refusal(response.status_code, response.content, key, address, DROPPABLE - refused)
            refusal.wait = seconds_to_wait(response.headers.get("Retry-After"), response.headers.get("Date"))
            raise refusal from error
        except Exception as error:
            chain = list(causes(error))
            for cause in chain:
                if isinstance(cause, Refused):
                    raise cause from error
            said = " ".join(hide(str(chain[-1]), key).split())[:200]
            raise Refused(f"{type(chain[-1]).__name__}: {said}, from {address}") from error
        streamed = "event-stream" in response.headers.get("Content-Type", "").lower()
        return self._priced(read_reply(response.content, key, streamed=streamed))

    def _request(self, question: Question, images: Mapping[int, str], refused: frozenset[str]) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": images[id(part)]}}
            if isinstance(part, Tensor)
            else {"type": "text", "text": part}
            for part in question.parts
        ]
        wanted = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": question.seed,
            "n": 1,
            "stream": False,
        }
        taken = {RENAMED[name] if name in refused else name: wanted[name] for name in RENAMED}
        taken |= {name: value for name, value in wanted.items() if name not in RENAMED and name not in refused}
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **taken}

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

    def _warn_of_fields(self, learnt: Mapping[str, str]) -> None:
        if learnt:
            done = [f"{name} is sent as {RENAMED[name]}" for name in sorted(learnt) if name in RENAMED]
            done += [f"{name} is left out" for name in sorted(learnt) if name not in RENAMED]
            warnings.warn(
                f"{self.name} refuses what it was sent ({'; '.join(learnt.values())}), so from now on "
                f"{', '.join(done)}. To say so beforehand: the option refused={','.join(sorted(self.refused))}",
                RuntimeWarning,
                stacklevel=3,
            )

    def _warn(self, replies: Sequence[Reply]) -> None:
        for problem in {reply.problem for reply in replies if reply.text is None}:
            kind = problem.split(":")[0]
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.warn(
                    f"{self.name} left a question unanswered ({problem}); such videos are not scored, and further "
                    "cases of this kind are counted, not reported",
                    RuntimeWarning,
                    stacklevel=3,
                )


def data_url(frame: Tensor) -> str:
    """Encode a frame (uint8 `h w 3`) as a PNG inside an address."""
    return f"data:image/png;base64,{base64.b64encode(png(frame.numpy())).decode()}"


def _known_fields(given: Sequence[str]) -> frozenset[str]:
    names = [given] if isinstance(given, str) else list(given)
    for name in names:
        if name not in DROPPABLE:
            raise unknown_option("field of a request that an endpoint may refuse", name, DROPPABLE)
    return frozenset(names)


def _prices(given: tuple[float, float]) -> tuple[float, float]:
    try:
        read, written = given
    except (TypeError, ValueError) as error:
        raise ValueError(f"prices must be two, per million tokens read and written, got {given!r}") from error
    of_reading = require_number("the price of reading", read, least=0)
    return of_reading, require_number("the price of writing", written, least=0)
