"""Checkpoints that are whole or not there, and that a killed run goes on from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prophet_gym._io.tensor_files import read_torch, require_finite, write_torch
from prophet_gym.errors import CheckpointError

FORMAT = "prophrl-trainer-1"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data as a file that is never half there: written beside it, flushed, then renamed."""
    write_torch({"format": FORMAT, **state}, path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: the file is damaged, of another program, or its policy has numbers that are not finite.
    """
    try:
        state = read_torch(path, device)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete it to start again") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of the trainer: it must have format {FORMAT!r}")
    weights = state.get("trainer", state).get("policy")
    if isinstance(weights, dict):
        require_finite(weights, path)
    return state
