"""Open an `openai` client that asks one host alone, within bounds, and run its requests so that a Ctrl-C ends them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from prophet_gym.rewards._vlm.replies import Refused

MAX_BYTES = 8_000_000
OPENAI_HOST = "api.openai.com"
Result = TypeVar("Result")


def open_client(url: str, key: str | None) -> Any:
    """Build an `openai.AsyncOpenAI` that asks this host alone, once, and tells it nothing but the key."""
    import openai

    # What OPENAI_ORG_ID and OPENAI_PROJECT_ID say is for OpenAI's own host alone.
    omitted: dict[str, Any] = dict.fromkeys(("OpenAI-Organization", "OpenAI-Project"), openai.Omit())
    client = openai.AsyncOpenAI(
        base_url=url,
        api_key=key or "none",
        max_retries=0,
        timeout=None,
        default_headers={"Accept-Encoding": "identity"} | ({} if urlsplit(url).hostname == OPENAI_HOST else omitted),
        http_client=openai.DefaultAsyncHttpxClient(
            trust_env=False, follow_redirects=False, event_hooks={"response": [_limit_size]}
        ),
    )
    _ = client.chat.completions  # loads half a second of modules, which no question's time should pay for
    return client


async def _limit_size(response: Any) -> None:
    """Refuse a body of more than `MAX_BYTES` while it arrives, and one that could grow by being unpacked."""
    import httpx

    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("a compressed answer, which was not asked for", again=False)
    stream = response.stream

    class Limited(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            count = 0
            async for part in stream:
                count += len(part)
                if count > MAX_BYTES:
                    raise Refused(f"more than {MAX_BYTES} bytes", again=False)
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    response.stream = Limited()


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
