"""Folders that prophrl saves policies in: written whole or not at all, and never read half old and half new."""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from prophet_gym._tensor_files import MARK, read_mark, require_finite
from prophet_gym.errors import CheckpointError
from prophrl_algos.vla.weights import read_safetensors, weight_files

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
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-saving-") as name:
        draft = Path(name)
        yield draft
        save_torch_state_dict(dict(state), draft, metadata={"format": "pt", MARK: mark})
        (draft / CONFIG).write_text(text, encoding="utf-8")
        _flush(draft)
        folder.mkdir(exist_ok=True)
        # The config comes last: until then there is no policy, rather than one of two saves.
        (folder / CONFIG).unlink(missing_ok=True)
        for old in (*folder.glob("model*.safetensors"), *folder.glob("model*.safetensors.index.json")):
            old.unlink()
        for path in sorted(draft.iterdir(), key=lambda path: path.name == CONFIG):
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            path.replace(folder / path.name)


def read_saved(folder: Path, said: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a folder whose config was read; CheckpointError if they are of another save."""
    others = [path.name for path in weight_files(folder) if MARK in said and read_mark(path) != said[MARK]]
    if others:
        raise CheckpointError(
            f"{folder} holds {', '.join(others)} of another save than its {CONFIG}: is it being "
            "written? Load it again, or save it again"
        )
    return read_safetensors(folder)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
