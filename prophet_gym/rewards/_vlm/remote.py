"""Ask a vision-language model behind an OpenAI-compatible endpoint: vLLM, SGLang, OpenAI.

Each question gets a `Reply` within a known time, and what is not a complete, well-formed answer is one without text.
"""

import asyncio
import base64
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar
from urllib.parse import urlsplit

from jaxtyping import UInt8
from torch import Tensor

from prophet_gym._checks import require_count, require_number, unknown_option
from prophet_gym.rewards._vlm import warn
from prophet_gym.rewards._vlm.replies import hide, one_line, read_refusal, read_reply, refused_field
from prophet_gym.rewards._vlm.votes import Question, Reply

KEY_VARIABLE = "PROPHET_VLM_API_KEY"
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"
MAX_BYTES = 8_000_000
REFUSABLE = ("max_tokens", "seed", "temperature")
"""Fields of a request that an endpoint may refuse, as OpenAI's newer models do."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """Limit how long and how often an endpoint is asked."""

    timeout: float = 120.0  # seconds for one request, from connecting to the last byte
    total: float = 600.0  # seconds for one question, all its requests and pauses together
    retries: int = 4  # requests after the first one, with the pauses that the client of `openai` makes
    concurrency: int = 16  # questions asked at the same time

    def __post_init__(self) -> None:
        require_number("timeout", self.timeout, above=0)
        require_number("total", self.total, above=0)
        require_count("retries", self.retries, 0)
        require_count("concurrency", self.concurrency)


class RemoteVlm:
    """Answer questions through an endpoint, many at the same time.

    The key comes from the environment variable `PROPHET_VLM_API_KEY`, or, for OpenAI's own host, from
    `OPENAI_API_KEY`. It is read when a request is made, sent to this host alone, and removed from every message.
    Redirects are not followed and proxies not used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        patience: Patience | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.7,
        refused: Sequence[str] = (),
    ) -> None:
        """Check the address, e.g. `http://localhost:8000/v1`; nothing is sent yet.

        `model` is the endpoint's name of the model. `refused` are those of the fields `max_tokens`,
        `temperature` and `seed` that the endpoint does not take: the first is sent as `max_completion_tokens`, the
        others are left out.

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
        self.refused = frozenset(refused.replace(",", " ").split() if isinstance(refused, str) else refused)
        for name in self.refused.difference(REFUSABLE):
            raise unknown_option("field of a request that an endpoint may refuse", name, REFUSABLE)
        self._warned: set[str] = set()

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Return one reply per question, in order; a failure of the server is a reply too, not an error.

        A Ctrl-C ends it at once, with all requests that are under way. ValueError for a key that is no printable ASCII.
        """
        if not questions:
            return []
        images = {id(part): part for question in questions for part in question.parts if isinstance(part, Tensor)}
        encoded = {name: base64.b64encode(png(part)).decode() for name, part in images.items()}
        key, limit = self._key(), asyncio.Semaphore(self.patience.concurrency)

        async def ask(client: Any, question: Question) -> Reply:
            async with limit:
                # Newer models of OpenAI refuse several fields, and name one at a time.
                while True:
                    request = self._request(question, encoded)
                    reply = await self._ask(client, request, key)
                    if (field := refused_field(reply.problem, request, REFUSABLE)) is None:
                        return reply
                    self.refused |= {field}

        async def ask_all() -> list[Reply]:
            async with open_client(self.url, key, self.patience) as client:
                return await asyncio.gather(*(ask(client, question) for question in questions))

        known = self.refused
        replies = run(ask_all())
        if learnt := self.refused - known:
            warn(
                f"{self.name} refuses {', '.join(sorted(learnt))}: max_tokens is sent as max_completion_tokens, "
                f"others are left out. To say so beforehand: the option refused={','.join(sorted(self.refused))}"
            )
        kinds = {reply.problem.split(":")[0]: reply.problem for reply in replies if reply.text is None}
        new, self._warned = kinds.keys() - self._warned, self._warned | kinds.keys()
        for kind in new:
            warn(
                f"{self.name} left a question unanswered ({kinds[kind]}); such videos are not scored, and further "
                "cases of this kind are counted, not reported"
            )
        return replies

    async def _ask(self, client: Any, request: Mapping[str, Any], key: str | None) -> Reply:
        import openai

        limits = self.patience
        address = f"{self.url}/chat/completions"
        headers = {} if key else {"Authorization": openai.Omit()}
        try:
            async with asyncio.timeout(limits.total):
                raw = await client.chat.completions.with_raw_response.create(**request, extra_headers=headers)
            reply = read_reply(raw.http_response.content)
        except openai.APIStatusError as error:
            reply = Reply(None, problem=read_refusal(error.response, address))
        except Exception as error:
            cause: BaseException = error  # the client wraps what happened in errors of its own
            while not isinstance(cause, TimeoutError) and (inner := cause.__cause__ or cause.__context__):
                cause = inner
            said = str(cause) or f"no complete answer within timeout={limits.timeout:g} s, total={limits.total:g} s"
            reply = Reply(None, problem=f"{type(cause).__name__}: {one_line(said)}, from {address}")
        hidden = {name: hide(getattr(reply, name), key) for name in ("text", "problem", "finish")}
        return replace(reply, **hidden)

    def _request(self, question: Question, images: Mapping[int, str]) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{images[id(part)]}"}}
            if isinstance(part, Tensor)
            else {"type": "text", "text": part}
            for part in question.parts
        ]
        wanted = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": question.seed}
        taken = {name: value for name, value in wanted.items() if name not in self.refused}
        if "max_tokens" in self.refused:  # the limit of an answer is never left out
            taken["max_completion_tokens"] = self.max_tokens
        return {"model": self.model, "messages": [{"role": "user", "content": content}], **taken}

    def _key(self) -> str | None:
        of_openai = os.environ.get(OPENAI_KEY_VARIABLE) if self.host == OPENAI_HOST else None
        key = (os.environ.get(KEY_VARIABLE) or of_openai or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"the key in ${KEY_VARIABLE} must be printable ASCII, and what is there is not")
        return key or None


def open_client(url: str, key: str | None, patience: Patience) -> Any:
    """Build an `openai.AsyncOpenAI` that asks this host alone, and tells it nothing but the key."""
    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **options: Any) -> Any:
            # httpx limits the time between two bytes, which a server that trickles never exceeds
            async with asyncio.timeout(patience.timeout):
                return await super().send(request, **options)

    # What OPENAI_ORG_ID and OPENAI_PROJECT_ID say is for OpenAI's own host alone.
    headers: Any = {"Accept-Encoding": "identity"}
    omitted = [] if urlsplit(url).hostname == OPENAI_HOST else ["OpenAI-Organization", "OpenAI-Project"]
    client = openai.AsyncOpenAI(
        base_url=url,
        api_key=key or "none",
        max_retries=patience.retries,
        timeout=None,
        default_headers=headers | dict.fromkeys(omitted, openai.Omit()),
        http_client=Bounded(trust_env=False, follow_redirects=False, event_hooks={"response": [_read_body]}),
    )
    _ = client.chat.completions  # loads half a second of modules, which no question's time should pay for
    return client


def png(image: UInt8[Tensor, "h w 3"]) -> bytes:
    """Encode an image as a PNG file."""
    import cv2

    return cv2.imencode(".png", cv2.cvtColor(image.numpy(), cv2.COLOR_RGB2BGR))[1].tobytes()


async def _read_body(response: Any) -> None:
    """Read a body; refuse one of more than `MAX_BYTES` while it arrives, and one that could grow by being unpacked."""
    import httpx
    import openai

    # The client does not try again after an error of its own kind.
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise openai.OpenAIError("a compressed answer, which was not asked for")
    body = bytearray()
    async for part in response.stream:
        body += part
        if len(body) > MAX_BYTES:
            raise openai.OpenAIError(f"more than {MAX_BYTES} bytes")
    await response.stream.aclose()
    response.stream = httpx.ByteStream(bytes(body))


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end, and cancel it where the wait is interrupted, by a Ctrl-C above all."""
    future = asyncio.run_coroutine_threadsafe(work, _loop(os.getpid()))
    try:
        return future.result()
    finally:
        future.cancel()


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """Return an event loop in a thread of its own: a notebook runs one in the main thread already.

    The thread is a daemon, since one that still looks up a name must not hold up the end of the program. A forked
    `process` has no threads, so it needs a loop of its own.
    """
    del process
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
