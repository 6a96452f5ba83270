"""Folders that prophrl saves policies in: written whole or not at all, and never read half old and half new."""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.tensor_files import MARK, read_mark, require_finite
from prophet_gym.errors import CheckpointError
from prophrl_algos.vla.io._weights import read_safetensors, weight_files

CONFIG = "config.json"


@contextmanager
def saving(folder: Path, said: Mapping[str, Any], state: Mapping[str, Tensor]) -> Iterator[Path]:
    """Yield an empty folder for further files; at its end config and weights are in `folder` in place of earlier ones.

    Args:
        folder: of the policy; files of other names in it stay.
        said: what `config.json` is to say; plain data.
        state: the weights.

    Raises:
        CheckpointError: a weight is not finite; the folder is as it was, as after every other error.
    """
    from huggingface_hub import save_torch_state_dict

    require_finite(state, folder, why="cannot be written")
    mark = uuid.uuid4().hex
    text = json.dumps({**said, MARK: mark}, indent=2, allow_nan=False) + "\n"
    with atomic_directory(folder, last=CONFIG) as temporary:
        yield temporary
        save_torch_state_dict(dict(state), temporary, metadata={"format": "pt", MARK: mark})
        (temporary / CONFIG).write_text(text, encoding="utf-8")
        written = {path.name for path in temporary.iterdir()}
    for old in (*folder.glob("model*.safetensors"), *folder.glob("model*.safetensors.index.json")):
        if old.name not in written:  # an earlier save had fewer shards, or more
            old.unlink()


def read_saved(folder: Path, said: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a folder whose config was read; CheckpointError if they are of another save."""
    others = [path.name for path in weight_files(folder) if MARK in said and read_mark(path) != said[MARK]]
    if others:
        raise CheckpointError(
            f"{folder} holds {', '.join(others)} of another save than its {CONFIG}: is it being "
            "written? Load it again, or save it again"
        )
    return read_safetensors(folder)
