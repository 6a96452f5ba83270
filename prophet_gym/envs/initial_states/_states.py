"""A sequence of initial states, and what each of them must be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import overload

import numpy as np

from prophet_gym._checks import unknown_option
from prophet_gym.errors import InvalidStartError
from prophet_gym.specs import InitialState


class InitialStates(Sequence[InitialState]):
    """A non-empty sequence of initial states.

    Example:
        >>> blank = np.zeros((1, 8, 8, 3), np.uint8)
        >>> starts = InitialStates([InitialState(blank, "lift", task=t, index=i) for t in (0, 3) for i in range(5)])
        >>> len(starts), starts.tasks, len(starts.of_task(3))
        (10, (0, 3), 5)
        >>> starts.of_task(3).sample(np.random.default_rng(0)).task
        3
    """

    def __init__(self, states: Iterable[InitialState]) -> None:
        """Check the states; InvalidStartError if they are empty, or one of them is no initial state."""
        if not isinstance(states, Iterable):
            raise InvalidStartError(f"initial states must be InitialState objects, got {type(states).__name__}")
        self._states = tuple(require_start(state) for state in states)
        if not self._states:
            raise InvalidStartError("at least one initial state is needed, got none")

    @overload
    def __getitem__(self, index: int) -> InitialState: ...
    @overload
    def __getitem__(self, index: slice) -> "InitialStates": ...
    def __getitem__(self, index: int | slice) -> "InitialState | InitialStates":
        """Return one initial state, or the sequence of a slice."""
        return InitialStates(self._states[index]) if isinstance(index, slice) else self._states[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._states)

    @property
    def tasks(self) -> tuple[int, ...]:
        """The task numbers that occur, ascending."""
        return tuple(sorted({state.task for state in self._states}))

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that occur, ascending."""
        return tuple(sorted({state.suite for state in self._states}))

    def of_task(self, task: int) -> "InitialStates":
        """Return the initial states of one task; UnknownOptionError if it has none."""
        if task not in self.tasks:
            raise unknown_option("task", task, map(str, self.tasks))
        return InitialStates(state for state in self._states if state.task == task)

    def of_suite(self, suite: str) -> "InitialStates":
        """Return the initial states of one suite; UnknownOptionError if it has none."""
        if suite not in self.suites:
            raise unknown_option("suite", suite, self.suites)
        return InitialStates(state for state in self._states if state.suite == suite)

    def sample(self, rng: np.random.Generator) -> InitialState:
        """Draw one of them uniformly."""
        return self._states[int(rng.integers(len(self._states)))]


def require_start(state: object, size: tuple[int, int] | None = None) -> InitialState:
    """Return the initial state, its task and index as Python's own integers; InvalidStartError if it is none.

    It is an `InitialState`: frames uint8 (1 to 4, h, w, 3), of this height and width if given, texts, 64-bit integers,
    and an `extra` of numbers by name.
    """
    if not isinstance(state, InitialState):
        raise InvalidStartError(f"an initial state must be an InitialState, got {type(state).__name__}")
    for name in ("instruction", "suite", "split"):
        if not isinstance(getattr(state, name), str):
            raise InvalidStartError(f"the {name} of an initial state must be a text, got {getattr(state, name)!r}")
    require_frames(state.frames, size)
    numbers: dict[str, int] = {}
    for name in ("task", "index"):
        value = getattr(state, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or not -(2**63) <= int(value) < 2**63:
            raise InvalidStartError(f"the {name} of an initial state must be a 64-bit integer, got {value!r}")
        numbers[name] = int(value)
    wanted = "the extra of an initial state must map names to arrays of numbers"
    if not isinstance(state.extra, Mapping):
        raise InvalidStartError(f"{wanted}, got {type(state.extra).__name__}")
    for name, value in state.extra.items():
        if not isinstance(name, str) or not _is_numbers(value):
            raise InvalidStartError(f"{wanted}, got {name!r}: {value}")
    # The same object where nothing changes: an env knows its own initial states by identity.
    plain = type(state.task) is type(state.index) is int
    return state if plain else replace(state, **numbers)


def require_frames(frames: object, size: tuple[int, int] | None = None) -> None:
    """Raise InvalidStartError unless these are uint8 frames `t h w 3` with 1 <= t <= 4, of this height and width."""
    given = type(frames).__name__
    if isinstance(frames, np.ndarray):
        images = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and frames.size
        if images and len(frames) <= 4 and size in (None, frames.shape[1:3]):
            return
        given = f"{frames.dtype} {frames.shape}"
    height, width = size or ("height", "width")
    wanted = f"the frames of an initial state must be uint8 (1 to 4, {height}, {width}, 3)"
    raise InvalidStartError(f"{wanted}, got {given}")


def _is_numbers(value: object) -> bool:
    try:
        dtype = np.asarray(value).dtype
    except (TypeError, ValueError):
        return False
    return dtype.kind in "biuf" and dtype.itemsize <= 8
