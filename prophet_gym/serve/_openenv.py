"""What OpenEnv's clients, and a page, say and read over a WebSocket: JSON, one sub-environment a connection."""

import base64
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from prophet_gym.envs import sub_env_info
from prophet_gym.serve._messages import failure, unpack
from prophet_gym.serve._sessions import RefusedError, Sessions

RESET_OPTIONS = ("task", "start")
SESSION_OPTIONS = ("render", "starts", "max_episode_steps", "cameras", "proprioception")
_IMAGE = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
_ACTIONS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
SCHEMA = {
    "action": {"type": "object", "properties": {"actions": _ACTIONS}, "required": ["actions"]},
    "observation": {"type": "object", "properties": {"image": _IMAGE, "instruction": {"type": "string"}}},
    "state": {"type": "object", "properties": {"episode_id": {"type": "string"}, "step_count": {"type": "integer"}}},
}
"""JSON schemas of what a client says and is shown; an observation also has the numbers of its info."""


class Conversation:
    """Hold the session of one connection, which begins with its first reset and ends with the connection.

    `reset` takes `seed`, `task` and `start`, and, when it is the first, options of a session such as `render`: `chunk`,
    the default, or `step`, which also shows `frames`. `step` takes `actions`, nested lists (k, a).
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._name: str | None = None
        self._count = 0

    async def answer(self, text: str) -> dict[str, Any] | None:
        """Return the answer to a message; None where it ends the connection."""
        try:
            message = json.loads(text)
            kind, data = message["type"], message.get("data") or {}
            if not isinstance(data, dict):
                raise TypeError(f"data must be an object, got {type(data).__name__}")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            return _error("INVALID_JSON", error)
        if kind == "close":
            return None
        if kind not in ("reset", "step", "state"):
            return _error(
                "UNKNOWN_TYPE", ValueError(f"type must be reset, step, state or close, got {str(kind)[:40]!r}")
            )
        try:
            if kind == "state":
                return {"type": "state", "data": {"episode_id": self._name, "step_count": self._count}}
            return {"type": "observation", "data": await (self._reset(data) if kind == "reset" else self._step(data))}
        except RefusedError as error:
            return _error("CAPACITY_REACHED" if error.status == 503 else "SESSION_ERROR", error)
        except (ValueError, KeyError, TypeError) as error:
            return _error("VALIDATION_ERROR", error)
        except Exception as error:
            return _error("EXECUTION_ERROR", error)

    async def close(self) -> None:
        """Close the session, if there is one."""
        if self._name is not None:
            with suppress(RefusedError):  # it was idle for too long
                await self._sessions.answer("close", self._name, {})

    async def _reset(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if self._name is None:
            chosen = {"render": "chunk"} | {name: data[name] for name in SESSION_OPTIONS if name in data}
            created = await self._sessions.answer("create", "", chosen | {"autoreset_mode": "Disabled"})
            self._name = unpack(created)["session"]
        options = {name: data[name] for name in RESET_OPTIONS if data.get(name) is not None}
        found = await self._act("reset", {"seed": data.get("seed"), "options": options})
        self._count = 0
        return {"observation": _shown(found), "reward": None, "done": False}

    async def _step(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if self._name is None:
            raise ValueError("reset comes before the first step")
        found = await self._act("step", {"actions": [data.get("actions")]})
        self._count += 1
        done = bool(found["terminated"][0] or found["truncated"][0])
        return {"observation": _shown(found), "reward": float(found["reward"][0]), "done": done}

    async def _act(self, act: str, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self._name is not None
        return unpack(await self._sessions.answer(act, self._name, message))


def as_json(value: Any) -> Any:
    """Return what JSON can hold: images as base64 of PNG files, other arrays as lists, NaN as null."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8 and value.ndim >= 3 and value.shape[-1] == 3:
            return _png(value) if value.ndim == 3 else [as_json(each) for each in value]
        return [as_json(each) for each in value.tolist()]
    if isinstance(value, Mapping):
        return {name: as_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [as_json(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first sub-environment's observation, with its info in it."""
    seen = {name: value[0] for name, value in found["observation"].items()}
    return as_json(sub_env_info(found["info"], 0) | seen)


def _png(image: np.ndarray) -> str:
    import cv2

    return base64.b64encode(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()).decode()


def _error(code: str, error: Exception) -> dict[str, Any]:
    return {"type": "error", "data": {"code": code, "message": failure(error)["message"]}}
