"""Read the scales that a checkpoint was trained with from its own files; they are never assumed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from prophet_gym._checks import listed, shown, unknown_option
from prophet_gym._io.tensor_files import read_tensors
from prophet_gym.errors import CheckpointError
from prophrl_algos.vla._units import STATISTICS, Affine, affine
from prophrl_algos.vla.io._weights import read_json

_POSTPROCESSOR = "policy_postprocessor.json"
_NORM_STATS = "norm_stats.json"
_LARGEST = 1e37
"""Sums of numbers below it are finite in float32."""
_PADDING = 1e-5
"""A number whose offset and scale are within this is padding: openpi's histograms leave 1e-10, and eps is 1e-6."""


@dataclass(frozen=True)
class Scales:
    """Hold the scale of actions, and that of the robot's state where there are statistics of it."""

    actions: Affine
    state: Affine | None


def lerobot_scales(folder: Path) -> Scales:
    """Read the processor files that lerobot writes beside the weights."""
    actions = _lerobot(folder, _POSTPROCESSOR, "unnormalizer_processor", "ACTION", "action")
    state = _lerobot(folder, "policy_preprocessor.json", "normalizer_processor", "STATE", "observation.state")
    if actions is None:
        raise CheckpointError(
            f"{folder / _POSTPROCESSOR} names no statistics of actions, as in a base checkpoint that was not "
            "fine-tuned for a robot: give LoadOptions(statistics=...) a norm_stats.json of yours"
        )
    return Scales(actions, state)


def openpi_scales(
    folder: Path, scaling: str, eps: float, *, given: Path | None = None, key: str | None = None
) -> Scales:
    """Read openpi's `norm_stats.json`, `given` or anywhere in the folder; `key` names the folder that it lies in."""
    source = given if given is not None else _norm_stats(folder, key)
    if not source.is_file():
        raise CheckpointError(f"there is no file of statistics at {source}")
    read = read_json(source)
    groups = read.get("norm_stats", read)
    if not isinstance(groups, dict) or groups.get("actions") is None:
        has = listed(sorted(groups)) if isinstance(groups, dict) else shown(repr(groups))
        raise CheckpointError(f"{source} must hold the statistics of 'actions', it has {has}")
    return _scales(groups, scaling, eps, source)


def transformers_scales(folder: Path) -> Scales:
    """Read means and deviations from the `processor_config.json` of transformers' `PI0Processor`."""
    source = folder / "processor_config.json"
    read = read_json(source)
    groups = {name: {kind: read.get(f"{name}_{kind}") for kind in ("mean", "std")} for name in ("actions", "state")}
    return _scales(groups, "MEAN_STD", 1e-8, source)


def sound(given: Any, scaling: str, feature: str, source: Path) -> dict[str, Tensor]:
    """Return the statistics of a feature, lists or tensors; CheckpointError for what no scale can be made of."""
    try:
        present = {name: values for name, values in dict(given).items() if values is not None}
        statistics = {name: torch.as_tensor(values, dtype=torch.float64) for name, values in present.items()}
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        said = shown(json.dumps(given, default=str))
        raise CheckpointError(f"{source}: statistics of {feature!r} must be lists of numbers, got {said}") from error
    needed = STATISTICS[scaling]
    if any(name not in statistics for name in needed):
        raise CheckpointError(
            f"{source} must hold {' and '.join(needed)} of {feature!r} for {scaling!r} scaling, it "
            f"holds {listed(sorted(statistics)) or 'none'}: compute them on the data set (openpi's "
            f"compute_norm_stats.py), or give LoadOptions(statistics=...) a {_NORM_STATS} that has them"
        )
    read = [statistics[name] for name in needed]
    if any(each.ndim != 1 or len(each) != len(read[0]) or not len(each) for each in read):
        sizes = {name: tuple(statistics[name].shape) for name in needed}
        raise CheckpointError(f"{source} must hold one number of {feature!r} for each of its numbers, got {sizes}")
    # Finite in float64 is not enough: the scale is a sum of two of them in float32.
    checks = [(name, ~(each.abs() < _LARGEST), "finite", each) for name, each in zip(needed, read, strict=True)]
    if scaling == "MEAN_STD":
        checks.append(("std", read[1] < 0, "at least 0", read[1]))
    else:
        checks.append((needed[0], read[0] > read[1], f"at most {needed[1]}", torch.stack(read, 1)))
    for name, wrong, bound, values in checks:
        if wrong.any():
            place = int(wrong.nonzero()[0])
            given = " and ".join(f"{each:g}" for each in values[place].flatten().tolist())
            raise CheckpointError(
                f"{source}: {name} of {feature!r} must be {bound}, number {place} of it is {given}; compute them again "
                "on the data set, or give LoadOptions(statistics=...) others"
            )
    return statistics


def cut(scale: Affine, numbers: int, feature: str, source: Path) -> Affine:
    """Return the first numbers of a scale; the rest must be padding, for which some files hold statistics too."""
    held = f"{source} holds statistics of {len(scale.scale)} numbers of {feature!r}"
    if len(scale.scale) < numbers:
        raise CheckpointError(f"{held}, and {numbers} are needed")
    for place in range(numbers, len(scale.scale)):
        if not _is_padding(scale)[place]:
            raise CheckpointError(
                f"{held}, {numbers} are needed, and number {place} is no padding: offset {scale.offset[place]:g}, "
                f"scale {scale.scale[place]:g}; it is of another robot: give LoadOptions(statistics=...) those of this"
            )
    return Affine(scale.offset[:numbers], scale.scale[:numbers])


def without_padding(scale: Affine, width: int) -> Affine:
    """Return the scale of a state without the padding at its end, where it is as wide as the network's padded state."""
    real = torch.nonzero(~_is_padding(scale))[:, 0]
    if len(scale.scale) != width or not len(real):
        return scale
    return Affine(scale.offset[: int(real[-1]) + 1], scale.scale[: int(real[-1]) + 1])


def _scales(groups: Mapping[str, Any], scaling: str, eps: float, source: Path) -> Scales:
    given = {name: groups[name] for name in ("actions", "state") if groups.get(name) is not None}
    found = {name: affine(scaling, sound(each, scaling, name, source), eps=eps) for name, each in given.items()}
    return Scales(found["actions"], found.get("state"))


def _norm_stats(folder: Path, key: str | None) -> Path:
    found = sorted(folder.rglob(_NORM_STATS))
    if key is not None:
        named = {path.parent.relative_to(folder).as_posix(): path for path in found}
        found = [path for name, path in named.items() if name == key or name.endswith(f"/{key}")]
        if not found:
            raise unknown_option("unnorm_key", key, named)
    if len(found) != 1:
        names = [path.relative_to(folder).as_posix() for path in found]
        what = f"several {_NORM_STATS} ({', '.join(names)}): say which" if found else f"no {_NORM_STATS}: give one"
        how = "unnorm_key='...'" if found else "statistics=Path(...)"
        raise CheckpointError(f"{folder} holds {what} with LoadOptions({how})")
    return found[0]


def _is_padding(scale: Affine) -> Bool[Tensor, " a"]:
    """Return which numbers were always 0."""
    return (scale.offset.abs() <= _PADDING) & (scale.scale.abs() <= _PADDING)


def _lerobot(folder: Path, file: str, step: str, kind: str, feature: str) -> Affine | None:
    """Return the scale of a feature from one of lerobot's processor files, or None if it names no statistics."""
    source = folder / file
    given = read_json(source).get("steps", [])
    readable = isinstance(given, list) and all(isinstance(each, dict) for each in given)
    steps = [each for each in given if each.get("registry_name") == step] if readable else []
    if len(steps) != 1:
        raise CheckpointError(f"{source} must have one step {step!r}, got {len(steps)}")
    config = steps[0].get("config", {})
    if not isinstance(config, dict) or not isinstance(config.get("norm_map", {}), dict):
        raise CheckpointError(f"{source}: config and norm_map of {step!r} must be objects, got {config!r:.80}")
    state_file = steps[0].get("state_file")
    if state_file is None:
        return None
    if not isinstance(state_file, str) or Path(state_file).name != state_file:
        raise CheckpointError(f"{source}: state_file of {step!r} must be a file beside it, got {state_file!r:.80}")
    stored = read_tensors(folder / state_file)
    prefix = f"{feature}."
    found = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    if not found:
        return None
    mode = config.get("norm_map", {}).get(kind)
    if not isinstance(mode, str) or mode not in STATISTICS:
        raise CheckpointError(f"{source} scales {kind} by {mode!r}; known are {', '.join(STATISTICS)}")
    eps = config.get("eps", 1e-8)
    if not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise CheckpointError(f"{source}: eps must be a number from 0 to 1, got {eps!r}")
    return affine(mode, sound(found, mode, feature, folder / state_file), eps=eps)
