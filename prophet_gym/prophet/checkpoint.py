"""A checkpoint's folder: `prophet.json` and one diffusers folder per network, written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn

from prophet_gym._tensor_files import read_tensors, write_tensors
from prophet_gym.errors import CheckpointError
from prophet_gym.hub import CONFIG
from prophet_gym.prophet.full import FullConfig, FullRecipe
from prophet_gym.prophet.recipe import Recipe
from prophet_gym.prophet.small import ProphetConfig, SmallRecipe

RECIPE = "recipe"
"""Key of `prophet.json` that names the recipe; a checkpoint without it is a small one."""


def recipe_of(config: ProphetConfig | FullConfig) -> Recipe:
    """Return the recipe that reads this config."""
    return FullRecipe(config) if isinstance(config, FullConfig) else SmallRecipe(config)


def write_config(config: ProphetConfig | FullConfig, folder: Path) -> None:
    """Write `prophet.json`."""
    header = {RECIPE: FullRecipe.name} if isinstance(config, FullConfig) else {}
    (folder / CONFIG).write_text(json.dumps(header | asdict(config), indent=2) + "\n", encoding="utf-8")


def read_config(folder: Path) -> ProphetConfig | FullConfig:
    """Read `prophet.json`.

    Raises:
        CheckpointError: it is missing, no JSON, or has other keys.
    """
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file, not a checkpoint folder: convert it first with `prophet convert`")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"no Prophet checkpoint at {folder}: {CONFIG} not found; give a folder that save_pretrained wrote, "
            'or weights="bundled"'
        )
    kinds: dict[str, type[ProphetConfig | FullConfig]] = {SmallRecipe.name: ProphetConfig, FullRecipe.name: FullConfig}
    kind = ProphetConfig
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name = values.pop(RECIPE, SmallRecipe.name)
        if name not in kinds:
            raise TypeError(f"{RECIPE} must be one of {', '.join(kinds)}, got {name!r}")
        kind = kinds[name]
        frozen = {key: _frozen(value) for key, value in values.items()}
        hints = get_type_hints(kind)
        problems = [f"{key} is unknown" for key in sorted(frozen.keys() - hints.keys())]
        problems += [
            f"{key}={value!r} is of another kind than its default"
            for key, value in frozen.items()
            if key in hints and not _is_of(value, hints[key])
        ]
        if problems:
            raise TypeError("; ".join(problems))
        return kind(**frozen)
    except (TypeError, AttributeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(kind))
        raise CheckpointError(f"{folder / CONFIG} must be JSON with the keys {known}: {error}") from error


def save_part(part: ModelMixin, folder: Path, *, half: bool) -> None:
    """Write one network as diffusers does: `config.json` and `diffusion_pytorch_model.safetensors`."""
    part.save_config(folder)
    state = {k: (v.half() if half and v.is_floating_point() else v).contiguous() for k, v in part.state_dict().items()}
    save_tensors(state, folder)


def save_tensors(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors under the name that diffusers loads."""
    write_tensors(state, folder / SAFETENSORS_WEIGHTS_NAME)


def load_part(kind: Any, folder: Path, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Load one network straight to its device: built without memory, then filled from the mapped file.

    Raises:
        CheckpointError: a file is missing, truncated or of another architecture.
    """
    try:
        config = kind.load_config(folder, local_files_only=True)
        with torch.device("meta"):
            part = kind.from_config(config)
        part = nn.Module.to(part, dtype).to_empty(device=device)
        part.load_state_dict(read_tensors(folder / SAFETENSORS_WEIGHTS_NAME), strict=True)
    except Exception as error:  # whatever a damaged config or file makes constructors and readers raise
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
        raise CheckpointError(f"cannot load {folder}: {reason[:2000]}; fetch or save the checkpoint again") from error
    unfilled = {name for name, _ in part.named_buffers()} - set(part.state_dict())
    assert not unfilled, f"buffers that no file holds cannot be built without memory: {unfilled}"
    return part


@contextmanager
def drafted(folder: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder whose content replaces that of `folder` at the end; after an error nothing has changed.

    Files of other names in `folder` stay. `prophet.json` comes last, so that a checkpoint is there whole or not at all.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-saving-") as name:
        draft = Path(name)
        yield draft
        folder.mkdir(exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        for path in sorted(draft.iterdir(), key=lambda path: path.name == CONFIG):
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            path.replace(folder / path.name)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is what a field is annotated as: bool, int, float, str, None or tuples of these."""
    inner = get_args(hint)
    if isinstance(hint, UnionType):
        return any(_is_of(value, kind) for kind in inner)
    if not inner:
        return type(value) is hint or (hint is float and type(value) is int)
    if not isinstance(value, tuple):
        return False
    if inner[-1] is Ellipsis:
        return all(_is_of(entry, inner[0]) for entry in value)
    return len(value) == len(inner) and all(map(_is_of, value, inner))


def _frozen(value: Any) -> Any:
    """Lists to tuples, as the frozen config holds them."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
