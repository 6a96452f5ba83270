"""Measure one forward of the bundled transformer by each engine, beside the matrix multiplication of this processor.

    python -m benchmarks.speed.engines --json benchmarks/results/speed/engines.json

Engines take turns, and what is compared is their ratio. The peak is that of two matrix products of the same run: one of
the shapes of this network, one of large squares. `exported_s` is the time until the first output, with an empty cache.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.speed.harness import gflop_of, matmul_peak, recorded
from prophet_gym._io.engine import make_engine
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.prophet._transformer import Conditions, predict_velocity

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    rows: tuple[int, ...] = (1, 4, 16)
    """Sub-environments at once."""
    engines: tuple[str, ...] = ("eager", "openvino")
    """Engines; `compiled` takes a minute or more to compile and needs a C++ compiler."""
    rounds: int = 15
    """Measurements of each."""
    json: Path | None = None
    """Write the numbers to this file."""


def inputs_of(config: Any, network: Any, rows: int) -> tuple[Conditions, Tensor, Tensor]:
    """Return random inputs of `predict_velocity`, of the right shapes."""
    source = torch.Generator().manual_seed(0)
    side, slots = config.frame_size[0] // 8, config.chunk // 4
    channels = network.config["latent_channels"]

    def draw(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=source)

    conditions = Conditions(
        given=draw(channels, 1, side, side),
        history=draw(channels, config.past_frames // 4 - 1, side, side),
        actions=draw((1 + slots) * network.config["actions_per_slot"], network.config["action_dim"]),
        action_frames=draw(network.config["action_frame_channels"], 1 + slots, side, side),
    )
    return conditions, draw(channels, slots, side, side), torch.full((rows,), 1 - 1e-5)


def compared(args: Args, model: Any, rows: int) -> dict[str, Any]:
    """Return milliseconds of every engine at a batch size."""
    inputs = inputs_of(model.config, model.transformer, rows)
    calls: dict[str, Call] = {}
    ready = {}
    for name in args.engines:
        began = time.perf_counter()
        calls[name] = partial(predict_velocity, make_engine(model.transformer, name) or model.transformer, *inputs)
        first = calls[name]()
        ready[name] = (time.perf_counter() - began, float((first - calls[args.engines[0]]()).abs().max()))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    flops = gflop_of(partial(predict_velocity, model.transformer, *inputs))
    return {"gflop": round(sum(flops), 2)} | {
        name: {
            "ms": round(1000 * statistics.median(each), 1),
            "fastest_ms": round(1000 * min(each), 1),
            "exported_s": round(ready[name][0], 1),
            "largest_difference": ready[name][1],
        }
        for name, each in times.items()
    }


@torch.no_grad()
def main(args: Args) -> None:
    with recorded(args.json) as found, tempfile.TemporaryDirectory() as cache:
        os.environ["PROPHET_CACHE"] = cache
        model: Any = Checkpoint.named("bundled").world_model()
        peaks = [max(matmul_peak().values())]
        for rows in args.rows:
            found[str(rows)] = compared(args, model, rows)
            peaks.append(max(matmul_peak().values()))
        found["peak"] = best = max(peaks)  # the clock of a processor varies
        for rows, name in itertools.product(args.rows, args.engines):
            run = found[str(rows)][name]
            run["of_peak"] = round(1000 * found[str(rows)]["gflop"] / run["fastest_ms"] / best, 2)
            print(f"{rows:3} {name:9} {run}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
