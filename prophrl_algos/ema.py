"""An average of the weights over updates, for evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of the trainable weights.

    Args:
        policy: whose weights are averaged.
        decay: weight of the past at each optimiser step, in [0, 1).
    """

    def __init__(self, policy: nn.Module, decay: float | int = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self._weights = [weight for weight in policy.parameters() if weight.requires_grad]
        self._average = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        for average, weight in zip(self._average, self._weights, strict=True):
            average.lerp_(weight, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the policy has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The average."""
        return {"average": [average.clone() for average in self._average]}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Take up an average."""
        with torch.no_grad():
            for average, stored in zip(self._average, state["average"], strict=True):
                average.copy_(stored)

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self._average, self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
