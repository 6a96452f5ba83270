"""Types of command-line arguments that say what a value must be, checked when the arguments are made.

An `Args` dataclass inherits `Arguments` and declares `episodes: Count = 40`; then `Args(episodes=0)` raises.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from prophet_gym._checks import is_stream, require_count, require_device, require_number
from prophet_gym.specs import FIRST_CAMERA, Camera


class Check(ABC):
    """Check a value as metadata of an `Annotated` type: raise ValueError unless the value of `name` fits."""

    @abstractmethod
    def __call__(self, name: str, value: Any) -> None: ...


@dataclass(frozen=True)
class Whole(Check):
    """Require a whole number from `least` to `most`."""

    least: int
    most: int

    def __call__(self, name: str, value: Any) -> None:
        if require_count(name, value, self.least) > self.most:
            raise ValueError(f"{name} must be an integer in {self.least}..{self.most}, got {value!r}")


@dataclass(frozen=True)
class Number(Check):
    """Require a number of at least `least`, above `above` and at most `most`; finite unless `endless`."""

    least: float | int = -math.inf
    above: float | int = -math.inf
    most: float | int = math.inf
    endless: bool = False

    def __call__(self, name: str, value: Any) -> None:
        if self.endless and value == math.inf:
            return
        if require_number(name, value, least=self.least, above=self.above) > self.most:
            raise ValueError(f"{name} must be at most {self.most:g}, got {value!r}")


@dataclass(frozen=True)
class Several(Check):
    """Different values, since one that is given twice would be counted twice; at least one unless `none` may be.

    `needed` is one that must be among them.
    """

    none: bool = False
    needed: str | None = None

    def __call__(self, name: str, value: Any) -> None:
        if not len(value) and not self.none:
            raise ValueError(f"{name} must have at least one value, got none")
        twice = sorted({str(each) for each in value if list(value).count(each) > 1})
        if twice:
            raise ValueError(f"{name} must be different, got {', '.join(twice)} more than once")
        if self.needed is not None and self.needed not in value:
            raise ValueError(f"{name} must include {self.needed}, got {', '.join(map(str, value))}")


@dataclass(frozen=True)
class OnDevice(Check):
    """Require a torch device that is there, e.g. `cpu` or `cuda:1`; `also`: names that a command reads itself."""

    also: tuple[str, ...] = ()

    def __call__(self, name: str, value: Any) -> None:
        require_device(name, value, self.also)


@dataclass(frozen=True)
class Writable(Check):
    """Require a file, or a `folder`, that can be written or made; nothing is made.

    `endings` are those that a file's name may have.
    """

    folder: bool = False
    endings: tuple[str, ...] = ()

    def __call__(self, name: str, value: Any) -> None:
        path, kinds = Path(value).expanduser(), ("file", "folder")
        if is_stream(path):
            raise ValueError(f"{name} must be a {kinds[self.folder]}, got {value}: a device, a pipe or an open file")
        if path.exists() and path.is_dir() != self.folder:
            raise ValueError(f"{name} must be a {kinds[self.folder]}, got {value}, which is a {kinds[not self.folder]}")
        if self.endings and path.suffix not in self.endings:
            raise ValueError(f"{name} must end in {' or '.join(self.endings)}, got {value}")
        folder = path if self.folder else path.parent
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not there.is_dir():
            raise ValueError(f"{name} cannot be written: {there} is a file, not a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{name} cannot be written: no permission in {there}")
        if path.is_file() and not os.access(path, os.W_OK):
            raise ValueError(f"{name} cannot be written: {value} is read-only")


# A billion is more than any machine will do, and a list of so many still ends in an error of memory.
Count = Annotated[int, Whole(1, 10**9)]
CountOrNone = Annotated[int, Whole(0, 10**9)]
Items = Annotated[int, Whole(1, 100_000)]
"""Count things that are held at once or listed before work begins (episodes, elements of a batch), at least 1."""
Workers = Annotated[int, Whole(1, 1024)]
Seed = Annotated[int, Whole(0, 2**62)]
Positive = Annotated[float, Number(above=0)]
NotNegative = Annotated[float, Number(least=0)]
Minutes = Annotated[float, Number(above=0, endless=True)]
Fraction = Annotated[float, Number(least=0, most=1)]
Device = Annotated[str, OnDevice()]
DeviceOrAuto = Annotated[str, OnDevice(("auto",))]
OutFolder = Annotated[Path, Writable(folder=True)]
OutFile = Annotated[Path, Writable()]
TaskNumber = Annotated[int, Whole(0, 10**6)]
Tasks = Annotated[tuple[TaskNumber, ...], Several(none=True)]  # none means all
Cameras = Annotated[tuple[Camera, ...], Several(needed=FIRST_CAMERA)]
SomeTasks = Annotated[tuple[TaskNumber, ...], Several()]


def resolved_device(name: str) -> str:
    """Return the device of a name: for `auto` the GPU if there is one, else the CPU."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Arguments:
    """Check every field whose type states a requirement; the base class of `Args` dataclasses."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for check, part in _checks(hint, getattr(self, name)):
                check(name, part)


@dataclass(frozen=True, kw_only=True)
class WorldModelOptions(Arguments):
    """Choose the world model and its device."""

    world_model: str = "bundled"
    """Checkpoint of the world model: `bundled`, the name of a bundled one, a folder, or a Hub repository."""
    device: DeviceOrAuto = "auto"
    """Device to compute on, for example `cpu` or `cuda:1`; `auto` is the GPU if there is one."""


def _checks(hint: Any, value: Any) -> Iterator[tuple[Check, Any]]:
    """Yield the checks that a type asks for, each with the part of the value that it is about."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *metadata = get_args(hint)
        yield from _checks(inner, value)
        yield from ((check, value) for check in metadata if isinstance(check, Check))
    elif origin in (Union, UnionType):
        if value is not None:
            yield from (found for arm in get_args(hint) if arm is not type(None) for found in _checks(arm, value))
    elif origin is tuple and isinstance(value, tuple):
        yield from (found for each in value for found in _checks(get_args(hint)[0], each))
