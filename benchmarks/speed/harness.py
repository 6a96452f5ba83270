"""Write beside measured speeds what they were measured under: machine, load, commit, command, peak of the run."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prophet_gym.evaluation._report import machine, write_json

ROOT = Path(__file__).parents[2]
SHAPES = {"of_the_network": (3072, 192, 768), "squares": (1536, 1536, 1536)}
"""Matrix products (m, k) x (k, n): the largest of the bundled transformer at 16 sub-environments, and one that suits
processors better."""


def matmul_peak(seconds: float = 1.0, kind: str = "float32") -> dict[str, float]:
    """Return GFLOP/s of matrix products, the fastest of many: what a network of them could reach at most."""
    import torch

    found, dtype = {}, getattr(torch, kind)
    for name, (m, k, n) in SHAPES.items():
        left, right = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        fastest, end = float("inf"), time.perf_counter() + seconds / len(SHAPES)
        while time.perf_counter() < end:
            began = time.perf_counter()
            left @ right
            fastest = min(fastest, time.perf_counter() - began)
        found[name] = round(2 * m * k * n / fastest / 1e9, 1)
    return found


def gflop_of(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the GFLOP of the linear layers of a call, and those of its attention."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # As matrix products: the fused attention of a CPU is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    counts = counter.get_flop_counts()["Global"]
    attention = sum(count for operation, count in counts.items() if "bmm" in str(operation))
    return (counter.get_total_flops() - attention) / 1e9, attention / 1e9


@contextmanager
def recorded(path: Path | None) -> Iterator[dict[str, Any]]:
    """Give a dictionary for the numbers, and write it with what they were measured under; nothing after an error."""
    import torch

    found: dict[str, Any] = {}
    load, began = os.getloadavg()[0], time.perf_counter()
    yield found
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    module = sys.modules["__main__"].__spec__.name
    found |= {
        "peak_gflops": matmul_peak(),
        "threads": torch.get_num_threads(),
        "load": {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)},
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "command": " ".join(["python -m", module.removesuffix(".__main__"), *sys.argv[1:]]),
        "commit": commit.strip(),
        "machine": machine(),
    }
    write_json(path, found)
