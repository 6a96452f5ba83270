"""Use a processor well: bf16 where it multiplies it natively, memory that networks free at every call; and name it."""

import ctypes
import os
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Precision = Literal["auto", "bf16", "no"]
"""`bf16`, `no` (float32), or `auto`: bf16 on a CPU that multiplies it natively."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_BLOCK, _KEPT = 1 << 26, 1 << 30
PACKAGES = ("prophet-gym", "torch", "diffusers", "numpy", "opencv-python-headless")


def machine() -> dict[str, Any]:
    """Return what computed the numbers: processor, cores and package versions (None for what is not installed)."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


@cache
def reuse_memory() -> bool:
    """Keep freed blocks of up to 64 MB, about 1 GB in all, for this process; return whether that is possible.

    A network allocates and frees the same activations at every call, and the system clears each page again, see
    docs/speed.md. Larger blocks, such as weights, are given back as before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    # Older releases take 32 MB at most.
    blocks = mallopt(_M_MMAP_THRESHOLD, _BLOCK) or mallopt(_M_MMAP_THRESHOLD, _BLOCK >> 1)
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT) and blocks)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a context in which products and convolutions are computed in bf16, or one that changes nothing.

    Weights, their gradients and the optimizer stay in float32.
    """
    auto = precision == "auto" and device.type == "cpu" and _native()
    return torch.autocast(device.type, torch.bfloat16, enabled=auto or precision == "bf16")


def _native() -> bool:
    """Return whether this CPU has instructions for bf16, by what it says of itself; others emulate it slowly."""
    # A property and no measurement: a run that resumes must not depend on what else the machine does.
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def attend(
    query: Float[Tensor, "*b n d"], key: Float[Tensor, "*b m d"], value: Float[Tensor, "*b m d"]
) -> Float[Tensor, "*b n d"]:
    """Return the attention of `F.scaled_dot_product_attention`, whose gradient on a CPU is slow in bf16."""
    if torch.is_grad_enabled() and query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return ((query * query.shape[-1] ** -0.5) @ key.mT).softmax(-1) @ value
    return F.scaled_dot_product_attention(query, key, value)
