"""How a chunk is conditioned, sampled and shown: the one thing that the small and the full Prophet do differently."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from prophet_gym.specs import InitialState
from prophet_gym.world_model import Chunk, State

Networks = Mapping[str, Any]
"""The networks of a checkpoint by the name of their folder: `transformer`, `autoencoder`, perhaps `tracker`."""

MOST_FRAMES, MOST_PIXELS = 4096, 4096
"""Bounds of what a config may ask for: beyond them memory ends before a dream begins."""


def require_bounds(frame_size: tuple[int, int], counts: Sequence[int]) -> None:
    """Raise ValueError unless a config's frame size, and its counts of frames and steps, can be computed at all."""
    if any(side < 8 or side > MOST_PIXELS or side % 8 for side in frame_size):
        raise ValueError(f"frame_size={frame_size} must be multiples of 8, at most {MOST_PIXELS}")
    if any(count > MOST_FRAMES for count in counts):
        raise ValueError(f"counts of frames and steps must be at most {MOST_FRAMES}, got {max(counts)}")


def statistics_fit(mean: Any, std: Any, count: int) -> bool:
    """Whether a mean and a standard deviation of a network's config are finite numbers, one for each of so many."""
    if not all(isinstance(numbers, list | tuple) and len(numbers) == count for numbers in (mean, std)):
        return False
    numbers = [*mean, *std]
    plain = all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= MOST_PIXELS for n in numbers)
    return plain and min(std) > 0


@runtime_checkable
class Recipe(Protocol):
    """What `Prophet` leaves to its recipe. It holds numbers, never weights; its arguments are checked already.

    A recipe may also have `cut(state, chunk, steps) -> State`, see `Prophet.cut`.

    Attributes:
        name: in `prophet.json`.
        parts: the networks it needs, name -> class.
        config: numbers a checkpoint fixes beside its networks.
    """

    name: ClassVar[str]
    parts: ClassVar[Mapping[str, type]]
    config: Any

    def check(self, networks: Networks) -> None:
        """Raise CheckpointError unless the networks are of the config's sizes."""
        ...

    def begin(
        self,
        networks: Networks,
        frames: Tensor,
        past_actions: Tensor | None,
        starts: Sequence[InitialState] | None = None,
    ) -> State:
        """The state after real frames `b t h w 3`; `past_actions` led to the newest, None at an episode's start.

        What else is known of the starts comes as `starts`, one a row.
        """
        ...

    def dream(self, networks: Networks, state: State, actions: Tensor, generators: Sequence[torch.Generator]) -> Chunk:
        """One chunk."""
        ...

    def reconstruct(self, networks: Networks, frames: Tensor) -> Tensor:
        """Real frames through the autoencoder, as a dream would show them."""
        ...
