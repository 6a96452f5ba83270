"""Select, join and replace batch elements of a world model's state, without knowing what its tensors mean."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from prophet_gym.world_model import State


def batch_size(state: State) -> int:
    """Return the number of batch elements of a state.

    Raises:
        ValueError: The state is empty, or its tensors disagree.
    """
    sizes = {name: tensor.shape[0] for name, tensor in state.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"a state needs tensors with one common first axis, got sizes {sizes}")
    return next(iter(sizes.values()))


def _rows_tensor(rows: Sequence[int] | Int[Tensor, " r"], device: torch.device) -> Int[Tensor, " r"]:
    return torch.as_tensor(rows, dtype=torch.int64, device=device)


def select_batch(state: State, rows: Sequence[int] | Int[Tensor, " r"]) -> State:
    """Return a copy of the given elements in the given order; one may be named more than once."""
    return {name: tensor.index_select(0, _rows_tensor(rows, tensor.device)) for name, tensor in state.items()}


def concat_batches(states: Sequence[State]) -> State:
    """Join states one after the other along the batch axis.

    Raises:
        ValueError: No state was given, or their names differ.
    """
    if not states:
        raise ValueError("concat_batches needs at least one state, got none")
    names = set(states[0])
    if any(set(state) != names for state in states):
        raise ValueError(f"states to merge must have the same names, got {[sorted(state) for state in states]}")
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def scatter_batch(state: State, rows: Sequence[int] | Int[Tensor, " r"], part: State) -> State:
    """Return a copy of `state` in which element `rows[i]` is element i of `part`.

    Raises:
        ValueError: Names, or shapes past the first axis, differ.
    """
    _require_same_layout(state, part)
    return {
        name: tensor.index_copy(0, _rows_tensor(rows, tensor.device), part[name].to(tensor))
        for name, tensor in state.items()
    }


def _require_same_layout(state: State, part: State) -> None:
    layout = {name: tuple(tensor.shape[1:]) for name, tensor in state.items()}
    given = {name: tuple(tensor.shape[1:]) for name, tensor in part.items()}
    if layout != given:
        raise ValueError(f"elements must have the names and shapes {layout}, got {given}")
