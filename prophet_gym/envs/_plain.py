"""Convert arguments to plain data: what `gym.make` may be given, and what a spec keeps so that JSON can carry it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from prophet_gym._checks import require_known
from prophet_gym.specs import CAMERAS, FIRST_CAMERA

PathOrName: TypeAlias = str | os.PathLike[str]
Cameras: TypeAlias = Sequence[str] | np.ndarray
Tasks: TypeAlias = Sequence[SupportsIndex] | np.ndarray


def plain(value: Any) -> Any:
    """Return the value as JSON has it: texts, Python's own numbers, lists; what JSON cannot say stays as it is."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist() if value.dtype.kind in "biufUS" else value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, torch.device | torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, Mapping):
        return {plain(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(entry) for entry in value]
    return value


class PlainSpec:
    """Keep the spec of an env in plain arguments, so that `to_json` and `from_json` give the same env."""

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """Return the spec by which Gymnasium made the env, in plain data that JSON can hold; None for other envs."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = None if spec is None else replace(spec, kwargs=plain(spec.kwargs))


def require_flag(name: str, value: object) -> bool:
    """Return the value as a bool; ValueError unless it is True or False, of Python or NumPy."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def require_text(name: str, value: object) -> str:
    """Return a text or path as a text; ValueError for anything else, or an empty one."""
    text = plain(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{name} must be a text or a path, got {value!r}")
    return text


def require_cameras(cameras: object) -> tuple[str, ...]:
    """Return names of `specs.CAMERAS` as texts, in their order; ValueError unless the first one is among them."""
    names = plain(cameras)
    known = tuple(CAMERAS)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"cameras must be names, as in cameras={known}, got {cameras!r}")
    for name in names:
        require_known("camera", name, known)
    if FIRST_CAMERA not in names or len(set(names)) < len(names):
        raise ValueError(
            f"cameras must name {FIRST_CAMERA!r}, which every world has, and each at most once, got {names}"
        )
    return tuple(name for name in known if name in names)


def require_tasks(tasks: object) -> list[int]:
    """Return task numbers as Python's own; ValueError for anything but at least one integer."""
    numbers = plain(tasks)
    if not isinstance(numbers, list) or not numbers or not all(type(task) is int for task in numbers):
        raise ValueError(f"tasks must be task numbers, as in tasks=[0, 3], got {tasks!r}")
    return numbers
