"""Plan the memory of a round of learning with a published policy, before anything is downloaded or allocated.

Shapes are run through the policy at full size on the meta device. What is kept for the backward pass is counted tensor
by tensor, attention with its scores, which fused kernels on a GPU do not keep; what a pass needs beside it is taken as
three times its largest tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.policy_memory.full_sizes import FullSize
from prophet_gym._io.processes._sharding import blocks_of
from prophrl_algos.flow import Context, FlowSpec, device_of

WORKING = 3
"""A pass is taken to need so many times its largest tensor beside what it keeps."""


@dataclass(frozen=True)
class Workload:
    """Describe a round of learning.

    Attributes:
        groups: in a round.
        group_size: rollouts of a group.
        chunks: chunks of a rollout, at most.
        rows: sub-environments that act at once.
        microbatch: chunks in one backward pass.
        steps_per_call: flow steps scored in one call; all if None.
        views: images per chunk.
        frame: height and width of the env's images.
        reference: whether the weights that training begins with are kept to compare with.
    """

    groups: int = 8
    group_size: int = 8
    chunks: int = 60
    rows: int = 8
    microbatch: int = 8
    steps_per_call: int | None = None
    views: int = 1
    frame: int = 256
    reference: bool = False

    def __post_init__(self) -> None:
        names = ("groups", "group_size", "chunks", "rows", "microbatch", "views", "frame")
        wrong = [name for name in names if getattr(self, name) < 1]
        if wrong or (self.steps_per_call is not None and self.steps_per_call < 1):
            raise ValueError(f"{wrong or ['steps_per_call']} must be at least 1")


@dataclass(frozen=True)
class MemoryPlan:
    """Hold counts, and bytes.

    Attributes:
        parameters: of the network, what no action depends on left out.
        trained: of them that are trained.
        weights: of all, in their precisions.
        gradients: of what is trained, float32.
        optimizer: AdamW's two moments, float32.
        reference: a copy of what is trained, float32, where one is kept.
        context_per_row: the encoded prefix of a chunk; never stored.
        acting: contexts of the rows that act at once and the largest pass.
        backward: what is kept for the backward pass of a microbatch, its contexts and the largest pass.
        stored_per_chunk: latents, scores, images and tokens; in the memory of the host.
        stored: of a whole round.
        if_contexts_were_stored: what storing the contexts would take instead of making them again.
        unit: float32 gradients of the largest part that FSDP2 gathers as one.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    reference: int
    context_per_row: int
    acting: int
    backward: int
    stored_per_chunk: int
    stored: int
    if_contexts_were_stored: int
    unit: int = 0

    def sharded(self, processes: int) -> "MemoryPlan":
        """Return what each of so many processes holds that share out weights, gradients and moments by FSDP2.

        The weights are whole beside a process's own part while the policy computes, and so are the gradients of a
        unit, with a copy to be sent. Without shards every process holds what a single one does.
        """
        part = {name: -(-getattr(self, name) // processes) for name in ("gradients", "optimizer", "reference")}
        weights = self.weights + -(-self.weights // processes)
        return replace(self, **part, weights=weights, backward=self.backward + 2 * self.unit)

    @property
    def while_acting(self) -> int:
        """Return the bytes on the device."""
        return self.weights + self.optimizer + self.reference + self.acting

    @property
    def while_learning(self) -> int:
        """Return the peak of the bytes on the device."""
        return self.weights + self.gradients + self.optimizer + self.reference + self.backward


def make_plan(full: FullSize, work: Workload) -> MemoryPlan:
    """Measure a policy of shapes; see `MemoryPlan`."""
    policy, spec = full.policy, full.policy.spec
    assert isinstance(policy, nn.Module)
    weights = list(policy.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    with torch.no_grad():
        one = context_bytes(full.encode(1, work.views))
        acting, _ = measured(lambda: full.encode(work.rows, work.views), policy)
    steps = min(work.steps_per_call or spec.num_steps, spec.num_steps)
    largest, kept = measured(lambda: scored(full, work, steps), policy)
    calls = -(-spec.num_steps // steps)
    contexts = work.microbatch * one * (1 + steps if steps > 1 else 1)
    stored = stored_bytes(full, work)
    chunks = work.groups * work.group_size * work.chunks
    return MemoryPlan(
        parameters=sum(weight.numel() for weight in weights),
        trained=trained,
        weights=size,
        gradients=4 * trained,
        optimizer=8 * trained,
        reference=4 * trained if work.reference else 0,
        context_per_row=one,
        acting=work.rows * one + WORKING * acting,
        backward=kept * calls + contexts + WORKING * largest,
        stored_per_chunk=stored,
        stored=stored * chunks,
        if_contexts_were_stored=one * chunks,
        unit=4 * largest_unit(policy),
    )


def largest_unit(policy: nn.Module) -> int:
    """Return the number of trained weights in the largest block, or outside of blocks if there are more."""
    counts = [sum(w.numel() for w in block.parameters() if w.requires_grad) for block in blocks_of(policy)]
    return max(sum(w.numel() for w in policy.parameters() if w.requires_grad) - sum(counts), *counts, 0)


def stored_bytes(full: FullSize, work: Workload) -> int:
    """Return the bytes of a chunk: float32 latents and scores, uint8 images, tokens with their mask, a state."""
    spec: FlowSpec = full.policy.spec
    latents = 4 * (spec.num_steps + 1) * spec.horizon * spec.latent_dim
    scores = 3 * 4 * spec.num_steps * spec.exec_steps * spec.action_dim
    side = work.frame if full.pixels is None else full.pixels
    return latents + scores + spec.num_steps + work.views * side * side * 3 + full.tokens * 9 + 4 * spec.latent_dim


def context_bytes(context: Any) -> int:
    """Return the bytes of all tensors in a context, nested ones too, each once."""
    found: dict[int, Tensor] = {}
    _collect(context, found)
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def measured(call: Callable[[], Any], policy: nn.Module) -> tuple[int, int]:
    """Return the largest tensor that a call makes, and all that it keeps for its backward pass, in bytes."""
    own = {weight.untyped_storage()._cdata for weight in [*policy.parameters(), *policy.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _Largest() as largest:
        call()
    return largest.found, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def scored(full: FullSize, work: Workload, steps: int) -> Float[Tensor, "b h d"]:
    """Compute velocities of a microbatch at so many flow steps, as the update does."""
    context: Context = full.encode(work.microbatch, work.views)
    rows, spec = work.microbatch * steps, full.policy.spec
    repeated = context if steps == 1 else context.repeat_interleave(steps)
    latents = torch.zeros(rows, spec.horizon, spec.latent_dim, device=device_of(full.policy))
    return full.policy.velocity(repeated, latents, torch.full((rows,), 0.5, device=latents.device))


class _Largest(TorchDispatchMode):
    """Track the largest tensor that any operation returns, in bytes."""

    found: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, list | tuple) else (made,):
            if isinstance(each, Tensor):
                self.found = max(self.found, each.numel() * each.element_size())
        return made


def _collect(value: Any, found: dict[int, Tensor]) -> None:
    if isinstance(value, Tensor):
        found[value.untyped_storage()._cdata] = value
    elif isinstance(value, dict):
        for each in value.values():
            _collect(each, found)
    elif isinstance(value, list | tuple):
        for each in value:
            _collect(each, found)
    elif hasattr(value, "__dict__"):
        _collect(vars(value), found)
