"""A small network on disk: a folder with the config as JSON and the weights as safetensors."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from prophet_gym.errors import CheckpointError, MissingWeightsError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
Network = TypeVar("Network", bound=nn.Module)


def save_network(directory: Path | str, network: nn.Module, config: Any) -> None:
    """Write a network and the dataclass that its constructor takes."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / WEIGHTS_NAME)


def load_network(directory: Path | str, kind: type[Network], config_kind: type, what: str) -> Network:
    """Read what `save_network` wrote.

    Args:
        directory: the folder.
        kind: of the network; its constructor takes a `config_kind`.
        config_kind: a dataclass.
        what: the network's name in messages.

    Raises:
        MissingWeightsError: a file is missing.
        CheckpointError: a file is damaged or the weights do not fit the config.
    """
    folder = Path(directory)
    if not all((folder / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME)):
        raise MissingWeightsError(f"the {what} is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}: {folder}")
    try:
        given: dict[str, Any] = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        network = kind(config_kind(**given))
        network.load_state_dict(load_file(folder / WEIGHTS_NAME))
    except (SafetensorError, RuntimeError, TypeError, AttributeError, json.JSONDecodeError) as error:
        known = ", ".join(field.name for field in fields(config_kind))
        raise CheckpointError(f"the {what} in {folder} is damaged ({error}); config keys: {known}") from error
    return network.eval()
