"""Check what an env is given: actions, models, and what the models return; nothing changes before it has passed."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from prophet_gym._checks import require_count, require_when
from prophet_gym.envs._plain import require_cameras, require_flag
from prophet_gym.errors import InvalidActionError, InvalidRewardError
from prophet_gym.specs import FIRST_CAMERA
from prophet_gym.world_model import Chunk, RewardModel, RewardOutput, ShowsWrist, TracksGripper, WorldModel

ROUNDING = 1e-6
"""How far past a bound an action may lie, relative to the larger bound, to be clipped: a few steps of float32, which
wrappers that rescale actions leave behind."""


def require_open(env: gym.Env | VectorEnv, call: str) -> None:
    """Raise ClosedEnvironmentError if the env, where it can tell, was closed."""
    if getattr(env, "closed", False):
        raise gym.error.ClosedEnvironmentError(f"{call} was called after close(); make the env again")


def require_threshold(name: str, value: object) -> float | None:
    """Return the value as a float, None as it is; ValueError for anything but a number of at least 0 (infinity too)."""
    if value is None:
        return None
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if not number >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return number


def require_actions(actions: object, space: gym.Space) -> np.ndarray:
    """Return a float32 copy of an array, a tensor or nested lists; InvalidActionError unless they are in the space.

    They must be finite real numbers of its shape, and lie within its bounds up to rounding, to which they are clipped.
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
        # Eight digits tell float32's bounds in short and, with that slack, from what lies outside.
        low, high, value = (f"{float(each[where]):.8g}" for each in (space.low, space.high, array))
        given = f"got {value} at {list(where)}; clip them to the action space"
        raise InvalidActionError(f"actions must lie within [{low}, {high}], {given}")
    return np.clip(array, space.low, space.high).astype(np.float32)


def _numbers(actions: Any, space: gym.spaces.Box) -> np.ndarray:
    """Return the actions in float64, so that nothing is lost before it is checked."""
    given = f"a tensor of {actions.dtype}" if isinstance(actions, Tensor) else f"{type(actions)}"
    parts = actions if isinstance(actions, list | tuple) else [actions]
    masked = any(isinstance(part, np.ma.MaskedArray) for part in parts)
    try:
        if isinstance(actions, Tensor):
            # NumPy has no bfloat16; a tensor that holds no real numbers keeps its dtype, which is refused below.
            actions = actions.detach().cpu()
            actions = (actions.double() if actions.is_floating_point() else actions).numpy()
        array = np.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidActionError(f"actions must be numbers of shape {space.shape}, got {given}") from error
    if array.dtype.kind not in "fiu" or masked:
        given = "a masked array" if masked else given if array.dtype == object else f"an array of {array.dtype}"
        raise InvalidActionError(f"actions must be real numbers of shape {space.shape}, got {given}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return array.astype(np.float64)


def require_world_model(model: Any) -> WorldModel:
    """Return the model; ValueError unless it has what `WorldModel` asks for."""
    parts = ("chunk", "frame_size", "action_dim", "encode", "rollout")
    advice = "a name goes to gym.make(id, weights=...), or prophet_gym.checkpoint.Checkpoint.named(...).world_model()"
    _require_parts("world_model must be a WorldModel", model, parts, advice)
    require_count("chunk of the world model", model.chunk)
    require_count("action_dim of the world model", model.action_dim)
    if not isinstance(model.frame_size, Sequence) or len(model.frame_size) != 2:
        raise ValueError(f"frame_size of the world model must be (height, width), got {model.frame_size!r}")
    for side in model.frame_size:
        require_count("a side in frame_size of the world model", side)
    return model


def require_reward_model(model: Any) -> RewardModel | None:
    """Return the model, or None for None; ValueError unless it has what `RewardModel` asks for."""
    if model is None:
        return None
    given: object = model  # a name of its own: pyright narrows what `callable` is asked of
    function = callable(given) and not isinstance(given, type)
    named = "a name goes to gym.make(id, reward=...), or to prophet_gym.rewards.make_reward_model, which loads it"
    advice = "wrap a function in prophet_gym.rewards.FunctionReward" if function else named
    _require_parts("reward_model must be a RewardModel", model, ("when", "stride", "max_frames", "score"), advice)
    require_when(model.when)
    require_count("stride of the reward model", model.stride)
    require_count("max_frames of the reward model", model.max_frames)
    return model


def _require_parts(wanted: str, model: Any, parts: Sequence[str], advice: str) -> None:
    # Not isinstance of the protocol: the message names what is missing, and a class has every part of its instances.
    missing = [name for name in parts if not hasattr(model, name)]
    if missing or isinstance(model, type):
        raise ValueError(f"{wanted}, and {_named(model)} has no {', '.join(missing) or 'instance'}: {advice}")


def require_chunk(chunk: Chunk, model: WorldModel, count: int) -> Chunk:
    """Return the chunk; ValueError unless it has frames of so many sub-environments."""
    wanted = (count, model.chunk, *model.frame_size, 3)
    frames = chunk.frames
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or tuple(frames.shape) != wanted:
        given = f"{frames.dtype} {tuple(frames.shape)}" if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"{_named(model)} must return frames uint8 {wanted}, got {given}; see check_world_model")
    return chunk


def read_rewards(model: RewardModel, output: object, rows: Sequence[int]) -> Mapping[int, tuple[float, bool, bool]]:
    """Return of each sub-environment its reward, whether it was scored, and whether its task is done.

    `output` is what the model's `score` returned of the videos of `rows`, in order; InvalidRewardError if it is of
    another kind or number, or gives one a reward that it did not score.
    """
    who = _named(model)
    if not isinstance(output, RewardOutput):
        problem = f"must return a RewardOutput of prophet_gym.world_model, got {type(output).__name__}"
        raise InvalidRewardError(f"score of {who} {problem}; the step was not taken")
    # The output has checked its own parts: as many of each, and finite rewards.
    if len(output.reward) != len(rows):
        problem = f"one reward for each of the {len(rows)} videos, a tensor ({len(rows)},)"
        given = tuple(output.reward.shape)
        raise InvalidRewardError(f"{who} must return {problem}, got {given}; the step was not taken")
    columns = (output.reward.tolist(), output.scored.tolist(), output.success.tolist())
    found = dict(zip(rows, zip(*columns, strict=True), strict=True))
    for row, (reward, scored, _) in found.items():
        if reward and not scored:
            wanted = "the reward of a video that was not scored (scored=False) must be 0"
            given = f"{who} returned {reward} for sub-environment {row}"
            raise InvalidRewardError(f"{wanted}, and {given}; the step was not taken")
    return found


def _named(thing: object) -> str:
    if isinstance(thing, str | bytes | int | float):
        return repr(thing)
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"this {type(thing).__name__}"


def require_abilities(world_model: WorldModel, proprioception: object, cameras: object) -> tuple[bool, tuple[str, ...]]:
    """Return both options, checked; ValueError unless the world model has what they ask for."""
    if told := require_flag("proprioception", proprioception):
        _require_gripper(world_model)
    names = require_cameras(cameras)
    if len(names) > 1 and not isinstance(world_model, ShowsWrist):
        raise ValueError(
            f"cameras={names} need weights that dream the wrist camera (read_wrist), and this "
            f"{type(world_model).__name__} dreams {FIRST_CAMERA!r} alone: leave cameras out, or take the simulator "
            "(LIBERO-*), which has both"
        )
    return told, names


def _require_gripper(world_model: WorldModel) -> None:
    if not isinstance(world_model, TracksGripper):
        wanted = "proprioception needs a world model that tracks the gripper (read_gripper)"
        raise ValueError(f"{wanted}, and this {type(world_model).__name__} does not; leave it out")
