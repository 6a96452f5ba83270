"""What `reset(seed=..., options=...)` may ask for, checked before anything changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prophet_gym.envs.starts import StartSet, require_frames
from prophet_gym.errors import InvalidStartError, UnknownOptionError, unknown_option
from prophet_gym.specs import InitialState

RESET_OPTIONS = ("reset_mask", "start", "starts", "task")


def plan_reset(
    options: Mapping[str, Any] | None, starts: StartSet, num_envs: int, frame_size: tuple[int, int]
) -> dict[int, StartSet]:
    """Read the options of a reset: the rows to reset, each with the starts that it may draw from.

    `reset_mask`: bool (num_envs,), the rows to reset. `task`: a task number, or one per row.
    `start`: a position among the starts of the row's task (of all starts where no task is given), or one per
    row. `starts`: an InitialState for all rows, or one per row; excludes `task` and `start`.

    Raises:
        UnknownOptionError: For an option or task that does not exist.
        InvalidStartError: If a start does not exist or does not fit the world model.
        ValueError: If a value has the wrong form.
    """
    given = dict(options or {})
    for name in given:
        if name not in RESET_OPTIONS:
            raise unknown_option("reset option", name, RESET_OPTIONS)
    rows = reset_rows(given.get("reset_mask"), num_envs)
    if given.get("starts") is not None:
        if given.get("task") is not None or given.get("start") is not None:
            raise UnknownOptionError("options['starts'] says where to start; leave out 'task' and 'start'")
        chosen = _per_row_starts(given["starts"], num_envs, frame_size)
        return {row: StartSet([chosen[row]]) for row in rows}
    tasks = per_row_integers("task", given.get("task"), num_envs)
    positions = per_row_integers("start", given.get("start"), num_envs)
    return {row: _candidates(starts, tasks[row], positions[row]) for row in rows}


def row_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """One seed per row: row i gets `seed + i`, or entry i of a sequence; None leaves a row's generator as it is."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer):
        return [int(seed) + row for row in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"a list of seeds needs one entry per row, num_envs={num_envs}, got {len(seed)}")
    return [None if value is None else int(value) for value in seed]


def reset_rows(mask: object, num_envs: int) -> tuple[int, ...]:
    """The rows of a `reset_mask`; all of them without one. ValueError if it is no mask or empty."""
    if mask is None:
        return tuple(range(num_envs))
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != (num_envs,) or not array.any():
        raise ValueError(
            f"options['reset_mask'] must be a bool array of shape ({num_envs},) with at least one True, "
            f"got {array.dtype} {array.shape} {array.tolist()}"
        )
    return tuple(int(row) for row in np.flatnonzero(array))


def per_row_integers(name: str, value: object, num_envs: int) -> list[int | None]:
    """An integer for all rows, or one per row; None where nothing was asked. ValueError for anything else."""
    if value is None:
        return [None] * num_envs
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in {(), (num_envs,)}:
        raise ValueError(f"options[{name!r}] must be an integer or {num_envs} integers, got {value!r}")
    return [int(number) for number in np.broadcast_to(array, (num_envs,))]


def _per_row_starts(value: object, num_envs: int, frame_size: tuple[int, int]) -> list[InitialState]:
    states = [value] * num_envs if isinstance(value, InitialState) else value
    if not isinstance(states, Sequence) or len(states) != num_envs:
        raise InvalidStartError(f"options['starts'] must be an InitialState or {num_envs} of them, got {type(value)}")
    checked: list[InitialState] = []
    for state in states:
        if not isinstance(state, InitialState):
            raise InvalidStartError(f"options['starts'] must hold InitialState only, got {type(state).__name__}")
        require_frames(state, frame_size)
        checked.append(state)
    return checked


def _candidates(starts: StartSet, task: int | None, position: int | None) -> StartSet:
    pool = starts if task is None else starts.of_task(task)
    if position is None:
        return pool
    if not 0 <= position < len(pool):
        where = "the start set" if task is None else f"task {task}"
        raise InvalidStartError(f"options['start'] must be in 0..{len(pool) - 1} for {where}, got {position}")
    return pool[position : position + 1]
