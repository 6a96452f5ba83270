"""One network in a folder, as diffusers stores it: its config as JSON beside its weights as safetensors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.configs import misfits, require_kinds, require_sizes
from prophet_gym._io.files import reading
from prophet_gym._io.tensor_files import read_tensors, require_finite, write_tensors
from prophet_gym.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"  # diffusers.utils.SAFETENSORS_WEIGHTS_NAME


def save_network(network: Any, folder: Path) -> None:
    """Write one network as diffusers does, in its own dtype: whole or not at all."""
    with atomic_directory(folder, last="config.json") as temporary:
        network.save_config(temporary)
        write_tensors(stored(network, half=False), temporary / WEIGHTS_NAME)


def stored(network: nn.Module, *, half: bool) -> dict[str, Tensor]:
    """Return a network's state as it is stored, in float16 if `half`; CheckpointError if a number is too large."""
    state = network.state_dict()
    if not half:
        return state
    narrow = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    require_finite(state, f"the {type(network).__name__}", why="cannot be saved")
    require_finite(narrow, f"the {type(network).__name__}", why="cannot be saved as float16, give half=False")
    return narrow


def load_part(
    kind: Any, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """Load a network of `save_network` straight to its device: built without memory, then filled from the mapped file.

    `kind` is its class, one of diffusers' model mixins.
    """
    with reading(f"cannot load {folder}", "fetch or save the checkpoint again", CheckpointError):
        config = kind.load_config(folder, local_files_only=True)
        state = read_tensors(folder / WEIGHTS_NAME)
        require_kinds(kind, config)
        return filled(lambda: nn.Module.to(kind.from_config(config), dtype), config, state, device)


def fill_matching(network: nn.Module, other: nn.Module) -> int:
    """Copy every tensor of another network that has the same name and shape here, and return their number."""
    own, known = network.state_dict(), other.state_dict()
    fitting = {name: known[name] for name in own if name in known and known[name].shape == own[name].shape}
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def filled(
    make: Callable[[], Network],
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
) -> Network:
    """Return the network of a config with the weights of a file; ValueError where they do not fit."""
    require_sizes(config, state)
    # Built and compared before there is memory for what the config asks: a damaged one may ask for terabytes.
    with torch.device("meta"):
        network = make()
    if wrong := misfits(network.state_dict(), state):
        raise ValueError(wrong)
    unfilled = {name for name, _ in network.named_buffers()} - set(network.state_dict())
    assert not unfilled, f"buffers that no file holds cannot be built without memory: {unfilled}"
    network = network.to_empty(device=device)
    network.load_state_dict(state)
    return network
