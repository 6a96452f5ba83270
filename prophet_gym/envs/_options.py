"""What `reset(seed=..., options=...)` may ask for, checked before anything changes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from torch import Tensor

from prophet_gym.envs.initial_states import InitialStates, require_start
from prophet_gym.errors import InvalidStartError, UnknownOptionError, unknown_option
from prophet_gym.specs import InitialState

RESET_OPTIONS = ("queue", "reset_mask", "start", "starts", "task")


def plan_reset(
    options: Mapping[str, Any] | None, starts: InitialStates, num_envs: int, frame_size: tuple[int, int]
) -> dict[int, InitialStates]:
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
        chosen = _per_row_starts(given["starts"], num_envs, starts, frame_size)
        return {row: InitialStates([chosen[row]]) for row in rows}
    tasks = per_row_integers("task", given.get("task"), num_envs)
    positions = per_row_integers("start", given.get("start"), num_envs)
    return {row: _candidates(starts, tasks[row], positions[row]) for row in rows}


def plan_queue(
    options: Mapping[str, Any] | None,
    starts: InitialStates,
    num_envs: int,
    frame_size: tuple[int, int],
    autoreset_mode: AutoresetMode,
) -> list[InitialStates] | None:
    """Read `options["queue"]`: starts of which each is dreamt once, by the next row that is free.

    Raises:
        InvalidStartError: If it holds anything but starts that fit, or fewer than there are rows.
        ValueError: Beside another option, or if ended rows are not restarted.
    """
    queue = None if options is None else options.get("queue")
    if options is None or queue is None:
        return None
    others = sorted(str(name) for name, value in options.items() if name != "queue" and value is not None)
    if others:
        raise ValueError(f"options['queue'] says where every row starts; leave out {', '.join(others)}")
    if autoreset_mode == AutoresetMode.DISABLED:
        raise ValueError("options['queue'] refills ended rows: it needs autoreset_mode NEXT_STEP or SAME_STEP")
    if not isinstance(queue, Sequence) or len(queue) < num_envs:
        given = len(queue) if isinstance(queue, Sequence) else type(queue)
        raise InvalidStartError(f"options['queue'] must hold a start for each of {num_envs} rows or more, got {given}")
    return [InitialStates([state]) for state in require_states("queue", queue, starts, frame_size)]


def row_seeds(seed: int | Sequence[int | None] | None, count: int, each: str = "row, num_envs") -> list[int | None]:
    """`count` seeds: the i-th is `seed + i`, or entry i of a sequence; None leaves a generator as it is.

    Raises:
        ValueError: For another number of seeds, or one that is negative or no integer.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, Integral) and not isinstance(seed, bool):
        seed = [int(seed) + row for row in range(count)]
    text = isinstance(seed, str | bytes | bytearray | memoryview)
    if text or not isinstance(seed, Sequence | np.ndarray) or (isinstance(seed, np.ndarray) and seed.ndim != 1):
        raise ValueError(f"a seed must be an integer, one per {each}={count}, or None, got {seed!r}")
    if len(seed) != count:
        raise ValueError(f"a list of seeds needs one entry per {each}={count}, got {len(seed)}")
    for value in seed:
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < 0):
            raise ValueError(f"a seed must be an integer of at least 0 or None, got {value!r}")
    return [None if value is None else int(value) for value in seed]


def require_states(
    option: str, states: Sequence[object], starts: InitialStates, frame_size: tuple[int, int]
) -> list[InitialState]:
    """Return the states, those that are not the env's own with frames of their own.

    Raises:
        InvalidStartError: If one is no InitialState, or of another size.
    """
    known = {id(state) for state in starts}
    checked: list[InitialState] = []
    for place, state in enumerate(states):
        if not isinstance(state, InitialState):
            raise InvalidStartError(f"options[{option!r}] must hold InitialState only, got {type(state).__name__}")
        try:
            found = require_start(state, frame_size)
        except InvalidStartError as error:
            raise InvalidStartError(f"options[{option!r}], entry {place}: {error}") from error
        # The caller may write into frames of its own later; an episode must not change under its actions.
        checked.append(found if id(state) in known else replace(found, frames=found.frames.copy()))
    return checked


def reset_rows(mask: object, num_envs: int) -> tuple[int, ...]:
    """The rows of a `reset_mask`; all of them without one. ValueError if it is no mask or empty."""
    if mask is None:
        return tuple(range(num_envs))
    wanted = f"options['reset_mask'] must be a bool array of shape ({num_envs},) with at least one True"
    try:
        array = np.asarray(mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{wanted}, got {type(mask)} ({error})") from error
    if array.dtype != np.bool_ or array.shape != (num_envs,) or not array.any() or np.ma.isMaskedArray(mask):
        given = "a masked array" if np.ma.isMaskedArray(mask) else f"{array.dtype} {array.shape}"
        raise ValueError(f"{wanted}, got {given} {str(array.tolist())[:200]}")
    return tuple(int(row) for row in np.flatnonzero(array))


def per_row_integers(name: str, value: object, num_envs: int) -> list[int | None]:
    """An integer for all rows, or one per row; None where nothing was asked. ValueError for anything else."""
    if value is None:
        return [None] * num_envs
    wanted = f"options[{name!r}] must be an integer or {num_envs} integers"
    try:
        array = np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{wanted}, got {value!r}") from error
    parts = value if isinstance(value, list | tuple) else ()
    plain = not np.ma.isMaskedArray(value) and not any(isinstance(part, bool | np.bool_) for part in parts)
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in {(), (num_envs,)} or not plain:
        raise ValueError(f"{wanted}, got {value!r}")
    return [int(number) for number in np.broadcast_to(array, (num_envs,))]


def _per_row_starts(
    value: object, num_envs: int, starts: InitialStates, frame_size: tuple[int, int]
) -> list[InitialState]:
    states = [value] * num_envs if isinstance(value, InitialState) else value
    if not isinstance(states, Sequence) or len(states) != num_envs:
        given = f"{len(states)}" if isinstance(states, Sequence) else f"{type(value)}"
        raise InvalidStartError(f"options['starts'] must be an InitialState or {num_envs} of them, got {given}")
    return require_states("starts", states, starts, frame_size)


def _candidates(starts: InitialStates, task: int | None, position: int | None) -> InitialStates:
    pool = starts if task is None else starts.of_task(task)
    if position is None:
        return pool
    if not 0 <= position < len(pool):
        where = "the start set" if task is None else f"task {task}"
        raise InvalidStartError(f"options['start'] must be in 0..{len(pool) - 1} for {where}, got {position}")
    return pool[position : position + 1]
