"""Read what an endpoint sent: an answer, an error, or neither; and take the key out, however it is written there."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from prophet_gym.rewards._vlm.votes import Reply

_ESCAPED = re.compile(r"\\(?:u00|x)([0-9a-f]{2})")
_HINT = "; fields that it does not take"
_REFUSES = re.compile(
    r"unsupported|(?:not|n't) (?:\w+ ){0,3}?(?:support|permit|allow|accept|recogni|valid)|unknown|unrecogni[sz]ed|"
    r"unexpected|extra|deprecated|forbidden|instead|only the default",
    re.IGNORECASE,
)
_ROUNDS = 4
"""How often a text may have been escaped, at most, for the key in it to be found."""


def read_reply(body: bytes) -> Reply:
    """Read the body of an answer; the reply has a problem in place of a text unless it is one complete answer."""
    try:
        message = json.loads(body)
        choices = message.get("choices")
        if message.get("error"):
            where = "beside the" if choices else "in place of an"
            return Reply(None, problem=f"an error {where} answer: {complaint(message)}")
        if not isinstance(choices, list):
            raise TypeError("choices must be a list")
        if len(choices) != 1:
            return Reply(None, problem=f"one choice was asked for, got {len(choices)}")
        said, finish = choices[0]["message"], one_line(str(choices[0].get("finish_reason") or ""))
        text = said.get("content")
        problem = "" if isinstance(text, str) and text.strip() else _why_no_text(said, text, finish)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        return Reply(
            None, problem=f"no well-formed answer ({type(error).__name__}): it ends in {one_line(_text(body)[-80:])!r}"
        )
    return Reply(None if problem else text, problem=problem, finish=finish)


def read_refusal(response: Any, address: str) -> str:
    """Return what a status other than 200 means, in a line."""
    status, body = response.status_code, response.content
    try:
        said = complaint(json.loads(body))
    except (ValueError, RecursionError):
        said = one_line(_text(body))
    hint = ""
    if 300 <= status < 400:
        hint = "; redirects are not followed, give the address itself"
    elif status == 404 and "/v1" not in address:
        hint = "; most addresses end in /v1, as http://localhost:8000/v1"
    elif status in (400, 422):
        hint = f"{_HINT} are left out by the option refused=max_tokens,temperature,seed"
    return f"status {status} from {address}: {said or 'no reason given'}{hint}"


def refused_field(problem: str, request: Mapping[str, Any], refusable: Sequence[str]) -> str | None:
    """Return the field of a request that the endpoint does not take, by what it said; None for one too large, say."""
    said = problem.partition(_HINT)[0]
    if not said.startswith(("status 400 ", "status 422 ")) or not _REFUSES.search(said):
        return None
    return next((name for name in refusable if name in request and re.search(rf"\b{name}\b", said)), None)


def complaint(message: Any) -> str:
    """Return what an error says, in a line: its `message` where there is one, all of it otherwise."""
    while isinstance(message, Mapping):
        inner = next((message[name] for name in ("error", "message", "detail", "msg") if message.get(name)), None)
        if inner is None:
            break
        message = inner
    if isinstance(message, list):
        return one_line("; ".join(f"{_place(each)}{complaint(each)}" for each in message[:4]))
    return one_line(message if isinstance(message, str) else json.dumps(message, ensure_ascii=False))


def _place(detail: Any) -> str:
    """Return which part of the request a detail is about, as FastAPI says it."""
    place = detail.get("loc") if isinstance(detail, Mapping) else None
    return f"{'.'.join(map(str, place))}: " if isinstance(place, list) else ""


def hide(text: str | None, key: str | None) -> str | None:
    """Return the text with `***` for each word in which a third of the key can be read, also where it is escaped."""
    if not text or not key or not _tells(text, key):
        return text
    hidden = re.sub(r"\S+", lambda word: "***" if _tells(word[0], key) else word[0], text)
    return "***" if _tells(hidden, key) else hidden


def _tells(text: str, key: str) -> bool:
    # Case and backslashes aside, and with zeros left out, which UTF-16 has between all letters if it is read as UTF-8.
    text, key = text.replace("\0", "").replace("\\x00", "").lower(), key.replace("\\", "").lower()
    size = min(len(key), max(5, len(key) // 3))
    parts = {key[start : start + size] for start in range(len(key) - size + 1)}
    for _ in range(_ROUNDS + 1):
        bare = text.replace("\\", "")
        if any(part in bare for part in parts):
            return True
        text = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), html.unescape(unquote(text))).lower()
    return False


def one_line(text: str) -> str:
    """Return the beginning of a text on one line."""
    return " ".join(text.split())[:200]


def _why_no_text(said: Mapping[str, Any], text: Any, finish: str) -> str:
    thought = said.get("reasoning_content") or said.get("reasoning")
    if isinstance(thought, str):
        what = f"reasoning only: {len(thought)} characters of it and no answer"
    elif said.get("refusal"):
        what = f"the model refused: {one_line(str(said['refusal']))}"
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
