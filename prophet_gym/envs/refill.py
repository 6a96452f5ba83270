"""Waiting starts: ended rows are refilled from a queue, so that no frame is generated for an episode that is over."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """An episode whose turn it is.

    Attributes:
        index: Its position in the queue.
        plan: How it begins.
        seed: Of its row, None to go on with the row's generator.
    """

    index: int
    plan: Any
    seed: int | None


@dataclass(frozen=True)
class Usage:
    """How much of the batch was put to use since the last reset of all rows.

    Attributes:
        slots: Chunks that the batch had room for: rows times steps.
        live: Chunks that were generated, each for a live episode.

    Example:
        >>> Usage(slots=40, live=38).fraction
        0.95
    """

    slots: int = 0
    live: int = 0

    @property
    def fraction(self) -> float:
        """Useful frames by the frames that a full batch would have generated; 1.0 before the first step."""
        return self.live / self.slots if self.slots else 1.0

    def after(self, rows: int, live: int) -> "Usage":
        """The usage after one more step."""
        return Usage(self.slots + rows, self.live + live)


class Queue:
    """Episodes that wait for a row, in their order."""

    def __init__(self, plans: Sequence[Any], seeds: Sequence[int | None]) -> None:
        self._turns = deque(Turn(index, *both) for index, both in enumerate(zip(plans, seeds, strict=True)))

    def __len__(self) -> int:
        """How many wait."""
        return len(self._turns)

    def copy(self) -> "Queue":
        """Return a queue of the same episodes."""
        queue = Queue((), ())
        queue._turns.extend(self._turns)
        return queue

    def fill(self, rows: Sequence[int]) -> dict[int, Turn]:
        """Give the next episodes to these rows; rows are left out once nothing waits."""
        return {row: self._turns.popleft() for row in rows[: len(self._turns)]}
