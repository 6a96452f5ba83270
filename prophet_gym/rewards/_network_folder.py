"""Save, load and run a small network: a folder with its config as JSON and its weights as safetensors."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym._io.atomic import atomic_directory, read_whole
from prophet_gym._io.configs import config_of, keys_of
from prophet_gym._io.files import read_json, reading
from prophet_gym._io.networks import filled
from prophet_gym._io.tensor_files import MARK, mark_of, read_tensors, require_mark, write_tensors
from prophet_gym.errors import CheckpointError, MissingWeightsError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
OLD_KEYS = {"hold": "min_consecutive"}
"""Keys of `config.json` before 0.1, which are still read, and what they are now."""
Network = TypeVar("Network", bound="FrameNetwork")


class FrameNetwork(nn.Module):
    """Read frames given an encoded instruction; the constructor takes one dataclass, the `config`."""

    config: Any
    config_kind: ClassVar[type]
    title: ClassVar[str]  # as messages call it
    frames_at_once: ClassVar[int]

    @torch.no_grad()
    def read(self, frames: UInt8[Tensor, "t h w 3"], words: Float[Tensor, "*t d"]) -> Float[Tensor, "t *_"]:
        """Return the network's output for each frame in float32 on the CPU, given the encoded instruction of each."""
        device = next(self.parameters()).device
        each = words.to(device).expand(len(frames), -1)
        parts = zip(frames.split(self.frames_at_once), each.split(self.frames_at_once), strict=True)
        return torch.cat([self(images.to(device), text).float().cpu() for images, text in parts])

    def save_pretrained(self, directory: Path | str) -> None:
        """Write config and weights into a folder, whole or not at all."""
        state, values = self.state_dict(), asdict(self.config)
        mark = mark_of(state, json.dumps(values))
        with atomic_directory(directory, last=CONFIG_NAME) as temporary:
            write_tensors(state, temporary / WEIGHTS_NAME, mark)
            text = json.dumps(values | {MARK: mark}, indent=2, allow_nan=False)
            (temporary / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls: type[Network], directory: Path | str) -> Network:
        """Read config and weights; MissingWeightsError without them, CheckpointError for damaged or unfitting ones."""
        folder = Path(directory)
        return read_whole(folder, lambda: _load(cls, folder), last=CONFIG_NAME)


def _load(kind: type[Network], folder: Path) -> Network:
    if not all((folder / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME)):
        raise MissingWeightsError(f"the {kind.title} is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}: {folder}")
    advice = f"config keys: {keys_of(kind.config_kind)}"
    with reading(f"the {kind.title} in {folder} is damaged", advice, CheckpointError):
        given = read_json(folder / CONFIG_NAME, CheckpointError)
        mark = given.pop(MARK, None)
        if not isinstance(mark, str | None):
            raise TypeError(f"{MARK} must be a text, got {type(mark).__name__}")
        given = {OLD_KEYS.get(key, key): value for key, value in given.items()}
        config = config_of(kind.config_kind, given)
        network = filled(lambda: kind(config), given, read_tensors(folder / WEIGHTS_NAME))
    require_mark(folder / WEIGHTS_NAME, mark, folder / CONFIG_NAME)
    return network.eval()
