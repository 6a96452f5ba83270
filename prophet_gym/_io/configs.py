"""Configs that somebody else may have written: a dataclass from JSON, every value of the kind that its field says."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from inspect import formatannotation
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from prophet_gym._checks import listed, shown

# No integer of a network's config is larger, unless a side of its tensors is; nor the frames, or pixels of a side, that
# a config asks for: beyond, memory ends before a dream begins.
LARGEST = 4096

Config = TypeVar("Config")


def config_of(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Return the dataclass that JSON describes, lists as tuples; raise TypeError for unknown keys and other kinds."""
    frozen = {key: _frozen(value) for key, value in values.items()}
    hints = get_type_hints(kind)
    problems = [f"{shown(key)} is unknown" for key in sorted(frozen.keys() - hints.keys())]
    problems += _of_other_kinds(hints, frozen)
    if problems:
        raise TypeError("; ".join(problems[:10]))
    return kind(**frozen)


def keys_of(kind: Any) -> str:
    """Return the names of a dataclass's fields, for a message."""
    return ", ".join(field.name for field in fields(kind))


def require_kinds(network: type, config: Mapping[str, Any]) -> None:
    """Raise ValueError if a value of a network's config is not what its constructor is annotated with."""
    if wrong := _of_other_kinds(get_type_hints(network.__init__), config):
        raise ValueError("; ".join(wrong[:10]))


def _of_other_kinds(hints: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    return [
        f"{shown(name)}={shown(repr(value))} must be {formatannotation(hints[name])}"
        + (", and finite" if isinstance(value, float) and not math.isfinite(value) else "")
        for name, value in config.items()
        if name in hints and not _is_of(_frozen(value), hints[name])
    ]


def require_sizes(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a config's numbers are not finite, or larger than its file of weights could ever fill."""
    most = max([LARGEST, len(state), *(side for value in state.values() for side in value.shape)])
    for name, value in config.items():
        numbers = list(_numbers(value))
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{shown(name)} in config.json must be finite, got {shown(repr(value))}")
        if any(isinstance(number, int) and abs(number) > most for number in numbers):
            raise ValueError(f"{shown(name)} in config.json must be at most {most}, got {shown(repr(value))}")


def misfits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Name ten tensors of each kind that a state dict lacks, should not have or has in another shape; "" if none."""
    problems = {
        "missing": [f"{k} {tuple(v.shape)}" for k, v in expected.items() if k not in state],
        "unexpected": [f"{k} {tuple(v.shape)}" for k, v in state.items() if k not in expected],
        "of another shape": [
            f"{k} has shape {tuple(state[k].shape)}, expected {tuple(v.shape)}"
            for k, v in expected.items()
            if k in state and v.shape != state[k].shape
        ],
    }
    return "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names)


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float):
        yield value


def _is_of(value: Any, hint: Any) -> bool:
    """Return whether a value of JSON is what a field is annotated as: a number, a text, None or tuples of these."""
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return any(type(value) is type(known) and value == known for known in inner)
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return any(_is_of(value, kind) for kind in inner)
    if hint is float:
        # NaN, and 1e999, are JSON to Python, and floats.
        return (type(value) is int and abs(value) < 2**53) or (type(value) is float and math.isfinite(value))
    if hint is Any:
        return True
    if not inner:
        return type(value) is hint
    if not isinstance(value, tuple):
        return False
    # tuple[int] is one number to Python, and any number of them in annotations of older diffusers.
    if len(inner) == 1 or inner[-1] is Ellipsis:
        return all(_is_of(entry, inner[0]) for entry in value)
    return len(value) == len(inner) and all(map(_is_of, value, inner))


def _frozen(value: Any) -> Any:
    """Turn lists into tuples, as a frozen config holds them."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def beyond_bounds(frame_size: tuple[int, int], counts: Sequence[int]) -> dict[str, bool]:
    """Return the problems of a config whose frame size, or counts of frames and steps, cannot be computed at all."""
    return {
        f"frame_size={frame_size} must be multiples of 8, at most {LARGEST}": (
            any(side < 8 or side > LARGEST or side % 8 for side in frame_size)
        ),
        f"counts of frames and steps must be at most {LARGEST}, got {max(counts)}": max(counts) > LARGEST,
    }
