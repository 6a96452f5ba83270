"""What processes that train together must agree on, who of them writes, and how the loss of one is named."""

import atexit
import gc
import json
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch.distributed as dist

from prophet_gym.errors import ProcessLostError, ProphetError

PACKAGES = ("prophet-gym", "torch", "accelerate", "numpy", "gymnasium", "diffusers", "transformers", "peft")
"""Packages whose code computes what the processes must compute alike."""
_PATIENCE = timedelta(hours=2)  # for the slowest rollouts; what is lost is mostly seen at once
_LOST = ("connection closed by peer", "connection reset", "timed out", "connection refused", "broken pipe", "gloo")


def joined(*, cpu: bool = False, precision: str | None = None, unused: bool = False) -> Any:
    """Return the `Accelerator` of the processes that were started together, of a single one without a launcher.

    From here on "cuda" is this process's own GPU. `precision` is that of the launcher if not given; `unused` says that
    a training step need not reach every weight.
    """
    # AdamW imports this module at its first step, and its default arguments are the group of that moment: a reference
    # that outlives the group. Imported before there is a group, it holds none.
    import_module("torch.distributed.nn")
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    handlers = [InitProcessGroupKwargs(timeout=_PATIENCE), DistributedDataParallelKwargs(find_unused_parameters=unused)]
    found = Accelerator(cpu=cpu, mixed_precision=precision, device_placement=False, kwargs_handlers=handlers)
    # Gloo's threads must end before the interpreter does, or the process may abort after its work is done.
    atexit.register(_leave)
    return found


def is_main() -> bool:
    """Return whether this process writes and shows: the first of several, or the only one."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def gathered(value: Any) -> list[Any]:
    """Return the value of every process, in their order; all must ask for it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def by_main(write: Callable[[], object]) -> None:
    """Let the main process write, and the others wait until it has."""
    if is_main():
        write()
    gathered(None)


def package_versions() -> dict[str, str]:
    """Return the installed releases that computing alike takes."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def require_alike(what: str, mine: Mapping[str, Any], advice: str) -> None:
    """Raise ValueError on every process where processes differ, and say who has what.

    `what` names what is compared, for example "packages", and `advice` says what to do.
    """
    texts = {name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in mine.items()}
    if told := differences(gathered((socket.gethostname(), texts))):
        raise ValueError(f"processes that train together must have the same {what}: {told}; {advice}")


def differences(found: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """Say which entries differ and who has what, by (host, entries) of every process; nothing if none does."""
    told = []
    for name in sorted({name for _, entries in found for name in entries}):
        owners: dict[str, list[str]] = {}
        for rank, (host, entries) in enumerate(found):
            owners.setdefault(entries.get(name, "missing"), []).append(f"{rank} ({host})")
        if len(owners) > 1:
            shown = (
                f"{value} on {', '.join(who[:4])}{f' and {len(who) - 4} more' if len(who) > 4 else ''}"
                for value, who in owners.items()
            )
            told.append(f"{name} is {' but '.join(shown)}")
    return "; ".join(told)


@contextmanager
def lost_named(doing: str, advice: str) -> Iterator[None]:
    """Raise ProcessLostError where another process has gone while this one was `doing` something with it."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        # Ours name what was lost themselves, in words like those below: a simulator, or the server of a remote env.
        if isinstance(error, ProphetError) or not (
            isinstance(error, dist.DistError) or any(part in text for part in _LOST)
        ):
            raise
        first = str(error).splitlines()[0]
        raise ProcessLostError(
            f"another process was lost while process {dist.get_rank()} of {dist.get_world_size()} on "
            f"{socket.gethostname()} was {doing} ({first}): see the output of the others for why. {advice}"
        ) from error


def _leave() -> None:
    # Sharded modules know each other in a circle, and hold the group.
    gc.collect()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()  # what has let go of the group only now
