"""Ask a vision-language model behind an OpenAI-compatible endpoint: vLLM, SGLang, OpenAI.

Each question gets a `Reply` within a known time, and what is not a complete, well-formed answer is one without text.
"""

import asyncio
import base64
import os
import random
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from torch import Tensor

from prophet_gym._checks import require_count, require_number, unknown_option
from prophet_gym.rewards._vlm import warn
from prophet_gym.rewards._vlm.replies import Refused, hide, read_refusal, read_reply
from prophet_gym.rewards._vlm.reward_log import png
from prophet_gym.rewards._vlm.votes import Question, Reply

KEY_VARIABLE = "PROPHET_VLM_API_KEY"
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"
MAX_BYTES = 8_000_000
RENAMED = {"max_tokens": "max_completion_tokens"}
"""Fields of a request that have another name on some endpoints: the limit of an answer is never left out."""
DROPPABLE = frozenset({*RENAMED, "temperature", "seed", "n", "stream"})
"""Fields of a request that an endpoint may refuse: they are renamed or left out there."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """Limit how long and how often an endpoint is asked."""

    timeout: float = 120.0  # seconds for one request, from connecting to the last byte
    total: float = 600.0  # seconds for one question, all its requests and pauses together
    retries: int = 4  # requests after the first one
    pause: float = 1.0  # seconds before the first retry; doubled each time, and varied by up to half
    concurrency: int = 16  # questions asked at the same time
    per_minute: float | None = None  # requests begun in a minute, at most

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

    images: Mapping[int, str]
    patience: Patience
    client: Any = None
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
                "the address must be http://HOST/v1 or https://HOST/v1 without user name, query, fragment or space. "
                f"The key comes from ${KEY_VARIABLE}. Got scheme {parts.scheme!r} and host {parts.hostname!r}"
            )
        if find_spec("openai") is None:  # found, not imported, which takes a second
            raise ModuleNotFoundError("an endpoint is asked through openai: pip install 'prophet-gym[vlm]'")
        if not model:
            raise ValueError(f"the endpoint {parts.hostname} needs the name of a model: vlm:{url}#MODEL")
        assert parts.port is None or parts.port > 0  # reading the port is what raises ValueError for one that is not
        self.url, self.host = url.rstrip("/"), parts.hostname
        self.model = model
        self.name = f"{model} @ {parts.hostname}"
        self.patience = patience or Patience()
        self.max_tokens = require_count("max_tokens", max_tokens)
        self.temperature = require_number("temperature", temperature, least=0)
        if prices is not None and np.shape(prices) != (2,):
            raise ValueError(f"prices must be two, per million tokens read and written, got {prices!r}")
        self.prices = prices and tuple(require_number("the price of tokens", each, least=0) for each in prices)
        self.refused = frozenset(refused.replace(",", " ").split() if isinstance(refused, str) else refused)
        for name in self.refused - DROPPABLE:
            raise unknown_option("field of a request that an endpoint may refuse", name, DROPPABLE)
        self._warned: set[str] = set()

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Return one reply per question, in order; never raise for what the server does.

        A Ctrl-C ends it at once, with all requests that are under way.

        Raises:
            ValueError: The key in the environment is not printable ASCII.
        """
        if not questions:
            return []
        images = {id(part): part for question in questions for part in question.parts if isinstance(part, Tensor)}
        encoded = {name: base64.b64encode(png(part.numpy())).decode() for name, part in images.items()}
        limit, call = asyncio.Semaphore(self.patience.concurrency), _Call(encoded, self.patience)

        async def ask(question: Question) -> Reply:
            async with limit:
                return await self._ask(question, call)

        async def ask_all() -> list[Reply]:
            async with open_client(self.url, self._key()) as call.client:
                return await asyncio.gather(*map(ask, questions))

        replies = run(ask_all())
        self._warn(replies, call.learnt)
        return replies

    async def _ask(self, question: Question, call: _Call) -> Reply:
        began = time.monotonic()
        deadline = began + self.patience.total
        random_pause = random.Random(question.seed)
        problem, attempts, failures = "no time left for a request", 0, 0
        while await call.wait_for_turn(deadline):
            attempts += 1
            try:
                reply = await self._post(question, call, deadline)
                cost = self.prices and float(np.dot(self.prices, (reply.prompt_tokens, reply.answer_tokens))) / 1e6
                return replace(reply, seconds=time.monotonic() - began, attempts=attempts, cost=cost)
            except Refused as refusal:
                problem = refusal.problem
                if refusal.field is not None:
                    # The same question without the field is neither a retry nor a reason to wait. Another question may
                    # have learned it while this one was under way.
                    if refusal.field not in self.refused:
                        self.refused |= {refusal.field}
                        call.learnt[refusal.field] = problem
                    continue
                pause = self.patience.pause * 2**failures * (1 + random_pause.random() / 2)
                pause, failures = max(pause, refusal.wait), failures + 1
                if not refusal.again or failures > self.patience.retries or time.monotonic() + pause >= deadline:
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
            raise read_refusal(error.response, key, address, DROPPABLE - refused) from error
        except Exception as error:
            cause: BaseException = error  # the client wraps what happened in errors of its own
            while not isinstance(cause, Refused) and (inner := cause.__cause__ or cause.__context__):
                cause = inner
            if isinstance(cause, Refused):
                raise cause from error
            said = " ".join(hide(str(cause), key).split())[:200]
            raise Refused(f"{type(cause).__name__}: {said}, from {address}") from error
        return read_reply(response.content, key)

    def _request(self, question: Question, images: Mapping[int, str], refused: frozenset[str]) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{images[id(part)]}"}}
            if isinstance(part, Tensor)
            else {"type": "text", "text": part}
            for part in question.parts
        ]
        wanted = dict(max_tokens=self.max_tokens, temperature=self.temperature, seed=question.seed, n=1, stream=False)
        named = {RENAMED.get(name) if name in refused else name: value for name, value in wanted.items()}
        taken = {name: value for name, value in named.items() if name is not None}
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **taken}

    def _key(self) -> str | None:
        of_openai = os.environ.get(OPENAI_KEY_VARIABLE) if self.host == OPENAI_HOST else None
        key = (os.environ.get(KEY_VARIABLE) or of_openai or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"the key in ${KEY_VARIABLE} must be printable ASCII, and what is there is not")
        return key or None

    def _warn(self, replies: Sequence[Reply], learnt: Mapping[str, str]) -> None:
        if learnt:
            done = [
                f"{name} is {f'sent as {RENAMED[name]}' if name in RENAMED else 'left out'}" for name in sorted(learnt)
            ]
            warn(
                f"{self.name} refuses what it was sent ({'; '.join(learnt.values())}), so from now on "
                f"{', '.join(done)}. To say so beforehand: the option refused={','.join(sorted(self.refused))}"
            )
        for problem in {reply.problem for reply in replies if reply.text is None}:
            kind = problem.split(":")[0]
            if kind not in self._warned:
                self._warned.add(kind)
                warn(
                    f"{self.name} left a question unanswered ({problem}); such videos are not scored, and further "
                    "cases of this kind are counted, not reported"
                )


def open_client(url: str, key: str | None) -> Any:
    """Build an `openai.AsyncOpenAI` that asks this host alone, once, and tells it nothing but the key."""
    import openai

    # What OPENAI_ORG_ID and OPENAI_PROJECT_ID say is for OpenAI's own host alone.
    headers: Any = {"Accept-Encoding": "identity"}
    omitted = [] if urlsplit(url).hostname == OPENAI_HOST else ["OpenAI-Organization", "OpenAI-Project"]
    client = openai.AsyncOpenAI(
        base_url=url,
        api_key=key or "none",
        max_retries=0,
        timeout=None,
        default_headers=headers | dict.fromkeys(omitted, openai.Omit()),
        http_client=openai.DefaultAsyncHttpxClient(
            trust_env=False, follow_redirects=False, event_hooks={"response": [_read_body]}
        ),
    )
    _ = client.chat.completions  # loads half a second of modules, which no question's time should pay for
    return client


async def _read_body(response: Any) -> None:
    """Read a body; refuse one of more than `MAX_BYTES` while it arrives, and one that could grow by being unpacked."""
    import httpx

    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("a compressed answer, which was not asked for", again=False)
    body = bytearray()
    async for part in response.stream:
        body += part
        if len(body) > MAX_BYTES:
            raise Refused(f"more than {MAX_BYTES} bytes", again=False)
    await response.stream.aclose()
    response.stream = httpx.ByteStream(bytes(body))


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on an event loop in a thread, and cancel it where the wait is interrupted.

    A notebook runs an event loop of its own, so ours needs its own thread. The thread is a daemon: one that still
    looks up a name must not hold up the end of the program.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def complete() -> None:
        try:
            loop.run_until_complete(asyncio.wait([task]))
            loop.run_until_complete(asyncio.sleep(0))  # sockets that were closed are let go in the next round
        finally:
            loop.close()

    thread = threading.Thread(target=complete, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # KeyboardInterrupt above all
        with suppress(RuntimeError):  # it may have ended meanwhile
            loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=5)
        raise
    return task.result()
