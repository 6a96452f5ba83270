"""Write one sub-environment to safetensors bytes and read it back, checked whole before anything changes."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prophet_gym._io.tensor_files import metadata_of
from prophet_gym.envs._initial_states import FACTS, require_start
from prophet_gym.envs._sub_env import Row, as_array
from prophet_gym.errors import InvalidStartError
from prophet_gym.specs import InitialState
from prophet_gym.world_model import RewardModel, State

FORMAT = "prophet-gym-row-1"
STATE, EXTRA = "state.", "start.extra."


def pack_row(row: Row, state: State) -> bytes:
    """Return a sub-environment with its part of the world model's state (a batch of one) as safetensors bytes."""
    random = row.np_random
    assert row.start is not None
    assert random is not None
    if random.bit_generator.state["bit_generator"] != "PCG64":
        raise ValueError(f"only a PCG64 np_random can be saved, got {random.bit_generator.state['bit_generator']}")
    tensors = {STATE + name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    tensors |= {EXTRA + name: torch.from_numpy(np.array(value, order="C")) for name, value in row.start.extra.items()}
    tensors |= {
        "generator": row.generator.get_state(),
        "image": torch.from_numpy(as_array(row.image)),
        "start.frames": torch.from_numpy(np.array(row.start.frames, order="C")),
    }
    if row.window:
        tensors["window"] = torch.from_numpy(np.stack([as_array(row.kept[number]) for number in row.window]))
    facts = {name: getattr(row, name) for name in ("elapsed", "ended", "queue_index")}
    start = {name: getattr(row.start, name) for name in FACTS}
    facts |= {"format": FORMAT, "start": start, "seen": row.frames, "np_random": random.bit_generator.state}
    return save(tensors, {"row": json.dumps(facts)})


def unpack_row(
    data: object, like: State, frame_size: tuple[int, int], reward_model: RewardModel | None
) -> tuple[Row, State]:
    """Return what `pack_row` packed; InvalidStartError for other bytes, or another world model or reward model.

    `like` is a state of the world model. The reward model, which scores the episode from now on, must look back no
    further than the one that it was saved under.
    """
    tensors, facts = _read(data)
    try:
        state = _state(tensors, like)
        return _row(tensors, facts, frame_size, reward_model), state
    except InvalidStartError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidStartError(f"the snapshot is damaged ({type(error).__name__}: {error})") from error


def _read(data: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidStartError(f"a snapshot must be the bytes of get_state, got {type(data).__name__}")
    data = bytes(data)
    try:
        tensors = load(data)
        facts = json.loads(metadata_of(data)["row"])
        if isinstance(facts.get("start"), dict) and "start_set" in facts["start"]:  # the key before 0.1
            facts["start"]["split"] = facts["start"].pop("start_set")
        found = facts["format"]
    except (SafetensorError, LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        # RuntimeError: deep JSON is a RecursionError.
        raise InvalidStartError(f"a snapshot must be the bytes of get_state, got others ({error})") from error
    if found != FORMAT:
        raise InvalidStartError(f"a snapshot must have format {FORMAT!r}, got {found!r}")
    return tensors, facts


def _state(tensors: Mapping[str, Tensor], like: State) -> State:
    state = {name.removeprefix(STATE): tensor for name, tensor in tensors.items() if name.startswith(STATE)}
    wanted = {name: (1, *tensor.shape[1:]) for name, tensor in like.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if given != wanted:
        raise InvalidStartError(f"the snapshot must hold a state of {wanted}, got {given}; is it of this model?")
    for name, tensor in state.items():
        dtype = like[name].dtype
        if tensor.dtype != dtype and not (tensor.is_floating_point() and dtype.is_floating_point):
            raise InvalidStartError(f"state[{name!r}] of the snapshot must be {dtype}, got {tensor.dtype}")
        # One number that is not finite would spread through the rest of the episode.
        if not torch.isfinite(tensor.to(dtype)).all():
            raise InvalidStartError(f"state[{name!r}] of the snapshot must be finite in {dtype}")
    return state


def _row(
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    frame_size: tuple[int, int],
    reward_model: RewardModel | None,
) -> Row:
    start, ended = facts["start"], facts["ended"]
    if not isinstance(start, dict) or set(start) != set(FACTS):
        raise InvalidStartError(f"'start' of the snapshot must hold {', '.join(FACTS)}, got {str(start)[:200]}")
    if not isinstance(ended, bool):
        raise InvalidStartError(f"'ended' of the snapshot must be true or false, got {ended!r}")
    frames = tensors["start.frames"].numpy()
    extra = {name.removeprefix(EXTRA): tensor.numpy() for name, tensor in tensors.items() if name.startswith(EXTRA)}
    random = np.random.Generator(np.random.PCG64())
    random.bit_generator.state = facts["np_random"]
    row = Row(
        start=require_start(InitialState(frames=frames, extra=extra, **start), frame_size),
        image=_frames("image", tensors["image"][None], frame_size)[0],
        elapsed=_count("elapsed", facts["elapsed"]),
        ended=ended,
        queue_index=None if facts["queue_index"] is None else _count("queue_index", facts["queue_index"]),
        np_random=random,
    )
    row.generator.set_state(tensors["generator"])
    seen = _count("seen", facts["seen"], 1)
    window = list(_frames("window", tensors["window"], frame_size)) if "window" in tensors else []
    wanted = min(reward_model.max_frames, -(-seen // reward_model.stride)) if reward_model else 0
    if reward_model and len(window) != wanted:
        found = f"the reward model looks back at {wanted} frames of {seen}, and the snapshot has {len(window)}"
        raise InvalidStartError(f"{found}: set it in an env with the reward model that it was saved under")
    row.recall(window if reward_model else [], seen, reward_model)
    return row


def _frames(name: str, frames: Tensor, size: tuple[int, int]) -> np.ndarray:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or tuple(frames.shape[1:]) != (*size, 3):
        given = f"{frames.dtype} {tuple(frames.shape)}"
        raise InvalidStartError(f"{name!r} of the snapshot must be uint8 frames of {(*size, 3)}, got {given}")
    return frames.numpy().copy()


def _count(name: str, value: object, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise InvalidStartError(f"{name!r} of the snapshot must be an integer of at least {least}, got {value!r}")
    return value
