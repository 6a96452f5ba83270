"""Check what an environment shows before a policy reads it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._checks import require_images


def shown_images(env_obs: Mapping[str, Any], view: str, rows: int) -> UInt8[Tensor, "b h w 3"]:
    """Return the images of a view (arrays, or tensors on any device) as a tensor on the CPU, one per instruction."""
    if view not in env_obs:
        raise ValueError(f"an observation must have {view!r}, got {sorted(env_obs)}")
    name = f"observation[{view!r}]"
    images = require_images(name, _array(env_obs[view]))
    if images.ndim != 4 or len(images) != rows:
        raise ValueError(f"{name} must hold one image for each of {rows} instructions, got {images.shape}")
    return torch.from_numpy(np.ascontiguousarray(images))


def shown_state(env_obs: Mapping[str, Any], rows: int, numbers: int, without: str) -> Float[Tensor, "b s"] | None:
    """Return the robot's state on the CPU, or None where there is none and `LoadOptions.without_state` accepts that."""
    if "state" not in env_obs:
        if without == "mean":
            return None
        raise ValueError(
            f"this policy reads the robot's state ({numbers} numbers), and the observation has none, only "
            f"{sorted(env_obs)}: load it with LoadOptions(without_state='mean') to act on images alone, or take "
            "an env that gives 'state'"
        )
    given = _array(env_obs["state"])
    if given.dtype.kind not in "fiub" or given.shape != (rows, numbers):
        raise ValueError(f"observation['state'] must be ({rows}, {numbers}) numbers, got {given.dtype} {given.shape}")
    if not np.isfinite(given).all():
        row, number = np.argwhere(~np.isfinite(given))[0]
        raise ValueError(
            f"observation['state'] must be finite, number {number} of batch element {row} is {given[row, number]}"
        )
    return torch.from_numpy(np.ascontiguousarray(given)).float()


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
