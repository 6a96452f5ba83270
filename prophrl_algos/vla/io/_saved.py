"""Save policies whole or not at all, and never read a folder that is half old and half new."""

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


def own_type(family: str) -> str:
    """Return the `model_type` of the policies that prophrl saves of a family."""
    return f"prophrl-{family}"


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


@contextmanager
def as_saved(folder: Path) -> Iterator[None]:
    """Turn the errors of reading a damaged config into CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not what was saved: {type(error).__name__} {error}") from error


@contextmanager
def constructing(what: str, folder: Path) -> Iterator[None]:
    """Turn whatever a damaged config makes the constructors of other libraries raise into CheckpointError."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise CheckpointError(f"{folder / CONFIG} describes no {what}: {reason}") from error
