"""The policy that learning begins with, kept as the weights that learning changes."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prophet_gym.errors import CheckpointError


class Reference:
    """A copy of a policy's trained weights as they are now; the KL is taken to the policy that has them.

    Weights that are not trained stay as they are, so they are not copied: adapters or an action expert take a small
    part of the memory of a whole second policy. Adapters that were trained before, by cloning, are part of it.

    Args:
        policy: whose weights are kept.
        trained: parameters that learning changes; others of them than the policy's are left out.

    Example:
        >>> policy = nn.Linear(1, 1, bias=False)
        >>> reference = Reference(policy, list(policy.parameters()))
        >>> before = policy.weight.detach().clone()
        >>> _ = policy.weight.data.add_(1)
        >>> with reference.applied():
        ...     torch.equal(policy.weight, before)
        True
    """

    def __init__(self, policy: nn.Module, trained: Collection[Tensor]) -> None:
        chosen = {id(weight) for weight in trained}
        self._weights = {name: weight for name, weight in policy.named_parameters() if id(weight) in chosen}
        self._kept = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside it, the policy has the weights that were kept; no gradient may be taken through it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that were kept, by name."""
        return {name: kept.clone() for name, kept in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the weights of a `state_dict`.

        Raises:
            CheckpointError: they are not those of this policy; nothing has changed.
        """
        wrong = sorted(
            name
            for name in self._kept.keys() | state.keys()
            if name not in state or name not in self._kept or state[name].shape != self._kept[name].shape
        )
        if wrong:
            raise CheckpointError(
                f"the reference in the checkpoint is of another policy: {', '.join(wrong[:10])} differ"
            )
        for name, kept in self._kept.items():
            kept.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            now = weight.clone()
            weight.copy_(self._kept[name])
            self._kept[name].copy_(now)
