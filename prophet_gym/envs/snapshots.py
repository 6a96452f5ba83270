"""One row of a dream as safetensors bytes: to go on from a moment later, elsewhere, or several times over."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prophet_gym.envs.rows import Frame, Row, picture
from prophet_gym.envs.starts import require_frames
from prophet_gym.errors import InvalidStartError
from prophet_gym.specs import InitialState
from prophet_gym.world_model import RewardModel, State

FORMAT = "prophet-gym-row-1"
STATE, EXTRA = "state.", "start.extra."
PLAIN = ("instruction", "suite", "task", "index", "start_set")


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
        "image": torch.from_numpy(picture(row.image)),
        "start.frames": torch.from_numpy(np.array(row.start.frames, order="C")),
    }
    if window:
        tensors["window"] = torch.from_numpy(np.stack([picture(frame) for frame in window]))
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
    data: bytes, layout: Mapping[str, tuple[int, ...]], frame_size: tuple[int, int], judge: RewardModel | None
) -> tuple[Row, State]:
    """What `pack_row` packed.

    Args:
        data: From `pack_row`.
        layout: Shape past the first axis of each tensor of the world model's state.
        frame_size: Height and width of a frame.
        judge: Who will judge the row; must look back no further than the one that it was saved under.

    Raises:
        InvalidStartError: If these are other bytes, or if the row does not fit the world model or the judge.
    """
    tensors, facts = _read(data)
    try:
        return _row(tensors, facts, layout, frame_size, judge)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InvalidStartError(f"the saved row is damaged ({type(error).__name__}: {error})") from error


def _row(
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    layout: Mapping[str, tuple[int, ...]],
    frame_size: tuple[int, int],
    judge: RewardModel | None,
) -> tuple[Row, State]:
    state = {name[len(STATE) :]: tensor for name, tensor in tensors.items() if name.startswith(STATE)}
    given = {name: tuple(tensor.shape[1:]) for name, tensor in state.items()}
    if given != dict(layout):
        raise InvalidStartError(f"the saved row must hold a state of {dict(layout)}, got {given}; is it of this model?")
    start = InitialState(
        frames=tensors["start.frames"].numpy(),
        extra={name[len(EXTRA) :]: t.numpy() for name, t in tensors.items() if name.startswith(EXTRA)},
        **facts["start"],
    )
    require_frames(start, frame_size)
    row = Row()
    row.start, row.image = start, tensors["image"].numpy()
    row.elapsed, row.ended, row.queue_index = facts["elapsed"], facts["ended"], facts["queue_index"]
    row.np_random = np.random.Generator(np.random.PCG64())
    row.np_random.bit_generator.state = facts["np_random"]
    row.generator.set_state(tensors["generator"])
    row.recall(_window(tensors, facts["seen"], judge), facts["seen"], judge)
    return row, state


def _window(tensors: Mapping[str, Tensor], seen: int, judge: RewardModel | None) -> list[Frame]:
    if judge is None:
        return []
    frames = list(tensors["window"].numpy()) if "window" in tensors else []
    wanted = min(judge.max_frames, -(-seen // judge.stride))
    if len(frames) != wanted:
        raise InvalidStartError(
            f"the judge looks back at {wanted} frames of {seen} (stride {judge.stride}, at most {judge.max_frames}), "
            f"and the row was saved with {len(frames)}: set it in an env with the judge that it was saved under"
        )
    return frames


def _read(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        facts = json.loads(header["row"])
        if facts["format"] == FORMAT:
            return tensors, facts
        found = facts["format"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidStartError(f"a saved row must be the bytes of get_state, got others ({error})") from error
    raise InvalidStartError(f"a saved row must have format {FORMAT!r}, got {found!r}")
