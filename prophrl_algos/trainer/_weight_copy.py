"""A second set of a policy's trained weights: the one that learning begins with."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError


class WeightCopy:
    """Copy a policy's trained weights; the copy can take their place for a while.

    Weights that are not trained are not copied: adapters or an action expert take a small part of the memory of a whole
    second policy. Adapters that were trained before, by cloning, are part of the copy.
    """

    def __init__(self, policy: nn.Module, trained: Collection[Tensor]) -> None:
        chosen = {id(weight) for weight in trained}
        self._weights = {name: weight for name, weight in policy.named_parameters() if id(weight) in chosen}
        self._kept = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the policy the copied weights inside; no gradient may be taken through it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the copied weights by name."""
        return {name: kept.clone() for name, kept in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a `state_dict`; CheckpointError, and no change, if they are not those of this policy."""
        mine, theirs = ({(name, tensor.shape) for name, tensor in each.items()} for each in (self._kept, state))
        if wrong := sorted({name for name, _ in mine ^ theirs}):
            raise CheckpointError(
                f"the weights kept in the checkpoint are of another policy: {', '.join(wrong[:10])} differ"
            )
        for name, kept in self._kept.items():
            kept.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        # In place, one after the other: shards lie in memory that others know of too.
        for name, weight in self._weights.items():
            own = weight.detach().clone()
            weight.copy_(self._kept[name])
            self._kept[name].copy_(own)
