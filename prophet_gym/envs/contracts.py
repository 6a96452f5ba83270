"""What an env asks of the world model and the reward model that it is given, and of what they return."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prophet_gym.errors import InvalidRewardError, require_count
from prophet_gym.world_model import Chunk, RewardModel, Verdict, WorldModel, require_when


def require_world_model(model: object) -> WorldModel:
    """Return the model; ValueError unless it has what `WorldModel` asks for."""
    missing = [name for name in ("chunk", "frame_size", "action_dim", "encode", "rollout") if not hasattr(model, name)]
    if missing or isinstance(model, type):
        raise ValueError(
            f"world_model must be a WorldModel, and {_named(model)} has no {', '.join(missing) or 'instance'}: a name "
            "goes to gym.make(id, weights=...), or to prophet_gym.factory.load_world_model, which returns the model"
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
        advice = "a name goes to gym.make(id, reward=...), or to prophet_gym.rewards.make_judge, which loads it"
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


def read_rewards(model: RewardModel, verdict: object, rows: Sequence[int]) -> dict[int, tuple[float, bool, bool]]:
    """Return reward, validity and success of each scored sub-environment.

    Args:
        model: Whose verdict it is, for the message.
        verdict: Of these sub-environments, in their order.
        rows: The sub-environments.

    Raises:
        InvalidRewardError: If it is not a Verdict, if it speaks of another number of them, or if one that was not
            scored has a reward.
    """
    if not isinstance(verdict, Verdict):
        raise InvalidRewardError(
            f"score of {_named(model)} must return a Verdict (prophet_gym.world_model), got {type(verdict).__name__}; "
            "the step was not taken"
        )
    # A Verdict has checked its own parts: as many of each, and finite rewards.
    if len(verdict.reward) != len(rows):
        raise InvalidRewardError(
            f"{_named(model)} must return one reward for each of the {len(rows)} videos, a tensor ({len(rows)},), got "
            f"{tuple(verdict.reward.shape)}; the step was not taken"
        )
    columns = (verdict.reward.tolist(), verdict.valid.tolist(), verdict.success.tolist())
    found = dict(zip(rows, zip(*columns, strict=True), strict=True))
    for row, (reward, scored, _) in found.items():
        if reward and not scored:
            raise InvalidRewardError(
                f"the reward of a video that was not scored (valid=False) must be 0, and {_named(model)} returned "
                f"{reward} for sub-environment {row}; the step was not taken"
            )
    return found


def _named(thing: object) -> str:
    if isinstance(thing, str | bytes | int | float):
        return repr(thing)
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"this {type(thing).__name__}"
