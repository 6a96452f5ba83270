"""Several processes that learn as one: each has its device, its env and its share of the groups."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prophet_gym._io.processes import gathered, joined, lost_named, package_versions, require_alike
from prophet_gym._io.processes._sharding import gathered_weights, is_sharded, shard, whole

if TYPE_CHECKING:
    from accelerate import Accelerator

ENTRIES = ("encode", "velocity", "sft_loss")
"""What is called of a policy, which has no forward pass of its own."""


class Learner:
    """Let the processes that `accelerate launch` or torchrun started learn as one; without an accelerator, be alone.

    Sums, not means, are taken over processes, since their shares need not be even. Weights that are `sharded` (FSDP2)
    are spread over the processes with their gradients and moments, and are whole only while the policy computes.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        sharded: Whether weights are spread over the processes.
    """

    def __init__(self, accelerator: "Accelerator | None" = None, *, sharded: bool = False) -> None:
        """Take part as the accelerator says; its FSDP2 plugin also asks for shards.

        Raises:
            ValueError: Processes run different packages, or FSDP of version 1 is asked for.
        """
        self.accelerator = accelerator
        self.rank, self.size = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
        asked = getattr(accelerator, "distributed_type", None) == "FSDP"
        if asked and not getattr(accelerator, "is_fsdp2", False):
            raise ValueError("weights are sharded by FSDP2: set fsdp_version to 2 (accelerate launch --fsdp_version 2)")
        self.sharded = (sharded or asked) and self.size > 1
        self.require_alike("packages", package_versions(), "install the same releases on every node")

    @classmethod
    def joined(cls, *, cpu: bool = False, sharded: bool = False) -> "Learner":
        """Join the processes that were started together; from here on "cuda" is this process's own GPU."""
        return cls(joined(cpu=cpu), sharded=sharded)

    @property
    def main(self) -> bool:
        """Return whether this process logs and writes."""
        return self.rank == 0

    def share(self, count: int) -> int:
        """Return this process's share of `count` groups, the first processes having one more where it is uneven."""
        if count < self.size:
            raise ValueError(f"each of {self.size} processes needs a group, got groups={count}: start fewer processes")
        return count // self.size + (self.rank < count % self.size)

    def rows(self, groups: int, group_size: int, asked: int | None = None) -> int:
        """Return how many sub-environments this process needs for its share, or for so many that are asked for."""
        own, most = self.share(groups) * group_size, -(-groups // self.size) * group_size
        # A process with one group less has no use for all; what is too much for each is for the trainer to say.
        return own if asked is None else min(own, asked) if asked <= most else asked

    def require_alike(self, what: str, mine: Mapping[str, Any], advice: str) -> None:
        """Raise ValueError where the processes differ in `mine`."""
        if self.size > 1:
            require_alike(what, mine, advice)

    def begin(self, optimizer: torch.optim.Optimizer, policy: nn.Module, *others: nn.Module) -> None:
        """Give all processes the weights of the first, and shard the policy's if so asked."""
        if self.size == 1:
            return
        from accelerate.utils import broadcast

        for module in (policy, *others):
            broadcast([each.data for each in (*module.parameters(), *module.buffers())])
        if self.sharded:
            shard(policy, optimizer, methods=ENTRIES, total=True)

    def whole(self, policy: Any) -> AbstractContextManager[None]:
        """Keep sharded weights whole inside, where every process calls the policy as often as it needs to."""
        return gathered_weights(policy) if self.sharded else nullcontext()

    @property
    def dtype(self) -> torch.dtype | None:
        """Return the launcher's mixed precision, of the policy alone; ValueError if it is not bf16."""
        mixed = "no" if self.accelerator is None else self.accelerator.mixed_precision
        if mixed not in ("no", "bf16"):
            raise ValueError(f"a policy learns in float32 or bf16, got mixed_precision={mixed}: launch with bf16 or no")
        return torch.bfloat16 if mixed == "bf16" else None

    def gathered(self, value: Any) -> list[Any]:
        """Return plain data of all processes, in their order."""
        return gathered(value) if self.size > 1 else [value]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, where the tensor lies."""
        if self.accelerator is None or self.size == 1:
            return tensor
        return self.accelerator.reduce(tensor.to(self.accelerator.device), "sum").to(tensor.device)  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]

    def total(self, number: float | int) -> float:
        """Return the sum of a number over all processes."""
        return float(self.sum(torch.tensor(number, dtype=torch.float64))) if self.size > 1 else float(number)

    def most(self, number: float | int) -> float:
        """Return the largest of all processes' numbers."""
        return float(max(self.gathered(number)))

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its sum over all processes; those of shards are that already."""
        for parameter in parameters if self.size > 1 else ():
            # Every process must join every sum, also one whose chunks do not reach a parameter.
            if not is_sharded(parameter):
                parameter.grad = self.sum(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)

    def clip(self, parameters: Sequence[Tensor], most: float) -> float:
        """Clip the gradients to a norm and return the norm that they had."""
        # Torch takes no norm of shards and whole tensors, such as a kernel's, together.
        kinds = [[each for each in parameters if is_sharded(each) is kind] for kind in (False, True)]
        norms = [whole(nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds if kind]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        for kind in kinds:
            nn.utils.clip_grads_with_norm_(kind, most, norm)
        return float(norm)

    @contextmanager
    def watched(self, doing: str) -> Iterator[None]:
        """Raise ProcessLostError where another process is lost meanwhile."""
        if self.size == 1:
            yield
            return
        advice = "Give the same command again to resume from the last checkpoint, also with other processes"
        with lost_named(doing, advice):
            yield
