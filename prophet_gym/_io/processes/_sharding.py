"""Weights, gradients and moments in shards, one on each process (FSDP2), and checkpoints of them.

Checkpoints are written by torch's distributed checkpoints (DCP) as safetensors, which hold no code to unpickle, and are
read by any number of processes.
"""

import atexit
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prophet_gym._checks import first_line, shown
from prophet_gym._io.processes._together import by_main
from prophet_gym.errors import CheckpointError

Place = Callable[[str, torch.Size, torch.dtype], Tensor]
"""`place(name, shape, dtype)`: the tensor, on its device and sharded as it shall be, that a stored one is read into."""


def shard(
    module: nn.Module, optimizer: torch.optim.Optimizer | None, *, methods: Sequence[str] = (), total: bool = False
) -> None:
    """Spread the weights of a module over all processes, and point the optimizer, still without moments, at the shards.

    A block of a transformer (as its `_no_split_modules` says) is gathered as one, what lies outside of blocks together.
    Where `methods` are called in place of `forward`, gathered weights stay until the backward pass has used them: keys
    and values of a prefix leave its blocks unseen. Gradients are summed over the processes if `total`, else averaged.

    This is torch's own call and not accelerate's `prepare`, which shards on GPUs alone, knows no entry but `forward`,
    and averages.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # What the methods return is changed nowhere.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    mesh = init_device_mesh(next(module.parameters()).device.type, (dist.get_world_size(),))
    # Torch's caches hold a mesh for good, and the mesh its groups: their threads would outlive the interpreter.
    atexit.register(getattr(mesh, "_pg_registry", {}).clear)
    names = {id(weight): name for name, weight in module.named_parameters()}
    for each in [*blocks_of(module), module]:
        made: Any = fully_shard(each, mesh=mesh, reshard_after_forward=False if methods else None)
        # Gloo knows sums alone.
        made.set_force_sum_reduction_for_comms(True)
        if total:
            made.set_gradient_divide_factor(1.0)
        for method in (*getattr(each, "entries", ()), *(methods if each is module else ())):
            register_fsdp_forward_method(each, method)
    sharded = dict(module.named_parameters())
    for group in () if optimizer is None else optimizer.param_groups:
        group["params"] = [sharded[names[id(each)]] if id(each) in names else each for each in group["params"]]


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of transformers in a module, which are gathered one by one."""
    own = getattr(module, "_no_split_modules", None)
    parts = module.modules() if own is None else [module]
    names = {name for each in parts for name in getattr(each, "_no_split_modules", None) or ()}
    blocks = [each for each in module.modules() if type(each).__name__ in names and each is not module]
    # A block inside of a block is gathered with it.
    inner = {id(part) for block in blocks for part in block.modules() if part is not block}
    return [block for block in blocks if id(block) not in inner and any(True for _ in block.parameters())]


@contextmanager
def gathered_weights(*modules: nn.Module) -> Iterator[None]:
    """Keep the weights of sharded modules whole inside; each process computes at its own pace, without gradients."""
    from torch.distributed.fsdp import FSDPModule

    parts = [each for module in modules for each in module.modules() if isinstance(each, FSDPModule)]
    for each in parts:
        each.unshard()
    try:
        yield
    finally:
        for each in parts:
            each.reshard()


def is_sharded(tensor: Any) -> bool:
    """Return whether each process holds a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """Return all of a sharded tensor, which every process must ask for; another tensor as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def as_stored_in(like: Tensor, tensor: Tensor) -> Tensor:
    """Return a whole tensor sharded as `like` is, where that is sharded and of its shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or is_sharded(tensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def room_like(like: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return an empty tensor to read into, sharded as `like` is, where that is of its shape."""
    if like is None or like.shape != shape:
        return torch.empty(shape, dtype=dtype)
    return torch.empty_like(like, dtype=dtype, requires_grad=False)


def flattened(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings under names such as `optimizer/state/0/step`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        found |= flattened(value, f"{prefix}{key}/") if nested else {f"{prefix}{key}": value}
    return found


def nested(leaves: Mapping[str, Any]) -> dict[Any, Any]:
    """Return what `flattened` took apart, without empty mappings; numbers are keys as they were."""
    tree: dict[Any, Any] = {}
    for name, value in leaves.items():
        *path, last = (int(key) if key.isdecimal() else key for key in name.split("/"))
        inner = tree
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return tree


def write_shards(folder: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Write the tensors of nested mappings, each process its shards, into a new folder; all processes must do it.

    Returns:
        The leaves that are no tensors, by the names of `flattened`.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    leaves = flattened(tree)
    tensors = {name: each for name, each in leaves.items() if isinstance(each, Tensor)}
    # What a killed run left there may be of another number of processes.
    by_main(lambda: shutil.rmtree(folder, ignore_errors=True))
    by_main(lambda: folder.mkdir(parents=True))
    try:
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(tensors, storage_writer=writer)
    # Torch's own exception is of another kind, a BaseException.
    except (RuntimeError, OSError, CheckpointException) as error:
        raise OSError(f"cannot write {folder}: {first_line(error)}; is the disk full?") from error
    return {name: each for name, each in leaves.items() if name not in tensors}


def read_shards(folder: Path, place: Place, *, chosen: str = "") -> dict[str, Tensor]:
    """Return the tensors of `write_shards` whose names begin with `chosen`, each in its place.

    Raises:
        CheckpointError: A file is damaged or missing, or a place has another shape.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        reader = dcp.HuggingFaceStorageReader(str(folder))
        known: dict[str, Any] = {
            n: each for n, each in reader.read_metadata().state_dict_metadata.items() if n.startswith(chosen)
        }
        places = {name: place(name, each.size, each.properties.dtype) for name, each in known.items()}
        if wrong := [name for name, each in known.items() if places[name].shape != each.size]:
            raise CheckpointError(f"{folder} is of another model: {shown(', '.join(wrong[:10]))} have other shapes")
        with warnings.catch_warnings():
            # It warns that it reads alone, which is what is asked for.
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            dcp.load(places, storage_reader=reader, no_dist=not dist.is_initialized())
    except CheckpointError:
        raise
    except (Exception, CheckpointException) as error:  # whatever a damaged file makes the readers raise
        raise CheckpointError(f"cannot read {folder}: {first_line(error)}; it is damaged or cut") from error
    return places
