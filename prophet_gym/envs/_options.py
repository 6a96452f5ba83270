"""Read what `reset(seed=..., options=...)` asks for, checked before anything changes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from torch import Tensor

from prophet_gym._checks import require_known
from prophet_gym.envs._initial_states import InitialStates, require_start
from prophet_gym.errors import InvalidStartError, UnknownOptionError
from prophet_gym.specs import InitialState

RESET_OPTIONS = ("queue", "reset_mask", "start", "starts", "task")


def plan_reset(
    options: Mapping[str, Any] | None, starts: InitialStates, num_envs: int, frame_size: tuple[int, int]
) -> dict[int, InitialStates]:
    """Return the sub-environments to reset, each with the initial states that it may draw from."""
    given = dict(options or {})
    rows = reset_rows(given, RESET_OPTIONS, num_envs)
    own = given.get("starts")
    if own is not None:
        if given.get("task") is not None or given.get("start") is not None:
            raise UnknownOptionError("options['starts'] says where to start; leave out 'task' and 'start'")
        states = [own] * num_envs if isinstance(own, InitialState) else own
        if not isinstance(states, Sequence) or len(states) != num_envs:
            found = f"{len(states)}" if isinstance(states, Sequence) else f"{type(own)}"
            raise InvalidStartError(f"options['starts'] must be an InitialState or {num_envs} of them, got {found}")
        chosen = _fitting("starts", states, starts, frame_size)
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
    """Return the initial states of `options["queue"]`, one for each episode; None where there is no queue."""
    queue = None if options is None else options.get("queue")
    if options is None or queue is None:
        return None
    others = sorted(str(name) for name, value in options.items() if name != "queue" and value is not None)
    if others:
        raise ValueError(f"options['queue'] says where every episode starts; leave out {', '.join(others)}")
    if autoreset_mode == AutoresetMode.DISABLED:
        raise ValueError("options['queue'] restarts sub-environments: it needs autoreset_mode NEXT_STEP or SAME_STEP")
    if not isinstance(queue, Sequence) or len(queue) < num_envs:
        given = len(queue) if isinstance(queue, Sequence) else type(queue)
        raise InvalidStartError(f"options['queue'] must hold at least num_envs={num_envs} initial states, got {given}")
    return [InitialStates([state]) for state in _fitting("queue", queue, starts, frame_size)]


def row_seeds(seed: object, count: int, each: str = "sub-environment, num_envs") -> list[int | None]:
    """Return `count` seeds: the i-th is `seed + i`, or entry i of a sequence; None leaves a generator as it is."""
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


def reset_rows(options: Mapping[str, Any], known: Sequence[str], num_envs: int) -> tuple[int, ...]:
    """Return the sub-environments of `reset_mask`, all without one; ValueError for no mask, or an unknown option."""
    for name in options:
        require_known("reset option", name, known)
    mask = options.get("reset_mask")
    if mask is None:
        return tuple(range(num_envs))
    wanted = f"options['reset_mask'] must be a bool array of shape ({num_envs},) with at least one True"
    array, masked = _array(mask, wanted), np.ma.isMaskedArray(mask)
    if array.dtype != np.bool_ or array.shape != (num_envs,) or not array.any() or masked:
        given = "a masked array" if masked else f"{array.dtype} {array.shape}"
        raise ValueError(f"{wanted}, got {given} {str(array.tolist())[:200]}")
    return tuple(np.flatnonzero(array).tolist())


def per_row_integers(name: str, value: object, num_envs: int) -> list[int | None]:
    """Return one integer for each sub-environment, from one for all or one each; None where nothing was asked."""
    if value is None:
        return [None] * num_envs
    wanted = f"options[{name!r}] must be an integer or {num_envs} integers"
    array = _array(value, wanted)
    # NumPy turns a list of bools and integers into integers, and a masked array hides what it lacks.
    parts = value if isinstance(value, list | tuple) else ()
    odd = np.ma.isMaskedArray(value) or any(isinstance(part, bool | np.bool_) for part in parts)
    if not np.issubdtype(array.dtype, np.integer) or array.shape not in {(), (num_envs,)} or odd:
        raise ValueError(f"{wanted}, got {value!r}")
    return np.broadcast_to(array, num_envs).tolist()


def _array(value: object, wanted: str) -> np.ndarray:
    try:
        return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{wanted}, got {value!r}") from error


def _fitting(
    option: str, states: Sequence[object], starts: InitialStates, frame_size: tuple[int, int]
) -> list[InitialState]:
    """Return the states; InvalidStartError if one is no InitialState, or of another size."""
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


def _candidates(starts: InitialStates, task: int | None, position: int | None) -> InitialStates:
    pool = starts if task is None else starts.of_task(task)
    if position is None:
        return pool
    if not 0 <= position < len(pool):
        where = f"0..{len(pool) - 1}, the initial states of {'the env' if task is None else f'task {task}'}"
        raise InvalidStartError(f"options['start'] must be in {where}, got {position}")
    return pool[position : position + 1]
