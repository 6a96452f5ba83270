"""The scales that a checkpoint was trained with, read from its own files, never assumed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from prophet_gym._io.tensor_files import read_tensors
from prophet_gym.errors import CheckpointError, listed, shown, unknown_option
from prophrl_algos.vla.conventions import STATISTICS, Affine, Scaling, affine
from prophrl_algos.vla.io._weights import read_json

PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
NORM_STATS = "norm_stats.json"
PROCESSOR = "processor_config.json"
_MODES: Mapping[str, Scaling] = {
    "QUANTILES": "quantile",
    "MEAN_STD": "mean std",
    "MIN_MAX": "min max",
    "IDENTITY": "identity",
}

_AGAIN = "compute them again on the data set, or give LoadOptions(statistics=...) others"
_LARGEST = 1e37
"""Sums of numbers below it are finite in float32."""
_STILL = 1e-5
"""A number with an offset and a scale within this is padding: openpi's histograms leave 1e-10, and eps is 1e-6."""


@dataclass(frozen=True)
class Scales:
    """Of actions, and of the robot's state where there are statistics of it."""

    actions: Affine
    state: Affine | None


def lerobot_scales(folder: Path) -> Scales:
    """From the processor files that lerobot writes beside the weights.

    Raises:
        CheckpointError: they are not there, hold no statistics, or scale in a way that is not known.
    """
    actions = _lerobot(folder, POSTPROCESSOR, "unnormalizer_processor", "ACTION", "action")
    state = _lerobot(folder, PREPROCESSOR, "normalizer_processor", "STATE", "observation.state")
    if actions is None:
        raise CheckpointError(
            f"{folder / POSTPROCESSOR} names no statistics of actions, as in a base checkpoint that was not fine-tuned "
            "for a robot: give LoadOptions(statistics=...) a norm_stats.json of yours"
        )
    return Scales(actions, state)


def openpi_scales(
    folder: Path, scaling: Scaling, eps: float, *, given: Path | None = None, key: str | None = None
) -> Scales:
    """From openpi's `norm_stats.json`, wherever in the folder it lies.

    Args:
        folder: of the checkpoint.
        scaling: openpi's is quantile for pi0.5 and mean std for pi0.
        eps: as in `affine`.
        given: another file to read.
        key: the folder that it lies in (the data set's name), where there are several.

    Raises:
        CheckpointError: there is none, or several and no key.
    """
    found = sorted(folder.rglob(NORM_STATS)) if given is None else [given]
    if key is not None and given is None:
        named = {path.parent.relative_to(folder).as_posix(): path for path in found}
        matching = [path for name, path in named.items() if name == key or name.endswith(f"/{key}")]
        if not matching:
            raise unknown_option("unnorm_key", key, named)
        found = matching
    if len(found) != 1:
        names = [path.relative_to(folder).as_posix() for path in found]
        what = f"several {NORM_STATS} ({', '.join(names)}): say which" if found else f"no {NORM_STATS}: give one"
        how = "unnorm_key='...'" if found else "statistics=Path(...)"
        raise CheckpointError(f"{folder} holds {what} with LoadOptions({how})")
    if not found[0].is_file():
        raise CheckpointError(f"there is no file of statistics at {found[0]}")
    read = read_json(found[0])
    groups = read.get("norm_stats", read)
    if not isinstance(groups, dict) or groups.get("actions") is None:
        has = listed(sorted(groups)) if isinstance(groups, dict) else shown(repr(groups))
        raise CheckpointError(f"{found[0]} must hold the statistics of 'actions', it has {has}")
    scaled = {
        name: affine(scaling, sound(tensors(groups[name], name, found[0]), scaling, name, found[0]), eps=eps)
        for name in ("actions", "state")
        if groups.get(name) is not None
    }
    return Scales(scaled["actions"], scaled.get("state"))


def transformers_scales(folder: Path) -> Scales:
    """From the `processor_config.json` that transformers' `PI0Processor` writes: means and deviations.

    Raises:
        CheckpointError: it is not there, or has none.
    """
    read = read_json(folder / PROCESSOR)
    found = {}
    for name in ("actions", "state"):
        mean, std = read.get(f"{name}_mean"), read.get(f"{name}_std")
        if mean is None or std is None:
            raise CheckpointError(
                f"{folder / PROCESSOR} has no {name}_mean and {name}_std: give LoadOptions(statistics=...) a "
                f"{NORM_STATS} of yours"
            )
        given = tensors({"mean": mean, "std": std}, name, folder / PROCESSOR)
        found[name] = affine("mean std", sound(given, "mean std", name, folder / PROCESSOR), eps=1e-8)
    return Scales(found["actions"], found["state"])


def sound(statistics: Mapping[str, Tensor], scaling: Scaling, feature: str, source: Path) -> Mapping[str, Tensor]:
    """Return statistics that a scale can be made of.

    Args:
        statistics: of one feature.
        scaling: which of them are read.
        feature: named in errors.
        source: the file, named in errors.

    Raises:
        CheckpointError: some are missing, not finite, negative deviations, or a lower bound is above the upper one.
    """
    needed = STATISTICS[scaling]
    missing = [name for name in needed if name not in statistics]
    if missing or not statistics:
        raise CheckpointError(
            f"{source} must hold {' and '.join(needed) or 'statistics'} of {feature!r} for {scaling!r} scaling, it "
            f"holds {listed(sorted(statistics)) or 'none'}: compute them on the data set (openpi's "
            f"compute_norm_stats.py), or give LoadOptions(statistics=...) a {NORM_STATS} that has them"
        )
    read = [statistics[name].double() for name in needed or sorted(statistics)[:1]]
    if any(each.ndim != 1 or len(each) != len(read[0]) or not len(each) for each in read):
        sizes = {name: tuple(statistics[name].shape) for name in needed}
        raise CheckpointError(f"{source} must hold one number of {feature!r} for each of its numbers, got {sizes}")
    for name, each in zip(needed, read, strict=False):
        for place in torch.nonzero(~(each.abs() < _LARGEST))[:, 0].tolist():
            raise CheckpointError(
                f"{source}: {name} of {feature!r} must be finite, number {place} of it is {each[place]:g}; {_AGAIN}"
            )
    if scaling == "mean std":
        for place in torch.nonzero(read[1] < 0)[:, 0].tolist():
            raise CheckpointError(
                f"{source}: std of {feature!r} must be at least 0, number {place} of it is {read[1][place]:g}; {_AGAIN}"
            )
    elif needed:
        for place in torch.nonzero(read[0] > read[1])[:, 0].tolist():
            raise CheckpointError(
                f"{source}: {needed[0]} of {feature!r} must be at most {needed[1]}, number {place} of it is "
                f"{read[0][place]:g} and {read[1][place]:g}; {_AGAIN}"
            )
    return statistics


def cut(scale: Affine, numbers: int, feature: str, source: Path) -> Affine:
    """Return the first numbers of a scale; the rest must be padding, which some files have statistics of as well.

    Raises:
        CheckpointError: it has fewer, or something else than padding would be cut off.
    """
    if len(scale.scale) < numbers:
        raise CheckpointError(
            f"{source} holds statistics of {len(scale.scale)} numbers of {feature!r}, and {numbers} are needed"
        )
    for place in range(numbers, len(scale.scale)):
        if not _is_padding(scale)[place]:
            raise CheckpointError(
                f"{source} holds statistics of {len(scale.scale)} numbers of {feature!r}, {numbers} are needed, and "
                f"number {place} is no padding: offset {scale.offset[place]:g}, scale {scale.scale[place]:g}; it is of "
                "another robot, or give LoadOptions(statistics=...) those of this one"
            )
    return Affine(scale.offset[:numbers], scale.scale[:numbers])


def without_padding(scale: Affine, width: int) -> Affine:
    """Return a scale without the padding behind it, where it is as wide as what it is padded to.

    Args:
        scale: of a robot's state, whose size the file alone says.
        width: to which the network pads it.
    """
    real = torch.nonzero(~_is_padding(scale))[:, 0]
    if len(scale.scale) != width or not len(real):
        return scale
    return Affine(scale.offset[: int(real[-1]) + 1], scale.scale[: int(real[-1]) + 1])


def _is_padding(scale: Affine) -> Bool[Tensor, " a"]:
    """Which numbers were always 0; all of them where nothing is scaled, so that it cannot be told."""
    nothing = bool((scale.offset == 0).all() and (scale.scale == 1).all())
    return (scale.offset.abs() <= _STILL) & (scale.scale.abs() <= _STILL) | torch.tensor(nothing)


def _lerobot(folder: Path, file: str, step: str, kind: str, feature: str) -> Affine | None:
    spec = read_json(folder / file)
    given = spec.get("steps", [])
    listed_steps = isinstance(given, list) and all(isinstance(each, dict) for each in given)
    steps = [each for each in given if each.get("registry_name") == step] if listed_steps else []
    if len(steps) != 1:
        raise CheckpointError(f"{folder / file} must have one step {step!r}, got {len(steps)}")
    config = steps[0].get("config", {})
    if not isinstance(config, dict) or not isinstance(config.get("norm_map", {}), dict):
        raise CheckpointError(f"{folder / file}: config and norm_map of {step!r} must be objects, got {config!r:.80}")
    mode = config.get("norm_map", {}).get(kind, "IDENTITY")
    if not isinstance(mode, str) or mode not in _MODES:
        raise CheckpointError(f"{folder / file} scales {kind} by {mode!r}; known are {', '.join(_MODES)}")
    state_file = steps[0].get("state_file")
    if state_file is None:
        return None
    if not isinstance(state_file, str) or Path(state_file).name != state_file:
        raise CheckpointError(
            f"{folder / file}: state_file of {step!r} must be a file beside it, got {state_file!r:.80}"
        )
    stored = read_tensors(folder / state_file)
    prefix = f"{feature}."
    found = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    found.pop("count", None)  # how many frames there were: one number, whatever the feature's size
    if not found:
        return None
    eps = config.get("eps", 1e-8)
    if not isinstance(eps, int | float) or not 0 <= eps < 1:
        raise CheckpointError(f"{folder / file}: eps must be a number from 0 to 1, got {eps!r}")
    return affine(_MODES[mode], sound(found, _MODES[mode], feature, folder / state_file), eps=eps)


def tensors(statistics: Any, feature: str, source: Path) -> dict[str, Tensor]:
    """Return lists of numbers as tensors, absent ones left out; CheckpointError if they are none."""
    try:
        given = {name: values for name, values in dict(statistics).items() if values is not None}
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in given.items()}
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        said = shown(json.dumps(statistics, default=str))
        raise CheckpointError(f"{source}: statistics of {feature!r} must be lists of numbers, got {said}") from error
