"""Checkpoints that are whole or not there, and from which a killed run is resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prophet_gym._io.tensor_files import read_torch, require_finite, write_torch
from prophet_gym.errors import CheckpointError

_FORMAT = "prophrl-trainer-2"
_OLDER = ("prophrl-trainer-1",)
"""Formats whose weights are still read, but whose runs cannot be resumed: they kept other settings."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data as a file that is never half there: written beside it, flushed, then renamed."""
    write_torch({"format": _FORMAT, **state}, path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu", *, resume: bool = False) -> dict[str, Any]:
    """Read a checkpoint, of this version if a run is to be resumed from it; nothing in it is executed."""
    try:
        state = read_torch(path, device)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete it to start again") from error
    if not isinstance(state, dict) or state.get("format") not in (_FORMAT, *_OLDER):
        raise CheckpointError(f"{path} is no checkpoint of the trainer: it must have format {_FORMAT!r}")
    if resume and state["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} was written by an earlier version, and its run cannot be resumed: start in another folder; "
            "its weights can be read as before"
        )
    weights = state.get("trainer", state).get("policy")
    if isinstance(weights, dict):
        require_finite(weights, path)
    return state
