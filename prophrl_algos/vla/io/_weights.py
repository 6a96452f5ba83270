"""Read weights into a model, with every name accounted for, and save policies whole or not at all."""

import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import patch

from safetensors import safe_open
from torch import Tensor, nn

from prophet_gym._checks import listed
from prophet_gym._io import files as text_files
from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import misfits
from prophet_gym._io.tensor_files import MARK, read_mark, read_tensors, require_finite, unwrapped
from prophet_gym.errors import CheckpointError, MissingWeightsError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Renames = tuple[tuple[str, str], ...]
"""Patterns of names in published files, and what takes their place in ours."""
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
# The largest values in any known network, with much room. Steps of a training, such as lerobot's
# `scheduler_decay_steps`, stand in the same configs and are no size.
_SIZES = (
    (r"(layers|depth|(num|inference|exec|action|obs)_steps|heads|draws|registers)$", 2**12),
    (r"(size|dim|width|hidden|horizon|columns|tokens|grid|projection_dim|rank)$", 2**20),
)
_REMEDIES = (
    (r"(.*/)?model-\d+-of-\d+\.safetensors", f"shards without their {INDEX}: fetch it too"),
    (r"(.*/)?adapter_model\.\w+", "adapters without the weights that they adapt: merge them into these first "
     "(peft's merge_and_unload, or OpenVLA-OFT's vla-scripts/merge_lora_weights_and_save.py)"),
    (r"(.*/)?[\w-]+\.(fp16|bf16|fp32|non_ema|ema)\.safetensors", f"weights of one variant: rename it to {WEIGHTS}"),
    (r"(.*/)?[\w-]+\.safetensors", f"weights under another name: if they are the policy's, rename it to {WEIGHTS}"),
    (r"(.*/)?[\w.-]+\.(bin|pt|pth|ckpt)", f"weights of torch.save: write them again as {WEIGHTS}, "
     "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"),
)  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where there is no such file; CheckpointError if it is damaged or an LFS pointer."""
    return text_files.read_json(path, CheckpointError) if path.is_file() else {}


def require_sizes(config: object, source: Path, *path: str) -> None:
    """Refuse a network that is too large to make: a number of layers, steps, heads or a width that is out of range."""
    if isinstance(config, Mapping | list):
        for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
            require_sizes(value, source, *path, str(key))
    elif isinstance(config, int | float) and path:
        most = next((most for pattern, most in _SIZES if re.search(pattern, path[-1])), None)
        # Published configs use -1 and 0 for "all" or "none" of something, but there is at least one head.
        least = 1 if path[-1].endswith("heads") else -1
        if most is not None and not least <= config <= most:
            raise CheckpointError(f"{source}: {'.'.join(path)} must be from {least} to {most}, got {config!r}")


def read_safetensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of `model.safetensors`, or of the shards that its index names, on the CPU."""
    state: dict[str, Tensor] = {}
    for path, expected in weight_files(folder).items():
        read = read_tensors(path)
        if expected is not None and set(read) != expected:
            wrong = sorted(expected ^ set(read))
            raise CheckpointError(f"{path} does not hold what the index says: {listed(wrong)} differ")
        state |= read
    return unwrapped(state)


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """Return the files with a folder's weights, and for each shard the names that the index says it holds."""
    whole = folder / WEIGHTS
    shards = sorted(path.name for path in folder.glob("*.safetensors") if _SHARD.fullmatch(path.name))
    index = read_json(folder / INDEX)
    if whole.is_file():
        if index or shards:
            others = INDEX if index else listed(shards)
            raise CheckpointError(
                f"{folder} holds {WEIGHTS} and also {others}: one of them is of an earlier save; delete that one"
            )
        return {whole: None}
    if not index:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        raise MissingWeightsError(f"{folder} holds no {WEIGHTS} and no {INDEX}{instead(names)}")
    places = index.get("weight_map")
    # A path to elsewhere would let a checkpoint read any file of this machine.
    if not isinstance(places, dict) or not all(
        isinstance(each, str) and PurePosixPath(each).name == each for each in places.values()
    ):
        raise CheckpointError(f"{folder / INDEX} must have a weight_map of tensors to files in the same folder")
    files = sorted(set(places.values()))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing or not places:
        raise MissingWeightsError(
            f"{folder / INDEX} names shards that are not there: {listed(missing) or 'none'}; fetch them"
        )
    return {folder / file: {name for name, place in places.items() if place == file} for file in files}


def has_weights(folder: Path) -> bool:
    """Return whether a folder has what `read_safetensors` reads."""
    return (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()


def instead(files: Collection[str]) -> str:
    """Return the end of an error message: the weights under other names, and the remedy."""
    found: dict[str, list[str]] = {}
    for name in sorted(files):
        if remedy := next((remedy for pattern, remedy in _REMEDIES if re.fullmatch(pattern, name)), None):
            found.setdefault(remedy, []).append(name)
    if found:
        return "; it holds " + "; and ".join(f"{listed(names)}, {remedy}" for remedy, names in found.items())
    return f"; it holds {listed(sorted(files))} alone: fetch the weights too (hf download)" if files else ""


def tensor_names(folder: Path) -> set[str]:
    """Return the names of the tensors that `read_safetensors` reads, from the headers alone."""
    found: list[str] = []
    for path in weight_files(folder) if has_weights(folder) else ():
        text_files.refuse_pointer(path, CheckpointError)
        with text_files.reading(f"{path} is damaged", "fetch it again", CheckpointError), safe_open(path, "pt") as file:
            found += file.keys()
    return set(unwrapped(dict.fromkeys(found, True)))


def renamed(state: Mapping[str, Tensor], changes: Renames) -> dict[str, Tensor]:
    """Return a state dict in whose names every pattern is replaced, in the order of `changes`."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = reduce(lambda own, change: re.sub(*change, own), changes, name)
        if new in found:
            raise CheckpointError(f"two tensors of the checkpoint would be called {new}, one of them is {name}")
        found[new] = tensor
    return found


def load_strictly(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    may_miss: Collection[str] = (),
    may_ignore: Collection[str] = (),
    source: object = "the checkpoint",
) -> None:
    """Load a state dict in the model's precision; every name must match that is not let pass."""
    own = model.state_dict()
    wanted = {name: own[name] for name in own if name in state or name not in may_miss}
    given = {name: state[name] for name in state if name in own or name not in may_ignore}
    if wrong := misfits(wanted, given):
        remedy = _remedy(wanted.keys() - given.keys(), given.keys() - wanted.keys())
        raise CheckpointError(f"{source} does not fit a {type(model).__name__}: {wrong}{remedy}")
    model.load_state_dict({name: given[name] for name in wanted}, strict=False)


@contextmanager
def without_init() -> Iterator[None]:
    """Make layers without drawing their weights, for models that are filled at once and entirely."""
    # Drawing billions of numbers that are overwritten takes minutes.
    drawing = "normal_ uniform_ trunc_normal_ kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_"
    kept: Any = dict.fromkeys(drawing.split(), lambda tensor, *_, **__: tensor)
    with patch.multiple(nn.init, **kept):
        yield


@contextmanager
def saving(folder: Path, said: Mapping[str, Any], state: Mapping[str, Tensor]) -> Iterator[Path]:
    """Yield an empty folder for further files; at its end all of them, config and weights replace those of `folder`.

    Files of other names in it stay; after any error the folder is as it was.
    """
    from huggingface_hub import save_torch_state_dict

    require_finite(state, folder, why="cannot be written")
    # The files are renamed one by one: a reader in between sees that their marks differ.
    mark = uuid.uuid4().hex
    text = json.dumps({**said, MARK: mark}, indent=2, allow_nan=False) + "\n"
    with atomic_directory(folder, last=CONFIG) as new:
        yield new
        save_torch_state_dict(dict(state), new, metadata={"format": "pt", MARK: mark})
        (new / CONFIG).write_text(text, encoding="utf-8")
        written = {path.name for path in new.iterdir()}
    for old in (*folder.glob("model*.safetensors"), *folder.glob("model*.safetensors.index.json")):
        if old.name not in written:  # an earlier save had another number of shards
            old.unlink()


def read_saved(folder: Path, said: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights that belong to a folder's config; CheckpointError if they are of another save."""
    others = [path.name for path in weight_files(folder) if MARK in said and read_mark(path) != said[MARK]]
    if others:
        raise CheckpointError(f"{folder} holds {', '.join(others)} of another save than its {CONFIG}: save it again")
    return read_safetensors(folder)


def _remedy(missing: set[str], unexpected: Collection[str]) -> str:
    """Return what to do where names would fit without a common prefix."""
    ends = ((name, dot.end()) for name in unexpected for dot in re.finditer(r"\.", name))
    prefix = min((name[:end] for name, end in ends if name[end:] in missing), key=len, default="")
    return prefix and (
        f"; names that begin with {prefix!r} would fit without it: save {{name.removeprefix({prefix!r}): tensor "
        f"for name, tensor in state.items() if name.startswith({prefix!r})}} and load that"
    )
