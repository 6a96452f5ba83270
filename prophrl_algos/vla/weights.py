"""Weights of published checkpoints into a model, with every name accounted for."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError, MissingWeightsError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHOWN = 8


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch or save it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} must hold an object, got a {type(found).__name__}")
    return found


def read_safetensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` names; on the CPU.

    Raises:
        MissingWeightsError: there is neither, or a shard is missing.
        CheckpointError: a file is damaged, or a tensor is in another shard than the index says.
    """
    index = read_json(folder / INDEX)
    if not index:
        if not (folder / WEIGHTS).is_file():
            raise MissingWeightsError(f"{folder} holds no {WEIGHTS} and no {INDEX}")
        return _read(folder / WEIGHTS)
    places: dict[str, str] = index.get("weight_map", {})
    missing = [name for name in sorted(set(places.values())) if not (folder / name).is_file()]
    if missing or not places:
        raise MissingWeightsError(f"{folder / INDEX} names shards that are not there: {missing or 'none at all'}")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        read = _read(folder / shard)
        expected = {name for name, place in places.items() if place == shard}
        if set(read) != expected:
            raise CheckpointError(
                f"{folder / shard} does not hold what the index says: {_listed(expected ^ set(read))} differ"
            )
        state |= read
    return state


def has_weights(files: Collection[str]) -> bool:
    """Whether there is what `read_safetensors` reads."""
    return WEIGHTS in files or INDEX in files


def tensor_names(folder: Path) -> list[str]:
    """Names of the tensors that `read_safetensors` would read, without reading them; none where there is no file."""
    places = read_json(folder / INDEX).get("weight_map")
    if places:
        return sorted(places)
    if not (folder / WEIGHTS).is_file():
        return []
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return sorted(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is damaged ({error}); fetch it again") from error


def read_pt(path: Path) -> dict[str, Tensor]:
    """A state dict of a `.pt` file without the `module.` of distributed training; nothing is unpickled.

    Raises:
        CheckpointError: it is damaged, or holds more than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as plain tensors: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} must hold a state dict of tensors")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def renamed(state: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    """A state dict under other names; None drops a tensor.

    Raises:
        CheckpointError: two tensors would have one name.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = rename(name)
        if new is None:
            continue
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
    """Put a state dict into a model, in the model's precision; every name and shape must match.

    Args:
        model: to be filled.
        state: under the model's names.
        may_miss: names that may be absent, because something else says what they are (a tied head).
        may_ignore: names that may be present and are not used.
        source: named in errors.

    Raises:
        CheckpointError: names the tensors that are missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - state.keys() - set(may_miss))
    unexpected = sorted(state.keys() - wanted.keys() - set(may_ignore))
    shared = wanted.keys() & state.keys()
    wrong = [
        f"{name} ({tuple(state[name].shape)} for {tuple(wanted[name].shape)})"
        for name in sorted(shared)
        if state[name].shape != wanted[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    if any(problems.values()):
        said = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{source} does not fit a {type(model).__name__}: {said}")
    model.load_state_dict({name: state[name] for name in shared}, strict=False)


@contextmanager
def without_init() -> Iterator[None]:
    """Layers made inside it keep whatever memory holds: for models that are filled at once, entirely."""

    def keep(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        return tensor

    names = ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_",
             "xavier_normal_")  # fmt: skip
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(nn.init, name, keep))
        yield


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch it again") from error


def _listed(names: Collection[str]) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(ordered[:SHOWN]) + rest
