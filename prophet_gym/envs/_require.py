"""What an action must be, checked before anything changes."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prophet_gym.errors import InvalidActionError, InvalidRewardError, require_count
from prophet_gym.world_model import Chunk, RewardModel, RewardOutput, WorldModel, require_when

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


def require_world_model(model: object) -> WorldModel:
    """Return the model; ValueError unless it has what `WorldModel` asks for."""
    missing = [name for name in ("chunk", "frame_size", "action_dim", "encode", "rollout") if not hasattr(model, name)]
    if missing or isinstance(model, type):
        raise ValueError(
            f"world_model must be a WorldModel, and {_named(model)} has no {', '.join(missing) or 'instance'}: a name "
            "goes to gym.make(id, weights=...), or to prophet_gym.checkpoint.Checkpoint.named(...).world_model()"
        )
    require_count("chunk of the world model", getattr(model, "chunk"))  # noqa: B009 the protocol is not known yet
    require_count("action_dim of the world model", getattr(model, "action_dim"))  # noqa: B009
    size = getattr(model, "frame_size")  # noqa: B009
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"frame_size of the world model must be (height, width), got {size!r}")
    for side in size:
        require_count("a side in frame_size of the world model", side)
    return model  # pyright: ignore[reportReturnType]


def require_reward_model(model: object) -> RewardModel | None:
    """Return the model, None where there is none; ValueError unless it has what `RewardModel` asks for."""
    if model is None:
        return None
    missing = [name for name in ("when", "stride", "max_frames", "score") if not hasattr(model, name)]
    if missing or isinstance(model, type):
        advice = "a name goes to gym.make(id, reward=...), or to prophet_gym.rewards.make_reward_model, which loads it"
        if callable(model) and not isinstance(model, type):
            advice = "wrap a function in prophet_gym.rewards.FunctionReward"
        lacking = ", ".join(missing) or "instance"
        raise ValueError(f"reward_model must be a RewardModel, and {_named(model)} has no {lacking}: {advice}")
    require_when(getattr(model, "when"))  # noqa: B009
    require_count("stride of the reward model", getattr(model, "stride"))  # noqa: B009
    require_count("max_frames of the reward model", getattr(model, "max_frames"))  # noqa: B009
    return model  # pyright: ignore[reportReturnType]


def require_chunk(chunk: Chunk, model: WorldModel, rows: int) -> Chunk:
    """Return the chunk; ValueError unless its frames are those of so many sub-environments."""
    wanted = (rows, model.chunk, *model.frame_size, 3)
    frames = chunk.frames
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or tuple(frames.shape) != wanted:
        given = f"{frames.dtype} {tuple(frames.shape)}" if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"{_named(model)} must return frames uint8 {wanted}, got {given}; see check_world_model")
    return chunk


def read_rewards(model: RewardModel, output: object, rows: Sequence[int]) -> dict[int, tuple[float, bool, bool]]:
    """Return reward, validity and success of each scored sub-environment.

    Args:
        model: Whose verdict it is, for the message.
        output: Of these sub-environments, in their order.
        rows: The sub-environments.

    Raises:
        InvalidRewardError: If it is not a RewardOutput, if it speaks of another number of them, or if one that was not
            scored has a reward.
    """
    if not isinstance(output, RewardOutput):
        raise InvalidRewardError(
            f"score of {_named(model)} must return a RewardOutput of prophet_gym.world_model, got "
            f"{type(output).__name__}; the step was not taken"
        )
    # A RewardOutput has checked its own parts: as many of each, and finite rewards.
    if len(output.reward) != len(rows):
        raise InvalidRewardError(
            f"{_named(model)} must return one reward for each of the {len(rows)} videos, a tensor ({len(rows)},), got "
            f"{tuple(output.reward.shape)}; the step was not taken"
        )
    columns = (output.reward.tolist(), output.scored.tolist(), output.success.tolist())
    found = dict(zip(rows, zip(*columns, strict=True), strict=True))
    for row, (reward, scored, _) in found.items():
        if reward and not scored:
            raise InvalidRewardError(
                f"the reward of a video that was not scored (scored=False) must be 0, and {_named(model)} returned "
                f"{reward} for sub-environment {row}; the step was not taken"
            )
    return found


def _named(thing: object) -> str:
    if isinstance(thing, str | bytes | int | float):
        return repr(thing)
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"this {type(thing).__name__}"


def require_threshold(name: str, value: object) -> float:
    """The largest doubt that is gone along with; ValueError if it is no number of at least 0."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if not number >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return number
