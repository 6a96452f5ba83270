"""Check plain arguments, and name what was given in messages."""

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from prophet_gym.errors import UnknownOptionError

SHOWN_NAMES, SHOWN_CHARS = 10, 100


def unknown_option(kind: str, given: object, known: Iterable[str]) -> UnknownOptionError:
    """Return the error for a name that does not exist, with the known ones and the closest match."""
    names = sorted(known)
    others = [name for name in names if name != given]  # a name may be known in another sense, as a placeholder
    close = get_close_matches(given, others, n=1) if isinstance(given, str) else []
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if isinstance(given, str) and len(given) > SHOWN_CHARS:
        given = shown(given)
    return UnknownOptionError(f"unknown {kind} {given!r}.{hint} Known: {', '.join(names)}")


def require_known(kind: str, given: object, known: Collection[str]) -> None:
    """Raise UnknownOptionError for a name that is not among the known ones."""
    if given not in known:
        raise unknown_option(kind, given, known)


def read_options(kind: str, given: Mapping[str, str], readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Read the texts of options; ValueError for one that is unknown or no number where `int` or `float` reads it."""
    values = {}
    for name, text in given.items():
        require_known(kind, name, readers)
        try:
            values[name] = readers[name](text)
        except ValueError as error:
            if readers[name] not in (int, float):
                raise
            whole = "whole " if readers[name] is int else ""
            raise ValueError(f"{name} must be a {whole}number, got {shown(text)!r}") from error
    return values


def imported(kind: str, name: str) -> Any:
    """Return what `module:name` names, or a module; ValueError, which says what `kind` it is, if it has none."""
    module, _, attribute = name.partition(":")
    try:
        found = import_module(module)
        return getattr(found, attribute) if attribute else found
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # TypeError: a relative name
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error


def require_count(name: str, value: object, least: int = 1) -> int:
    """Return the value as an int; ValueError unless it is an integer of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def require_number(
    name: str, value: object, *, least: float | int = -math.inf, above: float | int = -math.inf
) -> float:
    """Return the value as a float; ValueError unless it is a finite number, at least `least` and above `above`."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and number >= least and number > above):
        bound = f" of at least {least}" if least > -math.inf else f" above {above}" if above > -math.inf else ""
        raise ValueError(f"{name} must be a finite number{bound}, got {value!r}")
    return number


def require_different(name: str, values: object, count: int) -> list[int]:
    """Return the values as a list; ValueError unless they are different integers in 0..count - 1, at least one."""
    given = list(values) if isinstance(values, Iterable) and not isinstance(values, bytes | bytearray) else []
    whole = [int(each) for each in given if isinstance(each, Integral) and not isinstance(each, bool)]
    if not whole or not len(whole) == len(given) == len(set(whole)) or not set(whole) <= set(range(count)):
        raise ValueError(f"{name} must be different numbers in 0..{count - 1}, got {given or values!r}")
    return whole


def require_device(name: str, value: Any, also: Collection[str] = ()) -> str:
    """Return a device of torch as a text; UnknownOptionError unless it is one of this machine, or a name in `also`."""
    if value in ("cpu", *also):
        return str(value)
    import torch

    try:
        device = torch.device(value)
        count = getattr(torch, device.type).device_count()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise unknown_option(name, value, ["cpu", "cuda", "mps", *also]) from error
    if (device.index or 0) >= count:
        raise UnknownOptionError(
            f"{name} must be on this machine, got {str(device)!r}: torch {torch.__version__} finds {count} "
            f"{device.type} devices; `cpu` is everywhere"
        )
    return str(device)


def listed(names: Collection[str], most: int = SHOWN_CHARS) -> str:
    """Return the first names, each cut to a length that fits a message, and how many more there are."""
    rest = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(shown(name, most) for name in islice(names, SHOWN_NAMES)) + rest


def shown(text: str, most: int = SHOWN_CHARS) -> str:
    """Return text of a file as a message may show it: on one line, without control characters, cut where it is long."""
    plain = "".join(char if char.isprintable() else "?" for char in text[: most + 1])
    return plain if len(text) <= most else f"{plain[:most]}... ({len(text)} letters)"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type's name where it says nothing."""
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


def require_when(when: object) -> Literal["chunk", "end"]:
    """Return `when`; raise ValueError unless it is `chunk` or `end`."""
    if when in ("chunk", "end"):
        return when  # pyright: ignore[reportReturnType]
    raise ValueError(f"when must be 'chunk' or 'end', got {shown(repr(when))}")


def require_images(name: str, images: object, error: type[Exception] = ValueError) -> UInt8[np.ndarray, "*_ h w 3"]:
    """Return the images; raise `error` unless they are a uint8 NumPy array `(..., height, width, 3)`.

    `name` says what they are, for the message, e.g. `observation["image"]` or a file and its key.
    """
    if not isinstance(images, np.ndarray):
        raise error(f"{name} must be a NumPy array, uint8 (..., height, width, 3), RGB, got {type(images).__name__}")
    require_image_type(name, images.dtype, images.shape, error)
    return images


def require_image_type(name: str, dtype: np.dtype, shape: tuple[int, ...], error: type[Exception] = ValueError) -> None:
    """Raise `error` unless arrays of this type and shape are images, see `require_images`; for files not read yet."""
    if dtype == np.uint8 and len(shape) >= 3 and shape[-1] == 3 and min(shape[-3:]) > 0:
        return
    advice = []
    if len(shape) >= 3 and shape[-1] == 4:
        advice.append("drop the fourth channel")
    elif len(shape) >= 3 and shape[-1] != 3 and shape[-3] in (3, 4):
        advice.append("move the channels last")
    if dtype.kind == "f":
        advice.append("scale them to 0..255 and round them to uint8")
    remedy = f"; {' and '.join(advice)}" if advice else ""
    raise error(f"{name} must be uint8 (..., height, width, 3), RGB, got {dtype} {shape}{remedy}")


def require_none(problems: Mapping[str, bool], error: type[Exception] = ValueError, about: str = "") -> None:
    """Raise an error that names all problems that there are, if any."""
    found = "; ".join(problem for problem, is_there in problems.items() if is_there)
    if found:
        raise error(f"{about}{found}")


def is_stream(path: Path) -> bool:
    """Return whether a path names a device, a pipe or an open file, such as `/dev/null`: nothing may replace it."""
    # What lies in /dev is often a link into /proc, and who may write there may also replace it.
    if Path("/proc") in path.parent.resolve().parents or (path.is_symlink() and os.readlink(path).startswith("/proc/")):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()
