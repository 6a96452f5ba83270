"""Measure one forward of the bundled transformer by each engine, beside the matrix multiplication of this processor.

    python -m benchmarks.speed.engines --json benchmarks/results/speed/engines.json

`eager` is the network as it is trained, `fused` the same function of the same weights with joined projections
(`velocity.py`), `compiled` that by `torch.compile`, and `openvino` that exported to OpenVINO, where it is installed.
Engines take turns, and what is compared is their ratio. The peak is that of two matrix products of the same run: one of
the shapes of this network, one of large squares.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.harness import matmul_peak, recorded
from benchmarks.speed.velocity import VelocityNetwork
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.prophet._transformer import Conditions, predict_velocity

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Args:
    """Options of the benchmark."""

    rows: tuple[int, ...] = (1, 4, 16)
    """Sub-environments at once."""
    engines: tuple[str, ...] = ("eager", "fused", "openvino")
    """Engines; `compiled` takes a minute or more to compile and needs a C++ compiler."""
    rounds: int = 15
    """Measurements of each."""
    json: Path | None = None
    """Where the numbers are written."""


class Eager(nn.Module):
    """Run the network as it is trained, with the inputs of `VelocityNetwork`."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, given: Tensor, noisy: Tensor, history: Tensor, actions: Tensor, drawn: Tensor, time: Tensor):
        return predict_velocity(self.transformer, Conditions(given, history, actions, drawn), noisy, time)  # pyright: ignore


def inputs_of(config: Any, network: Any, rows: int) -> tuple[Tensor, ...]:
    """Return random inputs of the right shapes."""
    source = torch.Generator().manual_seed(0)
    side, slots = config.frame_size[0] // 8, config.chunk // 4
    channels = network.config["latent_channels"]

    def draw(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=source)

    return (
        draw(channels, 1, side, side),
        draw(channels, slots, side, side),
        draw(channels, config.past_frames // 4 - 1, side, side),
        draw((1 + slots) * network.config["actions_per_slot"], network.config["action_dim"]),
        draw(network.config["action_frame_channels"], 1 + slots, side, side),
        torch.full((rows,), 1 - 1e-5),
    )


def openvino(network: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """Export to OpenVINO at this batch size."""
    import openvino as ov  # pyright: ignore[reportMissingImports]

    model = ov.convert_model(torch.export.export(network, inputs))
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    arrays = [tensor.numpy() for tensor in inputs]
    return lambda: torch.from_numpy(request.infer(arrays, share_inputs=True, share_outputs=True)[0])


def build(name: str, config: Any, transformer: Any, inputs: tuple[Tensor, ...]) -> Call:
    """Return a call of the engine on these inputs."""
    if name == "eager":
        eager = Eager(transformer).eval()
        return lambda: eager(*inputs)
    side = config.frame_size[0] // 16
    fused = VelocityNetwork(transformer, config.past_frames // 4 - 1, (1 + config.chunk // 4, side, side)).eval()
    if name == "openvino":
        return openvino(fused, inputs)
    compiled: Any = torch.compile(fused, dynamic=False) if name == "compiled" else fused
    return lambda: compiled(*inputs)


def compared(args: Args, model: Any, rows: int, best: float) -> dict[str, Any]:
    """Return milliseconds of every engine at a batch size, and what part of the peak `best` (GFLOP/s) they reach."""
    inputs = inputs_of(model.config, model.transformer, rows)
    calls: dict[str, Call] = {}
    ready = {}
    for name in args.engines:
        began = time.perf_counter()
        calls[name] = build(name, model.config, model.transformer, inputs)
        first = calls[name]()
        ready[name] = (time.perf_counter() - began, float((first - calls[args.engines[0]]()).abs().max()))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    with FlopCounterMode(display=False) as counter:
        Eager(model.transformer)(*inputs)
    flops = counter.get_total_flops() / 1e9
    return {"gflop": round(flops, 2)} | {
        name: {
            "ms": round(1000 * statistics.median(each), 1),
            "fastest_ms": round(1000 * min(each), 1),
            "of_peak": round(flops / min(each) / best, 2),
            "ready_s": round(ready[name][0], 1),
            "largest_difference": ready[name][1],
        }
        for name, each in times.items()
    }


@torch.no_grad()
def main(args: Args) -> None:
    with recorded(args.json) as found:
        best = max(matmul_peak().values())
        model: Any = Checkpoint.named("bundled").world_model()
        for rows in args.rows:
            found[str(rows)] = compared(args, model, rows, best)
            for name in args.engines:
                print(f"{rows:3} {name:9} {found[str(rows)][name]}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
