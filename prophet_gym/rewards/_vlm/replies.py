"""Read what an endpoint sent: an answer, an error, or neither; without the key, however it is written there."""

import html
import json
import math
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from prophet_gym._checks import require_count
from prophet_gym.rewards._vlm.votes import Reply

MOST_TOKENS = 10**9
RETRIED = frozenset({408, 409, 425, 429})
"""Statuses, beside those from 500 on, after which the same request may succeed later. Other refusals are final."""
FIRST_CHARS = 4
"""Letters of the key from which on a text that breaks off is taken to hold the beginning of the key."""
MOST_PER_CHAR = 16
"""Length of one letter of the key, at most, where it is escaped."""
_REFUSES = re.compile(
    r"unsupported|(?:not|n't) (?:\w+ ){0,3}?(?:support|permit|allow|accept|recogni|valid)|unknown|unrecogni[sz]ed|"
    r"unexpected|extra|deprecated|forbidden|instead|only the default",
    re.IGNORECASE,
)


class Refused(Exception):  # noqa: N818 (a way out of a request, not an error of the caller's)
    """Say why there is no answer.

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


def read_reply(body: bytes, key: str | None, *, streamed: bool) -> Reply:
    """Read the body of an answer, whole or as a stream of events.

    A reply that came whole and holds no text is a reply with a problem: it was paid for, and asking again would bring
    it again.

    Raises:
        Refused: It is not one complete answer.
    """
    try:
        message = _hidden(_join_events(body) if streamed else json.loads(body), key)
        error = message.get("error")
        if error and not message.get("choices"):
            raise Refused(f"an error in place of an answer: {complaint(message)}", again=_may_pass(error))
        if error:
            raise Refused(f"an error beside the answer: {complaint(message)}")
        choices = message["choices"]
        if not isinstance(choices, list):
            raise TypeError("choices must be a list")
        if len(choices) != 1:
            raise Refused(f"one choice was asked for, got {len(choices)}", again=not choices)
        said, finish = choices[0]["message"], _one_line(str(choices[0].get("finish_reason") or ""))
        text, usage = said.get("content"), message.get("usage") or {}
        usable = isinstance(text, str) and text.strip()
        problem = "" if usable else _why_no_text(said, text, finish)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        end = _one_line(hide(_text(body), key)[-80:])
        raise Refused(f"no well-formed answer ({type(error).__name__}): it ends in {end!r}") from error
    try:
        read, written = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
    except ValueError as error:
        raise Refused(f"no well-formed usage: {_one_line(str(error))}", again=False) from error
    return Reply(None if problem else text, problem=problem, finish=finish, prompt_tokens=read, answer_tokens=written)


def read_refusal(status: int, body: bytes, key: str | None, address: object, droppable: Collection[str]) -> Refused:
    """Return what a status other than 200 means.

    Args:
        status: HTTP status.
        body: Body of the answer.
        key: The key, which is hidden.
        address: The address that was asked.
        droppable: Fields of the request that could be left out.
    """
    message: Any = None
    try:
        message = _hidden(json.loads(body), key)
        said = complaint(message)
    except (ValueError, RecursionError):
        said = _one_line(hide(_text(body), key))
    hint = ""
    if 300 <= status < 400:
        hint = "; redirects are not followed, give the address itself"
    elif status == 404 and "/v1" not in str(address):
        hint = "; most addresses end in /v1, as http://localhost:8000/v1"
    return Refused(
        f"status {status} from {address}: {said or 'no reason given'}{hint}",
        again=status in RETRIED or status >= 500,
        field=refused_field(message, droppable) if status in (400, 422) else None,
    )


def refused_field(message: Any, droppable: Collection[str]) -> str | None:
    """Return which of these fields an error message says are not taken, None if none.

    Example:
        >>> refused_field({"error": {"message": "Unknown parameter: 'seed'.", "param": "seed"}}, {"seed", "n"})
        'seed'
        >>> refused_field({"error": {"message": "max_tokens is too large: 9000"}}, {"max_tokens"}) is None
        True
    """
    if not isinstance(message, Mapping):
        return None
    said, error = complaint(message), message.get("error")
    code = error.get("code") if isinstance(error, Mapping) else None
    if not _REFUSES.search(f"{said} {code}"):
        return None
    named = [error.get("param")] if isinstance(error, Mapping) else []
    detail = message.get("detail")
    for each in detail if isinstance(detail, list) else []:  # as FastAPI says it
        place = each.get("loc") if isinstance(each, Mapping) else None
        named += place[-1:] if isinstance(place, list) else []
    for name in named:
        if isinstance(name, str) and name in droppable:
            return name
    # a short name such as `n` may be any word of a sentence, so it must stand in quotes there
    found = {
        place.start(): name
        for name in droppable
        if (place := re.search(rf"(?<![\w-]){name}(?![\w-])" if len(name) > 3 else rf"[`'\"]{name}[`'\"]", said))
    }
    return found[min(found)] if found else None


def complaint(message: Any) -> str:
    """Return what an error says, in a line: its `message` where there is one, all of it otherwise."""
    while isinstance(message, Mapping):
        inner = next((message[name] for name in ("error", "message", "detail", "msg") if message.get(name)), None)
        if inner is None:
            break
        message = inner
    if isinstance(message, list):
        return _one_line("; ".join(complaint(each) for each in message[:4]))
    return _one_line(message if isinstance(message, str) else json.dumps(message, ensure_ascii=False))


def hide(text: str, key: str | None) -> str:
    r"""Return the text with `***` for the key and for half of it, also where it is escaped or broken off at the end.

    Example:
        >>> hide(r"bad key sk\u002dsecret or sk%2dsecret or &#115;k-secret, I mean sk-sec", "sk-secret")
        'bad key *** or *** or ***, I mean ***'
    """
    if not key:
        return text
    whole, first, rest = _written(key)
    # UTF-16 that is read as UTF-8 has zeros between all letters, those of an escape too
    text = whole.sub("***", text.replace("\0", ""))
    parts, begin, last = [], 0, len(text.rstrip()) - MOST_PER_CHAR
    for found in first.finditer(text):
        end, letters = found.end(), FIRST_CHARS
        for char in rest:
            step = char.match(text, end)
            if step is None:
                break
            end, letters = step.end(), letters + 1
        if end >= last:  # what is left may be a letter whose escape was cut off
            return "".join([*parts, text[begin : found.start()], "***"])
        if 2 * letters >= len(key):
            parts += [text[begin : found.start()], "***"]
            begin = end
    return "".join([*parts, text[begin:]])


@lru_cache(maxsize=4)
def _written(key: str) -> tuple[re.Pattern[str], re.Pattern[str], list[re.Pattern[str]]]:
    """Return patterns of the key, however it is written: all of it, its first letters, and each of the others."""
    letters = []
    for char in key:
        code, plain = f"{ord(char):02x}", "|".join(dict.fromkeys((re.escape(html.escape(char)), re.escape(char))))
        letters.append(
            # in JSON; in addresses; in HTML; with backslashes, last, since `\u` may also be the letter u. The zeros are
            # what UTF-16 leaves, read as UTF-8
            rf"(?:\\{{1,8}}(?:u00|x){code}|%(?:25){{0,3}}{code}|&#0{{0,5}}{ord(char)};|&#x0{{0,5}}{code};"
            rf"|\\{{0,8}}(?:{plain}))(?:\0|\\x00){{0,3}}"
        )
    first, rest = letters[:FIRST_CHARS], letters[FIRST_CHARS:]
    compiled = [re.compile(pattern, re.IGNORECASE) for pattern in ("".join(letters), "".join(first), *rest)]
    return compiled[0], compiled[1], compiled[2:]


def seconds_to_wait(wanted: str | None, date: str | None) -> float:
    """Return how long a `Retry-After` asks to wait, whether it gives seconds or a date; 0.0 where it gives neither.

    Args:
        wanted: The header.
        date: The server's own time, since its clock and ours may differ; ours by default.

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


def _hidden(value: Any, key: str | None) -> Any:
    if not key:
        return value
    if isinstance(value, str):
        return hide(value, key)
    if isinstance(value, list):
        return [_hidden(each, key) for each in value]
    return {hide(name, key): _hidden(each, key) for name, each in value.items()} if isinstance(value, dict) else value


def _why_no_text(said: Mapping[str, Any], text: Any, finish: str) -> str:
    thought = said.get("reasoning_content") or said.get("reasoning")
    stopped = f"finish_reason {finish!r}" if finish else "no finish_reason"
    if isinstance(thought, str):
        room = "; a larger max_tokens leaves room for an answer" if finish == "length" else ""
        return f"reasoning only: {len(thought)} characters of it and no answer, {stopped}{room}"
    if said.get("refusal"):
        return f"the model refused: {_one_line(str(said['refusal']))}, {stopped}"
    if said.get("tool_calls"):
        return f"tool calls only: no answer, {stopped}"
    if text is None or isinstance(text, str):
        return f"an empty answer: {stopped}"
    return f"the answer must be a text, got {type(text).__name__}: {stopped}"


def _may_pass(error: Any) -> bool:
    code = error.get("code") if isinstance(error, Mapping) else None
    return not isinstance(code, int) or code in RETRIED or not 400 <= code < 500


def _join_events(body: bytes) -> dict[str, Any]:
    """Join the events of a stream to one message; raise ValueError if its end is missing."""
    # not splitlines, which also ends lines where a text in another script may go on
    lines = re.split(r"\r\n|\n|\r", body.decode())
    events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    if not events or events[-1] != "[DONE]":
        raise ValueError("the stream has no end")
    texts: dict[int, dict[str, list[str]]] = {}
    finish: dict[int, Any] = {}
    usage: dict[str, Any] = {}
    error: Any = None
    for event in map(json.loads, events[:-1]):
        usage, error = event.get("usage") or usage, event.get("error") or error
        for choice in event.get("choices", []):
            number = choice.get("index", 0)
            finish[number] = choice.get("finish_reason") or finish.get(number)
            for name in ("content", "reasoning_content", "reasoning", "refusal"):
                pieces = texts.setdefault(number, {}).setdefault(name, [])
                pieces.append(choice["delta"].get(name) or "")
    choices = [
        {"message": {name: "".join(pieces) for name, pieces in said.items()}, "finish_reason": finish[number]}
        for number, said in texts.items()
    ]
    return {"choices": choices, "usage": usage, "error": error}


def _tokens(usage: Any, name: str) -> int:
    if not isinstance(usage, Mapping):
        raise ValueError(f"it must be a JSON object, got {type(usage).__name__}")
    count = require_count(name, usage.get(name) or 0, 0)
    if count > MOST_TOKENS:
        raise ValueError(f"{name} must be at most {MOST_TOKENS}")
    return count


def _text(body: bytes) -> str:
    """Decode the body in the encoding that it seems to have."""
    return body.decode(json.detect_encoding(body), errors="replace")


def _moment(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
