"""Read what an endpoint sent: an answer, an error, or neither; without the key, however it is written there."""

import html
import json
import re
import time
from calendar import timegm
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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


@dataclass(eq=False)
class Refused(Exception):  # noqa: N818 (a way out of a request, not an error of the caller's)
    """Say why there is no answer."""

    problem: str  # in a line
    again: bool = True  # the same request may succeed later
    wait: float = 0.0  # seconds before it, where the server says so
    field: str | None = None  # what of the request the server does not take, if that is why


def read_reply(body: bytes, key: str | None) -> Reply:
    """Read the body of an answer; raise `Refused` unless it is one complete answer.

    A reply that came whole and holds no text is a reply with a problem: it was paid for, and asking again would bring
    it again.
    """
    try:
        message = _hidden(json.loads(body), key)
        if error := message.get("error"):
            if message.get("choices"):
                raise Refused(f"an error beside the answer: {complaint(message)}")
            code = error.get("code") if isinstance(error, Mapping) else None
            passes = not isinstance(code, int) or code in RETRIED or not 400 <= code < 500
            raise Refused(f"an error in place of an answer: {complaint(message)}", again=passes)
        choices = message["choices"]
        if not isinstance(choices, list):
            raise TypeError("choices must be a list")
        if len(choices) != 1:
            raise Refused(f"one choice was asked for, got {len(choices)}", again=not choices)
        said, finish = choices[0]["message"], _one_line(str(choices[0].get("finish_reason") or ""))
        text, usage = said.get("content"), message.get("usage") or {}
        problem = "" if isinstance(text, str) and text.strip() else _why_no_text(said, text, finish)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        end = _one_line(hide(_text(body), key)[-80:])
        raise Refused(f"no well-formed answer ({type(error).__name__}): it ends in {end!r}") from error
    try:
        read, written = (
            require_count(name, usage.get(name) or 0, 0) for name in ("prompt_tokens", "completion_tokens")
        )
        if max(read, written) > MOST_TOKENS:
            raise ValueError(f"tokens must be at most {MOST_TOKENS}")
    except (ValueError, AttributeError) as error:
        raise Refused(f"no well-formed usage: {_one_line(str(error))}", again=False) from error
    return Reply(None if problem else text, problem=problem, finish=finish, prompt_tokens=read, answer_tokens=written)


def read_refusal(response: Any, key: str | None, address: str, droppable: Collection[str]) -> Refused:
    """Return what a status other than 200 means; `droppable` are the fields of the request that could be left out."""
    status, headers, body = response.status_code, response.headers, response.content
    try:
        message = _hidden(json.loads(body), key)
        said = complaint(message)
    except (ValueError, RecursionError):
        message, said = None, _one_line(hide(_text(body), key))
    hint = ""
    if 300 <= status < 400:
        hint = "; redirects are not followed, give the address itself"
    elif status == 404 and "/v1" not in address:
        hint = "; most addresses end in /v1, as http://localhost:8000/v1"
    return Refused(
        f"status {status} from {address}: {said or 'no reason given'}{hint}",
        again=status in RETRIED or status >= 500,
        wait=seconds_to_wait(headers.get("Retry-After"), headers.get("Date")),
        field=refused_field(message, droppable) if status in (400, 422) else None,
    )


def refused_field(message: Any, droppable: Collection[str]) -> str | None:
    """Return which of these fields an error message says is not taken; None for one that is too large, say."""
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
    text = "".join(f"'{name}' " for name in named) + said
    # a short name such as `n` may be any word of a sentence, so it must stand in quotes there
    found = {
        place.start(): name
        for name in droppable
        if (place := re.search(rf"(?<![\w-]){name}(?![\w-])" if len(name) > 3 else rf"[`'\"]{name}[`'\"]", text))
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
    """Return the text with `***` for the key and for half of it, also where it is escaped or broken off at the end."""
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
    """Return how long a `Retry-After` asks to wait, in seconds or until a date; 0.0 where it gives neither.

    `date` is the server's own time, since its clock and ours may differ.
    """
    try:
        seconds = float(wanted or 0)
    except ValueError:
        now = _moment(date, time.time())
        seconds = _moment(wanted, now) - now
    return max(0.0, seconds)  # 0.0 for NaN too


def _moment(text: str | None, default: float) -> float:
    try:
        return float(timegm(parsedate_to_datetime(text or "").utctimetuple()))
    except (TypeError, ValueError, OverflowError):
        return default


def _hidden(value: Any, key: str | None) -> Any:
    if isinstance(value, str):
        return hide(value, key)
    if isinstance(value, list):
        return [_hidden(each, key) for each in value]
    return {hide(name, key): _hidden(each, key) for name, each in value.items()} if isinstance(value, dict) else value


def _why_no_text(said: Mapping[str, Any], text: Any, finish: str) -> str:
    thought = said.get("reasoning_content") or said.get("reasoning")
    if isinstance(thought, str):
        what = f"reasoning only: {len(thought)} characters of it and no answer"
    elif said.get("refusal"):
        what = f"the model refused: {_one_line(str(said['refusal']))}"
    elif said.get("tool_calls"):
        what = "tool calls only: no answer"
    else:
        empty = isinstance(text, str | None)
        what = "an empty answer: no text" if empty else f"the answer must be a text, got {type(text).__name__}"
    room = "; a larger max_tokens leaves room for an answer" if finish == "length" else ""
    return f"{what}, {f'finish_reason {finish!r}' if finish else 'no finish_reason'}{room}"


def _text(body: bytes) -> str:
    """Decode the body in the encoding that it seems to have."""
    return body.decode(json.detect_encoding(body), errors="replace")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
