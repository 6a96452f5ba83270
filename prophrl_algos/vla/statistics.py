"""The scales that a checkpoint was trained with, read from its own files, never assumed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from prophet_gym.errors import CheckpointError, unknown_option
from prophrl_algos.vla.conventions import Affine, Scaling, affine
from prophrl_algos.vla.weights import read_json

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
    read = read_json(found[0])
    groups = read.get("norm_stats", read)
    if not isinstance(groups, dict) or "actions" not in groups:
        raise CheckpointError(f"{found[0]} must hold the statistics of 'actions', it has {sorted(groups)}")
    scaled = {name: affine(scaling, _tensors(groups[name]), eps=eps) for name in ("actions", "state") if name in groups}
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
        found[name] = affine("mean std", _tensors({"mean": mean, "std": std}), eps=1e-8)
    return Scales(found["actions"], found["state"])


def cut(scale: Affine, numbers: int) -> Affine:
    """The first numbers of a scale; some files hold those of the padding as well.

    Raises:
        CheckpointError: it has fewer.
    """
    if len(scale.scale) < numbers:
        raise CheckpointError(f"the statistics are of {len(scale.scale)} action numbers, {numbers} are needed")
    return Affine(scale.offset[:numbers], scale.scale[:numbers])


def _lerobot(folder: Path, file: str, step: str, kind: str, feature: str) -> Affine | None:
    spec = read_json(folder / file)
    steps = [each for each in spec.get("steps", []) if each.get("registry_name") == step]
    if len(steps) != 1:
        raise CheckpointError(f"{folder / file} must have one step {step!r}, got {len(steps)}")
    config = steps[0].get("config", {})
    mode = config.get("norm_map", {}).get(kind, "IDENTITY")
    if mode not in _MODES:
        raise CheckpointError(f"{folder / file} scales {kind} by {mode!r}; known are {', '.join(_MODES)}")
    if "state_file" not in steps[0]:
        return None
    stored = load_file(folder / cast(str, steps[0]["state_file"]))
    prefix = f"{feature}."
    found = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    return affine(_MODES[mode], found, eps=float(config.get("eps", 1e-8))) if found else None


def _tensors(statistics: Any) -> dict[str, Tensor]:
    try:
        return {name: torch.tensor(values) for name, values in dict(statistics).items() if values is not None}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"statistics must be lists of numbers, got {json.dumps(statistics)[:80]}") from error
