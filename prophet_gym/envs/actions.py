"""What an action must be, checked before anything changes."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prophet_gym.errors import InvalidActionError

ROUNDING = 1e-6
"""How far past a bound an action may lie, in parts of the larger bound, to be clipped: a few steps of float32, as
wrappers that rescale actions leave behind."""


def require_actions(actions: object, space: gym.Space) -> np.ndarray:
    """Return the actions as a float32 array of their own, within the space, a Box.

    Raises:
        InvalidActionError: If they are no real numbers, if the shape is not the space's, or if a number is not finite
            or out of bounds by more than rounding.
    """
    assert isinstance(space, gym.spaces.Box)
    array = _numbers(actions, space)
    if array.shape != space.shape:
        raise InvalidActionError(f"actions must have shape {space.shape}, got {array.shape}")
    if not np.isfinite(array).all():
        where = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise InvalidActionError(f"actions must be finite, got {array[where]} at {list(where)}")
    slack = ROUNDING * np.maximum(np.abs(space.low), np.abs(space.high))
    outside = (array < space.low - slack) | (array > space.high + slack)
    if outside.any():
        where = tuple(np.argwhere(outside)[0].tolist())
        low, high, value = _apart(float(space.low[where]), float(space.high[where]), float(array[where]))
        given = f"{value} at {list(where)}"
        raise InvalidActionError(
            f"actions must lie within [{low}, {high}], got {given}; clip them to the action space first"
        )
    return np.clip(array, space.low, space.high).astype(np.float32)


def _apart(low: float, high: float, value: float) -> tuple[str, str, str]:
    """Write the three with as many digits as tell the value from the bounds."""
    for digits in (6, 9, 17):
        texts = (f"{low:.{digits}g}", f"{high:.{digits}g}", f"{value:.{digits}g}")
        if texts[2] not in texts[:2]:
            break
    return texts


def _numbers(actions: object, space: gym.spaces.Box) -> np.ndarray:
    """Return the actions as an array of real numbers, in float64 so that nothing is lost before it is checked."""
    try:
        array = np.asarray(_tensor_numbers(actions) if isinstance(actions, Tensor) else actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidActionError(f"actions must be numbers of shape {space.shape}, got {_kind(actions)}") from error
    if array.dtype.kind not in "fiu" or _is_masked(actions):
        raise InvalidActionError(f"actions must be real numbers of shape {space.shape}, got {_kind(actions, array)}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return array.astype(np.float64)


def _tensor_numbers(actions: Tensor) -> Any:
    odd = actions.is_complex() or actions.is_quantized or actions.is_meta or actions.dtype == torch.bool
    if odd or actions.layout != torch.strided or actions.is_nested:
        return None
    return actions.detach().cpu().double().numpy()


def _is_masked(actions: object) -> bool:
    parts = actions if isinstance(actions, list | tuple) else [actions]
    return any(isinstance(part, np.ma.MaskedArray) for part in parts)


def _kind(actions: object, array: np.ndarray | None = None) -> str:
    """Say in words what was given."""
    if isinstance(actions, Tensor):
        device = "meta tensor" if actions.is_meta else "tensor"
        return f"a {device} of {actions.dtype}"
    if array is None or array.dtype == object:
        return f"{type(actions)}"
    return f"{'a masked array' if _is_masked(actions) else 'an array'} of {array.dtype}"
