"""A checkpoint's folder: `prophet.json` and one diffusers folder per network, written whole or not at all."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn

from prophet_gym._configs import config_of, keys_of, require_shapes, require_sizes
from prophet_gym._files import read_json
from prophet_gym._tensor_files import (
    MARK,
    mark_of,
    read_tensors,
    require_finite,
    require_mark,
    write_tensors,
)
from prophet_gym.errors import CheckpointError, shown
from prophet_gym.hub import CONFIG
from prophet_gym.prophet.full import FullConfig, FullRecipe
from prophet_gym.prophet.recipe import Recipe
from prophet_gym.prophet.small import ProphetConfig, SmallRecipe

RECIPE = "recipe"
"""Key of `prophet.json` that names the recipe; a checkpoint without it is a small one."""


def recipe_of(config: ProphetConfig | FullConfig) -> Recipe:
    """Return the recipe that reads this config."""
    return FullRecipe(config) if isinstance(config, FullConfig) else SmallRecipe(config)


def save_parts(
    parts: Mapping[str, tuple[Mapping[str, Tensor], ModelMixin]], config: ProphetConfig | FullConfig, folder: Path
) -> None:
    """Write a checkpoint's own files into an empty folder, each with the mark of this save.

    Args:
        parts: name -> what is stored, and the network whose config it has.
        config: goes to `prophet.json`.
        folder: from `atomic_directory`.

    Raises:
        CheckpointError: a number is not finite.
    """
    settings = [part.to_json_string() for _, part in parts.values()]
    mark = mark_of(*(state for state, _ in parts.values()), *settings, json.dumps(asdict(config)))
    for name, (state, part) in parts.items():
        part.save_config(folder / name)
        write_tensors(state, folder / name / SAFETENSORS_WEIGHTS_NAME, mark)
    write_config(config, folder, mark)


def stored(part: ModelMixin, *, half: bool) -> dict[str, Tensor]:
    """Return a network's state as it is stored, in float16 if `half`.

    Raises:
        CheckpointError: a finite number is too large for that.
    """
    state = part.state_dict()
    if not half:
        return state
    narrow = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    require_finite(state, f"the {type(part).__name__}", why="cannot be saved")
    require_finite(narrow, f"the {type(part).__name__}", why="cannot be saved as float16, give half=False")
    return narrow


def write_config(config: ProphetConfig | FullConfig, folder: Path, mark: str | None = None) -> None:
    """Write `prophet.json`, with the mark of the save that it is of."""
    header = {RECIPE: FullRecipe.name} if isinstance(config, FullConfig) else {}
    footer = {} if mark is None else {MARK: mark}
    text = json.dumps(header | asdict(config) | footer, indent=2, allow_nan=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_config(folder: Path) -> ProphetConfig | FullConfig:
    """Read `prophet.json`.

    Raises:
        CheckpointError: it is missing, no JSON, or has other keys.
    """
    return _config_of(_header(folder)[0], folder)


def read_save(folder: Path) -> str | None:
    """Return the mark of the save that wrote `prophet.json`; None for a checkpoint of an earlier version."""
    return _header(folder)[1]


def _header(folder: Path) -> tuple[dict[str, Any], str | None]:
    """What `prophet.json` says, without the mark, and the mark."""
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file, not a checkpoint folder: convert it first with `prophet convert`")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"no Prophet checkpoint at {folder}: {CONFIG} not found; give a folder that save_pretrained wrote, "
            'or weights="bundled"'
        )
    try:
        values = read_json(folder / CONFIG, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{error}: {CONFIG} must be JSON with the keys {keys_of(ProphetConfig)}") from error
    mark = values.pop(MARK, None)
    if not isinstance(mark, str | None):
        raise CheckpointError(f"{folder / CONFIG} must have a text as {MARK}, got {shown(repr(mark))}")
    return values, mark


def _config_of(values: dict[str, Any], folder: Path) -> ProphetConfig | FullConfig:
    kinds: dict[str, type[ProphetConfig | FullConfig]] = {SmallRecipe.name: ProphetConfig, FullRecipe.name: FullConfig}
    kind = ProphetConfig
    try:
        name = values.pop(RECIPE, SmallRecipe.name)
        if not isinstance(name, str) or name not in kinds:
            raise TypeError(f"{RECIPE} must be one of {', '.join(kinds)}, got {shown(repr(name))}")
        kind = kinds[name]
        return config_of(kind, values)
    except (TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} must be JSON with the keys {keys_of(kind)}: {error}") from error


def load_part(
    kind: Any, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Load one network straight to its device: built without memory, then filled from the mapped file.

    Raises:
        CheckpointError: a file is missing, truncated, of another architecture, or has numbers that are not finite.
    """
    try:
        config = kind.load_config(folder, local_files_only=True)
        state = read_tensors(folder / SAFETENSORS_WEIGHTS_NAME)
        require_sizes(dict(config), state)
        with torch.device("meta"):
            part = kind.from_config(config)
        part = nn.Module.to(part, dtype)
        require_shapes(part.state_dict(), state)  # before there is memory for what the config asks
        part = part.to_empty(device=device)
        part.load_state_dict(state, strict=True)
    except Exception as error:  # whatever a damaged config or file makes constructors and readers raise
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
        raise CheckpointError(f"cannot load {folder}: {reason[:2000]}; fetch or save the checkpoint again") from error
    unfilled = {name for name, _ in part.named_buffers()} - set(part.state_dict())
    assert not unfilled, f"buffers that no file holds cannot be built without memory: {unfilled}"
    return part


def require_same_save(folder: Path, parts: Mapping[str, type], mark: str | None) -> None:
    """Raise CheckpointError unless all parts, which must have been read before, are of the save with this mark."""
    for name in parts:
        require_mark(folder / name / SAFETENSORS_WEIGHTS_NAME, mark, folder / CONFIG)
