"""One row of a dream as safetensors bytes: to go on from a moment later, elsewhere, or several times over."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prophet_gym.envs._sub_env import Frame, Row, image
from prophet_gym.envs.initial_states import require_frames, require_start
from prophet_gym.errors import InvalidStartError
from prophet_gym.specs import InitialState
from prophet_gym.world_model import RewardModel, State

FORMAT = "prophet-gym-row-1"
STATE, EXTRA = "state.", "start.extra."
PLAIN = ("instruction", "suite", "task", "index", "split")


def pack_row(row: Row, state: State) -> bytes:
    """The row with its part of the world model's state (one row), as safetensors bytes.

    Raises:
        ValueError: If the row's `np_random` is not a PCG64, as Gymnasium seeds it.
    """
    random = row.np_random
    assert row.start is not None
    assert random is not None
    if random.bit_generator.state["bit_generator"] != "PCG64":
        raise ValueError(f"only a PCG64 np_random can be saved, got {random.bit_generator.state['bit_generator']}")
    window, seen = row.seen
    tensors = {STATE + name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    tensors |= {EXTRA + name: torch.from_numpy(np.array(value, order="C")) for name, value in row.start.extra.items()}
    tensors |= {
        "generator": row.generator.get_state(),
        "image": torch.from_numpy(image(row.image)),
        "start.frames": torch.from_numpy(np.array(row.start.frames, order="C")),
    }
    if window:
        tensors["window"] = torch.from_numpy(np.stack([image(frame) for frame in window]))
    facts = {
        "format": FORMAT,
        "start": {name: getattr(row.start, name) for name in PLAIN},
        "elapsed": row.elapsed,
        "ended": row.ended,
        "queue_index": row.queue_index,
        "seen": seen,
        "np_random": random.bit_generator.state,
    }
    return save(tensors, {"row": json.dumps(facts)})


def unpack_row(
    data: object, like: State, frame_size: tuple[int, int], reward_model: RewardModel | None
) -> tuple[Row, State]:
    """Return what `pack_row` packed, checked whole.

    Args:
        data: From `pack_row`.
        like: A state of the world model.
        frame_size: Height and width of a frame.
        reward_model: The one that scores the row; it must look back no further than the one that it was saved under.

    Raises:
        InvalidStartError: If these are other bytes, or if the row does not fit the world model or the reward model.
    """
    tensors, facts = _read(data)
    try:
        state = _state(tensors, like)
        return _row(tensors, facts, frame_size, reward_model), state
    except InvalidStartError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InvalidStartError(f"the saved row is damaged ({type(error).__name__}: {error})") from error


def _state(tensors: Mapping[str, Tensor], like: State) -> State:
    """Return the part of the world model; a number that is not finite would spread through the rest of the episode."""
    state = {name[len(STATE) :]: tensor for name, tensor in tensors.items() if name.startswith(STATE)}
    wanted = {name: (1, *tensor.shape[1:]) for name, tensor in like.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if given != wanted:
        raise InvalidStartError(f"the saved row must hold a state of {wanted}, got {given}; is it of this model?")
    for name, tensor in state.items():
        dtype = like[name].dtype
        if tensor.dtype != dtype and not (tensor.is_floating_point() and dtype.is_floating_point):
            raise InvalidStartError(f"state[{name!r}] of the saved row must be {dtype}, got {tensor.dtype}")
        if not torch.isfinite(tensor.to(dtype)).all():
            raise InvalidStartError(f"state[{name!r}] of the saved row must be finite in {dtype}")
    return state


def _row(
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    frame_size: tuple[int, int],
    reward_model: RewardModel | None,
) -> Row:
    require_frames(tensors["start.frames"].numpy(), frame_size)
    extra = {name[len(EXTRA) :]: tensor.numpy() for name, tensor in tensors.items() if name.startswith(EXTRA)}
    row = Row()
    row.start = require_start(
        InitialState(frames=tensors["start.frames"].numpy(), extra=extra, **_known(facts["start"], PLAIN)), frame_size
    )
    row.image = _frames("image", tensors["image"][None], frame_size)[0]
    row.elapsed = _count("elapsed", facts["elapsed"])
    row.ended = facts["ended"]
    if not isinstance(row.ended, bool):
        raise InvalidStartError(f"'ended' of the saved row must be true or false, got {row.ended!r}")
    row.queue_index = None if facts["queue_index"] is None else _count("queue_index", facts["queue_index"])
    row.np_random = np.random.Generator(np.random.PCG64())
    row.np_random.bit_generator.state = facts["np_random"]
    row.generator.set_state(tensors["generator"])
    seen = _count("seen", facts["seen"], 1)
    row.recall(_window(tensors, seen, frame_size, reward_model), seen, reward_model)
    return row


def _window(
    tensors: Mapping[str, Tensor], seen: int, frame_size: tuple[int, int], reward_model: RewardModel | None
) -> list[Frame]:
    frames = list(_frames("window", tensors["window"], frame_size)) if "window" in tensors else []
    if reward_model is None:
        return []
    wanted = min(reward_model.max_frames, -(-seen // reward_model.stride))
    if len(frames) != wanted:
        raise InvalidStartError(
            f"the reward model looks back at {wanted} frames of {seen} (stride {reward_model.stride}, at most "
            f"{reward_model.max_frames}), and the row was saved with {len(frames)}: set it in an env with the reward "
            "model that it was saved under"
        )
    return list(frames)


def _frames(name: str, frames: Tensor, size: tuple[int, int]) -> np.ndarray:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or tuple(frames.shape[1:]) != (*size, 3):
        raise InvalidStartError(
            f"{name!r} of the saved row must be uint8 frames of {(*size, 3)}, got {frames.dtype} {tuple(frames.shape)}"
        )
    return frames.numpy().copy()


def _count(name: str, value: object, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise InvalidStartError(f"{name!r} of the saved row must be an integer of at least {least}, got {value!r}")
    return value


def _known(facts: object, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(facts, dict) or set(facts) != set(names):
        raise InvalidStartError(f"'start' of the saved row must hold {', '.join(names)}, got {str(facts)[:200]}")
    return facts


def _read(data: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidStartError(f"a saved row must be the bytes of get_state, got {type(data).__name__}")
    data = bytes(data)
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        facts = json.loads(header["row"])
        if isinstance(facts.get("start"), dict) and "start_set" in facts["start"]:  # the key before 0.1
            facts["start"]["split"] = facts["start"].pop("start_set")
        if facts["format"] == FORMAT:
            return tensors, facts
        found = facts["format"]
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:  # deep JSON is a RecursionError
        raise InvalidStartError(f"a saved row must be the bytes of get_state, got others ({error})") from error
    raise InvalidStartError(f"a saved row must have format {FORMAT!r}, got {found!r}")
