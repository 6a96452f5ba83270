"""The HTTP and WebSocket interface of the sessions, and its token, limits, health and metrics."""

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from prophet_gym._checks import first_line
from prophet_gym.serve._messages import BINARY, JSON, PROTOCOL, PROTOCOL_HEADER, failure, pack, unpack
from prophet_gym.serve._openenv import SCHEMA, Conversation, as_json
from prophet_gym.serve._sessions import RefusedError, Sessions, memory_in_use, status_of

SLOWEST = 60.0
"""Seconds that a request may take to arrive."""


def build_app(sessions: Sessions, token: str, routes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """Return the application; `routes` are more of them, behind the same token."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        watch = asyncio.create_task(sessions.close_idle())
        yield
        watch.cancel()
        await asyncio.to_thread(sessions.stop)

    service = Service(sessions)
    own = [
        Route("/health", service.health),
        Route("/metrics", service.metrics),
        Route("/metadata", service.metadata),
        Route("/schema", service.schema),
        Route("/v1/sessions", service.act, methods=["POST"]),
        Route("/v1/sessions/{session}", service.act, methods=["DELETE"]),
        Route("/v1/sessions/{session}/{act}", service.act, methods=["POST"]),
        WebSocketRoute("/ws", service.talk),
    ]
    return Guard(Starlette(routes=[*own, *routes], lifespan=lifespan), token)


class Guard:
    """Refuse who has no token, who comes from another page, and who speaks another version of the protocol."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that it is refused."""
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(refusal)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        protocol = headers.get(PROTOCOL_HEADER, str(PROTOCOL))
        if protocol != str(PROTOCOL):
            told = (
                f"the server speaks protocol {PROTOCOL} (prophet-gym {version('prophet-gym')}), the client {protocol!r}"
            )
            return failed(RefusedError(426, f"{told}: install the same version on both sides"))
        origin = headers.get("origin")
        # A browser sends what it knows of this server with requests of any page.
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return failed(RefusedError(403, f"requests of pages from elsewhere are refused, got one from {origin!r}"))
        if scope["path"] == "/health" or any(hmac.compare_digest(each, self._token) for each in _secrets(scope)):
            return None
        refusal = failed(RefusedError(401, "the token of the server is needed: the header Authorization: Bearer TOKEN"))
        refusal.headers["WWW-Authenticate"] = "Basic"  # a browser asks for it: any name, the token as the password
        return refusal


def cookie_name(scope: Scope) -> str:
    """Return the name of the cookie that holds the token: browsers keep one for all ports of a host."""
    return f"prophet-{scope['server'][1]}"


def _secrets(scope: Scope) -> Iterator[bytes]:
    """Yield what a request gives as the token: a header, a cookie, or, for the page alone, a part of the address."""
    asked = HTTPConnection(scope)
    yield _secret(asked.headers.get("authorization", ""))
    yield asked.cookies.get(cookie_name(scope), "").encode()
    if scope["type"] == "http" and scope["path"] == "/":
        yield asked.query_params.get("token", "").encode()


def _secret(authorization: str) -> bytes:
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value).partition(b":")[2]
        except ValueError:
            return b""
    return value.strip().encode() if kind.lower() == "bearer" else b""


class Service:
    """Answer requests about sessions."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions, self._most = sessions, sessions.limits.megabytes * 10**6
        self._about = {"version": version("prophet-gym"), "protocol": PROTOCOL}

    async def health(self, request: Request) -> Response:
        """Say that the server runs; the only answer without a token."""
        del request
        return JSONResponse({"status": "healthy", **self._about})

    async def metadata(self, request: Request) -> Response:
        """Describe the server as OpenEnv asks."""
        del request
        told = {"name": "prophet", "description": "episodes imagined by a learned world model of a robot"}
        return JSONResponse(told | {"version": self._about["version"]})

    async def schema(self, request: Request) -> Response:
        """Describe actions and observations of `/ws` as OpenEnv asks."""
        del request
        return JSONResponse(SCHEMA)

    async def metrics(self, request: Request) -> Response:
        """Return the counts in Prometheus's text format."""
        del request
        return PlainTextResponse("\n".join(_metrics(self.sessions)) + "\n", media_type="text/plain; version=0.0.4")

    async def act(self, request: Request) -> Response:
        """Answer a request about a session, in safetensors or, where asked for, in JSON."""
        act = request.path_params.get("act") or ("close" if request.method == "DELETE" else "create")
        name = request.path_params.get("session", "")
        try:
            body = await self.body(request)
            message = _message(request.headers.get("content-type", ""), body)
            answer = await self.sessions.answer(act, name, message, body)
        except Exception as error:
            return failed(error)
        status = 201 if act == "create" else 200
        if request.headers.get("accept") == JSON:
            return JSONResponse(as_json(unpack(answer)), status)
        return Response(answer, status, media_type=BINARY)

    async def talk(self, socket: WebSocket) -> None:
        """Answer over a WebSocket: messages of ours in binary frames, those of OpenEnv in texts."""
        await socket.accept()
        conversation = Conversation(self.sessions)
        try:
            with suppress(WebSocketDisconnect):
                while (frame := await socket.receive())["type"] != "websocket.disconnect":
                    if frame.get("bytes") is not None:
                        await socket.send_bytes(await self._frame(frame["bytes"]))
                    elif (answer := await conversation.answer(frame["text"])) is not None:
                        await socket.send_text(json.dumps(answer))
                    else:
                        await socket.close()
                        break
        finally:
            await conversation.close()

    async def _frame(self, body: bytes) -> bytes:
        """Answer one binary message: `act`, `session` and what the body of the same request over HTTP has."""
        try:
            message = unpack(body)
            act, name = str(message.pop("act", "")), str(message.pop("session", ""))
            return await self.sessions.answer(act, name, message, body)
        except Exception as error:
            return pack({"status": status_of(error), "error": failure(error)})

    async def body(self, request: Request) -> bytes:
        """Return the body; RefusedError for one that is too large, or too slow."""
        body = bytearray()
        try:
            async with asyncio.timeout(SLOWEST):
                async for part in request.stream():
                    body += part
                    if len(body) > self._most:
                        raise RefusedError(
                            413, f"a request has at most {self._most // 10**6} MB, and this one has more"
                        )
        except TimeoutError as error:
            raise RefusedError(408, f"a request must arrive within {SLOWEST:g} s") from error
        return bytes(body)


def _message(kind: str, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if not kind.startswith(JSON):
        return unpack(body)
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a body of {JSON} must be JSON ({first_line(error)})") from error
    if not isinstance(message, dict):
        raise ValueError(f"a message must be an object of names and values, got {type(message).__name__}")
    return message


def failed(error: Exception) -> Response:
    """Return the answer to a request that led to an error."""
    return JSONResponse({"status": status_of(error), "error": failure(error)}, status_of(error))


def _metrics(sessions: Sessions) -> Iterator[str]:
    plain = {
        "prophet_sessions": len(sessions),
        "prophet_sub_environments": sessions.sub_envs,
        "prophet_memory_bytes": memory_in_use(),
        "prophet_model_calls_total": sessions.batcher.batches,
        "prophet_model_elements_total": sessions.batcher.elements,
    }
    found: dict[str, Mapping[str, float]] = {name: {"": value} for name, value in plain.items()}
    counts = {f'{{act="{act}",status="{status}"}}': count for (act, status), count in sorted(sessions.counts.items())}
    seconds = {f'{{act="{act}"}}': round(each, 6) for act, each in sorted(sessions.seconds.items())}
    found |= {"prophet_requests_total": counts, "prophet_request_seconds_total": seconds}
    for name, values in found.items():
        yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
        yield from (f"{name}{labels} {value}" for labels, value in values.items())
