"""Several processes, each with its own env and its share of the groups: sums over all of them.

`Processes()` is the one process that needs nothing; `Processes.joined()` uses `torch.distributed`, which the caller
(torchrun) has started.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Which process this is, and of how many.

    Attributes:
        rank: from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> "Processes":
        """The processes of the default group; alone where none was started."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def main(self) -> bool:
        """Whether this one logs and writes checkpoints."""
        return self.rank == 0

    def split(self, count: int) -> int:
        """This process's part of `count`; ValueError if it does not split evenly."""
        if count % self.size:
            raise ValueError(f"{count} groups must be a multiple of the {self.size} processes")
        return count // self.size

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def total(self, number: float | int) -> float:
        """The sum of a number over all processes."""
        return float(self.sum(torch.tensor(number, dtype=torch.float64))) if self.size > 1 else float(number)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum; where a process has none it counts as 0."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
