"""Several processes, each with its own env and its part of the groups: sums over all of them."""

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Say which process this is, from 0, and of how many; `Processes()` is a single one."""

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> "Processes":
        """Return the processes that torchrun started, each on a GPU of its own; one alone without torchrun."""
        if dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized():
            # From here on "cuda" is this process's own GPU.
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            # AdamW imports this module at its first step, and its default arguments are the group of that moment: a
            # reference that outlives `destroy_process_group`. Imported before there is a group, it holds none.
            import_module("torch.distributed.nn")
            dist.init_process_group()
            # Gloo's threads must end before the interpreter does, or the process may abort after its work is done.
            atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def main(self) -> bool:
        """Return whether this process logs and writes checkpoints."""
        return self.rank == 0

    def split(self, count: int) -> int:
        """Return this process's part of `count`; ValueError if it does not split evenly."""
        if count % self.size:
            raise ValueError(f"{count} groups must be a multiple of the {self.size} processes")
        return count // self.size

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.size > 1:
            tensor = tensor.clone()  # all_reduce writes in place
            dist.all_reduce(tensor)
        return tensor

    def total(self, number: float | int) -> float:
        """Return the sum of a number over all processes."""
        return float(self.sum(torch.tensor(number, dtype=torch.float64))) if self.size > 1 else float(number)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all processes."""
        if self.size == 1:
            return
        for parameter in parameters:
            # Every process must join every sum, also one whose chunks do not reach a parameter.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
