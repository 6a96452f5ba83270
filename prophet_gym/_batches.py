"""Select, join and replace batch elements of a world model's state, without knowing what its tensors mean."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from prophet_gym.world_model import State


def batch_size(state: State) -> int:
    """Return the number of batch elements of a state; ValueError if it is empty, or its tensors disagree."""
    sizes = {name: tensor.shape[0] for name, tensor in state.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"a state needs tensors with one common first axis, got sizes {sizes}")
    return next(iter(sizes.values()))


def select_batch(state: State, rows: Sequence[int] | Int[Tensor, " r"]) -> State:
    """Return a copy of the given elements in the given order; one may be named more than once."""
    return {name: tensor.index_select(0, _indices(rows, tensor)) for name, tensor in state.items()}


def concat_batches(states: Sequence[State]) -> State:
    """Join states along the batch axis; ValueError if there is none, or their names differ."""
    if not states or any(set(state) != set(states[0]) for state in states):
        names = [sorted(state) for state in states]
        raise ValueError(f"states to merge must be at least one state, all of the same names, got {names}")
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def scatter_batch(state: State, rows: Sequence[int] | Int[Tensor, " r"], part: State) -> State:
    """Return a copy in which element `rows[i]` is element i of `part`; ValueError if names or other shapes differ."""
    layout, given = ({name: tuple(tensor.shape[1:]) for name, tensor in each.items()} for each in (state, part))
    if layout != given:
        raise ValueError(f"elements must have the names and shapes {layout}, got {given}")
    return {name: old.index_copy(0, _indices(rows, old), part[name].to(old)) for name, old in state.items()}


def _indices(rows: Sequence[int] | Int[Tensor, " r"], tensor: Tensor) -> Int[Tensor, " r"]:
    return torch.as_tensor(rows, dtype=torch.int64, device=tensor.device)
