"""A checkpoint's folder: `prophet.json` and one diffusers folder per network, written whole or not at all."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import config_of, keys_of, require_kinds, require_shapes, require_sizes
from prophet_gym._io.header import CLASS, CONFIG, read_header, write_header
from prophet_gym._io.tensor_files import (
    mark_of,
    read_tensors,
    require_finite,
    require_mark,
    write_tensors,
)
from prophet_gym.errors import CheckpointError, shown
from prophet_gym.prophet._diffusers import SAFETENSORS_WEIGHTS_NAME, ModelMixin
from prophet_gym.prophet.full import FullConfig, FullRecipe
from prophet_gym.prophet.recipe import Recipe
from prophet_gym.prophet.small import ProphetConfig, SmallRecipe


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
    marks = {name: mark_of(state, part.to_json_string()) for name, (state, part) in parts.items()}
    for name, (state, part) in parts.items():
        part.save_config(folder / name)
        write_tensors(state, folder / name / SAFETENSORS_WEIGHTS_NAME, marks[name])
    write_config(config, folder, marks)


def save_network(part: ModelMixin, folder: Path) -> None:
    """Write one network as diffusers does, in its own dtype: whole or not at all."""
    with atomic_directory(folder, last="config.json") as temporary:
        part.save_config(temporary)
        write_tensors(stored(part, half=False), temporary / SAFETENSORS_WEIGHTS_NAME)


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


def write_config(config: ProphetConfig | FullConfig, folder: Path, marks: Mapping[str, str] | None = None) -> None:
    """Write `prophet.json`, with the mark of each part that belongs to it."""
    name = "FullProphet" if isinstance(config, FullConfig) else "SmallProphet"
    write_header(folder, name, asdict(config), marks or {})


def read_config(folder: Path) -> ProphetConfig | FullConfig:
    """Read the config of `prophet.json`.

    Raises:
        CheckpointError: it is missing, no JSON, or has other keys.
    """
    header = read_header(folder)
    kinds: dict[str, type[ProphetConfig | FullConfig]] = {"SmallProphet": ProphetConfig, "FullProphet": FullConfig}
    kind = kinds.get(header.class_name, ProphetConfig)
    try:
        if header.class_name not in kinds:
            raise TypeError(f"{CLASS} must be one of {', '.join(kinds)}, got {shown(repr(header.class_name))}")
        return config_of(kind, header.config)
    except (TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} must be JSON with the keys {keys_of(kind)}: {error}") from error


def load_part(
    kind: Any, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """Load one network straight to its device: built without memory, then filled from the mapped file.

    Raises:
        CheckpointError: a file is missing, truncated, of another architecture, or has numbers that are not finite.
    """
    try:
        config = kind.load_config(folder, local_files_only=True)
        state = read_tensors(folder / SAFETENSORS_WEIGHTS_NAME)
        require_kinds(kind, config)
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


def require_same_save(folder: Path, parts: Mapping[str, type], marks: Mapping[str, str] | None) -> None:
    """Raise CheckpointError unless all parts, which must have been read before, are those with these marks."""
    for name in parts:
        require_mark(folder / name / SAFETENSORS_WEIGHTS_NAME, (marks or {}).get(name), folder / CONFIG)
