"""One HTTP request within a known time, and many of them at once that a Ctrl-C ends.

Nothing here knows what is asked: bytes go out, a status and bytes come back.
"""

import http.client
import math
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from prophet_gym.rewards._lock import Lock

MAX_BYTES = 8_000_000
NETWORK_ERRORS = (OSError, http.client.HTTPException, ValueError, AttributeError)
"""What a request may end in; a socket that was closed under it fails in any of these ways."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Refused(Exception):  # noqa: N818 (a way out of a request, not an error of the caller's)
    """There is no answer.

    Attributes:
        problem: Why, in a line.
        again: Whether the same request may succeed later.
        wait: Seconds to wait before it, where the server says so.
        field: The field of the request that the server does not take, if that is why.
    """

    def __init__(self, problem: str, *, again: bool = True, wait: float = 0.0, field: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.again = again
        self.wait = wait
        self.field = field


@dataclass(frozen=True)
class Address:
    """Where requests go."""

    host: str
    port: int | None
    secure: bool
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{'https' if self.secure else 'http'}://{host}{port}{self.path}"


@dataclass(frozen=True)
class Response:
    """What came back, as it came.

    Attributes:
        status: Of HTTP.
        wait: Seconds that the server wants us to wait; 0.0 where it does not say.
        streamed: Whether the body is a stream of events.
        body: All of it.
    """

    status: int
    wait: float
    streamed: bool
    body: bytes


class Calls:
    """Requests that are made at once and given up at once.

    Threads of `concurrent.futures` are waited for when the interpreter ends, so a Ctrl-C took as long as the slowest
    request; these are not.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._lock = Lock()

    def run(self, call: Callable[[Item], Result], items: Sequence[Item], most: int) -> list[Result]:
        """Return `call(item)` for each item, in order, from at most so many threads; the first error is raised."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(items)):
            waiting.put(place)
        results: dict[int, Result] = {}
        errors: list[BaseException] = []

        def work() -> None:
            with suppress(queue.Empty):
                while not self.over.is_set():
                    place = waiting.get_nowait()
                    try:
                        results[place] = call(items[place])
                    except BaseException as error:
                        errors.append(error)
                        self.over.set()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(most, len(items)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # KeyboardInterrupt above all
            self.give_up()
            raise
        if errors:
            raise errors[0]
        return [results[place] for place in range(len(items))]

    def give_up(self) -> None:
        """Begin no further request, and hang up on those that are under way."""
        self.over.set()
        with self._lock:
            for sock in self._sockets:
                _hang_up(sock)

    def opened(self, sock: socket.socket) -> None:
        """Take in a connection."""
        with self._lock:
            self._sockets.add(sock)
        if self.over.is_set():
            raise Refused("given up", again=False)

    def closed(self, sock: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._sockets.discard(sock)


class Gate:
    """Lets requests through one by one, evenly spaced, where a rate is given."""

    def __init__(self, per_minute: float | None) -> None:
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self._lock = Lock()
        self._next = 0.0

    def wait(self, deadline: float, over: threading.Event) -> bool:
        """Wait for a turn; False where it would come too late, or all is over."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            if turn >= deadline:
                return False
            self._next = turn + self.gap
        return not over.wait(max(0.0, turn - time.monotonic()))


def post(address: Address, body: bytes, headers: Mapping[str, str], timeout: float, calls: Calls) -> Response:
    """Send a body and read what comes back; a watchdog ends what takes longer, however it trickles.

    Raises:
        Refused: It took too long, or there is too much of it.
        OSError, http.client.HTTPException, ValueError, AttributeError: See `NETWORK_ERRORS`.
    """
    connection = _connection(address, timeout)
    late = threading.Event()
    end = time.monotonic() + timeout
    watchdog: threading.Timer | None = None
    sock: socket.socket | None = None
    try:
        connection.connect()
        # the connection forgets its socket when the answer has no length, so it is kept here
        sock = connection.sock
        assert sock is not None
        calls.opened(sock)
        watchdog = threading.Timer(end - time.monotonic(), _end, (sock, late))
        watchdog.daemon = True
        watchdog.start()
        connection.request("POST", address.path, body=body, headers=dict(headers))
        response = connection.getresponse()
        data = response.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise Refused(f"more than {MAX_BYTES} bytes", again=False)
    except NETWORK_ERRORS as error:
        # a socket that the watchdog closed fails in any of these ways, or looks like a short answer
        if late.is_set():
            raise Refused(f"no complete answer within {timeout:.1f} s from {address}") from error
        raise
    finally:
        if watchdog is not None:
            watchdog.cancel()
        if sock is not None:
            calls.closed(sock)
        connection.close()
    if late.is_set():
        raise Refused(f"no complete answer within {timeout:.1f} s from {address}")
    wait = seconds_to_wait(response.headers.get("Retry-After"), response.headers.get("Date"))
    return Response(response.status, wait, "event-stream" in response.headers.get("Content-Type", "").lower(), data)


def seconds_to_wait(wanted: str | None, date: str | None) -> float:
    """Return how long a `Retry-After` asks to wait, whether it gives seconds or a date; 0.0 where it gives neither.

    Args:
        wanted: The header.
        date: The server's own time, since its clock and ours may differ; ours if it does not say.

    Example:
        >>> seconds_to_wait("1.5", None)
        1.5
        >>> seconds_to_wait("Sun, 06 Nov 1994 08:49:47 GMT", "Sun, 06 Nov 1994 08:49:37 GMT")
        10.0
    """
    try:
        seconds = float(wanted or 0)
    except ValueError:
        until, now = _moment(wanted), _moment(date) or datetime.now(UTC)
        seconds = 0.0 if until is None else (until - now).total_seconds()
    return 0.0 if math.isnan(seconds) else max(0.0, seconds)


def _connection(address: Address, timeout: float) -> http.client.HTTPConnection:
    if address.secure:
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=context)
    return http.client.HTTPConnection(address.host, address.port, timeout=timeout)


def _moment(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _end(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    _hang_up(sock)


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
