"""Check what an env shows, and convert between its images and actions and a policy's normalised numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prophet_gym._checks import require_images
from prophrl_algos.vla.conventions import Convention, Gripper


def policy_to_env(actions: Float[Tensor, "*b 7"], how: Convention) -> Float[Tensor, "*b 7"]:
    """Convert the gripper of un-normalised policy actions to the env's, open or closed."""
    is_open = _openness(actions[..., 6:], how.gripper) > 0.5
    grip = torch.where(is_open, how.env_gripper.open, how.env_gripper.closed).to(actions)
    return torch.cat([actions[..., :6], grip], -1)


def env_to_policy(actions: Float[Tensor, "*b 7"], how: Convention) -> Float[Tensor, "*b 7"]:
    """Convert the gripper of demonstrated env actions to what the policy says, un-normalised."""
    openness, wanted = _openness(actions[..., 6:], how.env_gripper), how.gripper
    return torch.cat([actions[..., :6], wanted.closed + openness * (wanted.open - wanted.closed)], -1)


class Affine(NamedTuple):
    """Hold a scale: `normalised = (value - offset) / scale`."""

    offset: Float[Tensor, " a"]
    scale: Float[Tensor, " a"]

    def normalise(self, values: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """Return numbers in physical units as a policy reads or says them."""
        return (values - self.offset.to(values)) / self.scale.to(values)

    def undo(self, values: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """Return normalised numbers in physical units again."""
        return values * self.scale.to(values) + self.offset.to(values)


STATISTICS: Mapping[str, tuple[str, ...]] = {"QUANTILES": ("q01", "q99"), "MEAN_STD": ("mean", "std")}
"""The statistics that each way of scaling is made of."""


def affine(
    scaling: str, statistics: Mapping[str, Tensor], *, eps: float, mask: Bool[Tensor, " a"] | None = None
) -> Affine:
    """Make a scale from the statistics of a data set; numbers where `mask` is False stay as they are.

    `QUANTILES` maps q01..q99 to -1..1, `MEAN_STD` takes out mean and deviation; `eps` is added to span or deviation.
    """
    first, second = (statistics[name].float() for name in STATISTICS[scaling])
    if scaling == "MEAN_STD":
        offset, scale = first, second + eps
    else:
        scale = (second - first + eps) / 2
        offset = first + scale
    if mask is not None:
        offset, scale = torch.where(mask, offset, 0.0), torch.where(mask, scale, 1.0)
    return Affine(offset, scale)


def _openness(values: Tensor, gripper: Gripper) -> Tensor:
    """Return numbers from 0 (closed) to 1 (open), whatever the signs."""
    return (values - gripper.closed) / (gripper.open - gripper.closed)


def shown_images(env_obs: Mapping[str, Any], view: str, rows: int) -> UInt8[Tensor, "b h w 3"]:
    """Return the images of a view (arrays, or tensors on any device) as a tensor on the CPU, one per instruction."""
    if view not in env_obs:
        raise ValueError(f"an observation must have {view!r}, got {sorted(env_obs)}")
    name = f"observation[{view!r}]"
    images = require_images(name, as_array(env_obs[view]))
    if images.ndim != 4 or len(images) != rows:
        raise ValueError(f"{name} must hold one image for each of {rows} instructions, got {images.shape}")
    return torch.from_numpy(np.ascontiguousarray(images))


def as_array(value: Any) -> np.ndarray:
    """Return an array, or a tensor on any device, as an array."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
