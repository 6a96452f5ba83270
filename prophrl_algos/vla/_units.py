"""Check what an env shows, and convert between its images and actions and a policy's normalised numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.spatial.transform import Rotation
from torch import Tensor

from prophet_gym._checks import require_images
from prophrl_algos.vla.conventions import Convention, Gripper, ImageLayout, RotationKind, Scaling


def policy_image(frames: UInt8[Tensor, "*b h w 3"], how: ImageLayout) -> UInt8[Tensor, "*b h w 3"]:
    """Return upright images of an env as the policy was trained on them."""
    axes = {"as is": (), "mirrored": (-2,), "rotated": (-3, -2)}[how]
    return frames.flip(axes) if axes else frames


def policy_to_env(actions: Float[Tensor, "*b 7"], how: Convention) -> Float[Tensor, "*b 7"]:
    """Convert rotation and gripper of un-normalised policy actions to those of the env."""
    turn = _rotation(actions[..., 3:6], how.rotation, how.env_rotation)
    grip = _gripper(actions[..., 6:], how.gripper, how.env_gripper, binary=how.binary)
    return torch.cat([actions[..., :3], turn, grip], -1)


def env_to_policy(actions: Float[Tensor, "*b 7"], how: Convention) -> Float[Tensor, "*b 7"]:
    """Convert rotation and gripper of demonstrated env actions to what the policy says, un-normalised."""
    turn = _rotation(actions[..., 3:6], how.env_rotation, how.rotation)
    grip = _gripper(actions[..., 6:], how.env_gripper, how.gripper, binary=False)
    return torch.cat([actions[..., :3], turn, grip], -1)


class Affine(NamedTuple):
    """Hold a scale: `normalised = (value - offset) / scale`."""

    offset: Float[Tensor, " a"]
    scale: Float[Tensor, " a"]


STATISTICS: Mapping[Scaling, tuple[str, ...]] = {
    "quantile": ("q01", "q99"),
    "mean std": ("mean", "std"),
    "min max": ("min", "max"),
    "identity": (),
}
"""The statistics that each way of scaling is made of."""


def affine(
    scaling: Scaling, statistics: Mapping[str, Tensor], *, eps: float, mask: Bool[Tensor, " a"] | None = None
) -> Affine:
    """Make a scale from the statistics of a data set; numbers where `mask` is False stay as they are.

    `quantile` maps q01..q99 to -1..1, `min max` the extremes; `mean std` takes out mean and deviation. `eps` is added
    to the span or deviation. For the identity any one statistic will do.
    """
    names = STATISTICS[scaling]
    if any(name not in statistics for name in names):
        raise ValueError(f"{scaling!r} scaling needs {' and '.join(names)}, the statistics have {sorted(statistics)}")
    if scaling == "identity":
        like = next(iter(statistics.values())).float()
        return Affine(torch.zeros_like(like), torch.ones_like(like))
    first, second = (statistics[name].float() for name in names)
    if scaling == "mean std":
        offset, scale = first, second + eps
    else:
        scale = (second - first + eps) / 2
        offset = first + scale
    if mask is not None:
        offset, scale = torch.where(mask, offset, 0.0), torch.where(mask, scale, 1.0)
    return Affine(offset, scale)


def normalise(values: Float[Tensor, "*b a"], by: Affine) -> Float[Tensor, "*b a"]:
    """Return numbers in physical units as a policy reads or says them."""
    return (values - by.offset.to(values)) / by.scale.to(values)


def unnormalise(values: Float[Tensor, "*b a"], by: Affine) -> Float[Tensor, "*b a"]:
    """Return normalised numbers in physical units again."""
    return values * by.scale.to(values) + by.offset.to(values)


def _gripper(values: Tensor, given: Gripper, wanted: Gripper, *, binary: bool) -> Tensor:
    # From 0 (closed) to 1 (open), whatever the signs.
    openness = (values - given.closed) / (given.open - given.closed)
    if binary:
        openness = (openness > 0.5).to(values.dtype)
    return wanted.closed + openness * (wanted.open - wanted.closed)


def _rotation(angles: Tensor, given: RotationKind, wanted: RotationKind) -> Tensor:
    """Convert rotations; Euler angles are about fixed axes (R = Rz Ry Rx)."""
    if given == wanted:
        return angles
    # In float64: two conversions must lead back to the action that was demonstrated.
    flat = angles.detach().reshape(-1, 3).double().cpu().numpy()
    if given == "euler xyz":
        found = Rotation.from_euler("xyz", flat).as_rotvec()
    else:
        found = Rotation.from_rotvec(flat).as_euler("xyz")
    return torch.from_numpy(found).to(angles).view(angles.shape)


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
            f"this policy reads {numbers} numbers of the robot's state, the observation has {sorted(env_obs)}: take "
            "an env that gives 'state', or load it with LoadOptions(without_state='mean')"
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
