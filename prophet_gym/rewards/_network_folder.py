"""Save and load a small network: a folder with its config as JSON and its weights as safetensors."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from prophet_gym._io.atomic import atomic_directory, read_whole
from prophet_gym._io.configs import config_of, keys_of, require_shapes, require_sizes
from prophet_gym._io.files import read_json
from prophet_gym._io.tensor_files import MARK, mark_of, read_tensors, require_mark, write_tensors
from prophet_gym.errors import CheckpointError, MissingWeightsError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
OLD_KEYS = {"hold": "min_consecutive"}
"""Keys of `config.json` before 0.1, which are still read, and what they are now."""
Network = TypeVar("Network", bound=nn.Module)


def save_network(directory: Path | str, network: nn.Module, config: Any) -> None:
    """Write a network and the dataclass that its constructor takes."""
    state, values = network.state_dict(), asdict(config)
    mark = mark_of(state, json.dumps(values))
    with atomic_directory(directory, last=CONFIG_NAME) as temporary:
        write_tensors(state, temporary / WEIGHTS_NAME, mark)
        text = json.dumps(values | {MARK: mark}, indent=2, allow_nan=False)
        (temporary / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def load_network(directory: Path | str, kind: type[Network], config_kind: type, what: str) -> Network:
    """Read what `save_network` wrote.

    Args:
        directory: The folder.
        kind: Class of the network; its constructor takes a `config_kind`.
        config_kind: A dataclass.
        what: Name of the network in messages.

    Raises:
        MissingWeightsError: A file is missing.
        CheckpointError: A file is damaged or the weights do not fit the config.
    """
    folder = Path(directory)
    return read_whole(folder, lambda: _load(folder, kind, config_kind, what))


def _load(folder: Path, kind: type[Network], config_kind: type, what: str) -> Network:
    if not all((folder / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME)):
        raise MissingWeightsError(f"the {what} is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}: {folder}")
    try:
        given = read_json(folder / CONFIG_NAME, CheckpointError)
        mark = given.pop(MARK, None)
        if not isinstance(mark, str | None):
            raise TypeError(f"{MARK} must be a text, got {type(mark).__name__}")
        given = {OLD_KEYS.get(key, key): value for key, value in given.items()}
        config = config_of(config_kind, given)
        state = read_tensors(folder / WEIGHTS_NAME)
        require_sizes(given, state)
        with torch.device("meta"):  # before there is memory for what the config asks
            require_shapes(kind(config).state_dict(), state)
        network = kind(config)
        network.load_state_dict(state)
    except Exception as error:  # whatever a damaged config makes constructors raise
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
        raise CheckpointError(
            f"the {what} in {folder} is damaged ({reason[:2000]}); config keys: {keys_of(config_kind)}"
        ) from error
    require_mark(folder / WEIGHTS_NAME, mark, folder / CONFIG_NAME)
    return network.eval()
