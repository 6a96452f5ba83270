"""Messages between server and client: JSON whose arrays are the tensors of one safetensors body. Nothing is pickled."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from prophet_gym import errors
from prophet_gym._checks import first_line, require_known, shown
from prophet_gym._io.tensor_files import metadata_of
from prophet_gym.specs import FIRST_CAMERA, InitialState

PROTOCOL = 1
"""Raised when a server and a client of before would not understand each other."""
PROTOCOL_HEADER = "prophet-protocol"
BINARY, JSON = "application/octet-stream", "application/json"
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (*vars(errors).values(), *vars(gym.error).values(), KeyError, RuntimeError, TypeError, ValueError)
    if isinstance(kind, type) and issubclass(kind, Exception)
}
"""The errors of a server that a client raises again; others are RuntimeErrors."""


@dataclass(frozen=True)
class SessionOptions:
    """Hold what a session is created with, as `ProphetVectorEnv` and `EnvOptions` take it.

    Attributes:
        starts: `train` or `official`, among those that the server's checkpoint has.
        tasks: Numbers of the tasks of the initial states; None for all.
    """

    # What a message says may be anything: the env that is made with it checks it.
    num_envs: Any = 1
    max_episode_steps: Any = 30
    autoreset_mode: Any = "NextStep"
    render: Any = "step"
    starts: Any = "train"
    tasks: Any = None
    proprioception: Any = False
    max_uncertainty: Any = None
    cameras: Any = (FIRST_CAMERA,)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SessionOptions":
        """Return the options of a message; UnknownOptionError for one that does not exist."""
        names = [each.name for each in fields(cls)]
        for name in given:
            require_known("option of a session", name, names)
        return cls(**given)


def pack(message: Mapping[str, Any]) -> bytes:
    """Return a message as bytes: JSON with arrays, snapshots and initial states anywhere in it.

    Raises:
        ValueError: A part is of another kind.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_written(message, arrays))
    return save(arrays, {"message": text})


def unpack(body: bytes) -> dict[str, Any]:
    """Return the message of `pack`, its arrays writeable; ValueError for other bytes."""
    try:
        arrays = load(body)
        message = _read(json.loads(metadata_of(body)["message"]), arrays)
    except (SafetensorError, LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        # RuntimeError: deep JSON is a RecursionError.
        raise ValueError(f"a body must be a message in safetensors, got others ({first_line(error)})") from error
    if not isinstance(message, dict):
        raise ValueError(f"a message must be an object of names and values, got {type(message).__name__}")
    return message


def failure(error: BaseException) -> dict[str, str]:
    """Return what a message says of an error: its class, or the nearest that a caller may catch, and its text."""
    kind = next((each.__name__ for each in type(error).__mro__ if _KINDS.get(each.__name__) is each), "RuntimeError")
    return {"kind": kind, "message": shown(str(error), 2000) or type(error).__name__}


def raised(told: Mapping[str, Any]) -> Exception:
    """Return the error of `failure`."""
    return _KINDS.get(str(told.get("kind")), RuntimeError)(str(told.get("message")))


def _written(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON holds it; arrays go to `arrays`."""
    value = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": _kept(np.frombuffer(bytes(value), np.uint8), arrays)}
    if isinstance(value, InitialState):
        return {"$start": {name: _written(each, arrays) for name, each in vars(value).items()}}
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        if value.dtype.kind in "biuf":
            return {"$array": _kept(value, arrays)}
        if value.dtype == object and value.ndim == 1:
            return {"$objects": [_written(each, arrays) for each in value]}
    elif isinstance(value, Mapping) and all(isinstance(name, str) and not name.startswith("$") for name in value):
        return {name: _written(each, arrays) for name, each in value.items()}
    elif isinstance(value, Sequence):
        return [_written(each, arrays) for each in value]
    raise ValueError(f"it cannot be sent to a server: {type(value).__name__} {shown(repr(value))}")


def _kept(array: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    name = str(len(arrays))
    arrays[name] = np.asarray(array, order="C")
    return name


def _read(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_read(each, arrays) for each in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        array = arrays.pop(value["$array"])  # once: a small body must not be read into a large message
        return array if array.flags.writeable else array.copy()
    if "$bytes" in value:
        return arrays.pop(value["$bytes"]).tobytes()
    if "$objects" in value:
        objects = np.empty(len(value["$objects"]), dtype=object)
        for place, each in enumerate(value["$objects"]):  # one by one: NumPy would stack arrays of equal shape
            objects[place] = _read(each, arrays)
        return objects
    if "$start" in value:
        return InitialState(**_read(value["$start"], arrays))
    return {name: _read(each, arrays) for name, each in value.items()}
