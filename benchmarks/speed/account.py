"""Say where the time of one forward of the transformer goes, operation by operation, beside the processor's peak.

    python -m benchmarks.speed.account --json benchmarks/results/speed/account.json

OpenVINO's own counters, for 16 sub-environments on one thread (with more, operations of two pieces overlap). Products
of matrices have a count of FLOPs, and so a part of the peak of one thread in the same run; the rest moves memory.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.speed.engines import inputs_of
from benchmarks.speed.harness import gflop_of, matmul_peak, recorded
from prophet_gym._io import engine
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.prophet._transformer import predict_velocity

LINEAR, ATTENTION = "linear layers", "attention, with the rotation of its queries and keys"
KINDS = {
    "FullyConnected": LINEAR,
    "Convolution": LINEAR,
    "Subgraph": ATTENTION,
    "ScaledDotProductAttention": ATTENTION,
    "RMS": "norms",
    "MVN": "norms",
    "Multiply": "modulation, gates and other elementwise operations",
    "Add": "modulation, gates and other elementwise operations",
    "Subtract": "modulation, gates and other elementwise operations",
    "PowerStatic": "modulation, gates and other elementwise operations",
    "Transpose": "rearranging",
    "Concat": "rearranging",
    "VariadicSplit": "rearranging",
}
"""Types of OpenVINO's nodes and what they are here."""
OTHER = "other"


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    rows: int = 16
    """Sub-environments at once."""
    rounds: int = 5
    """Forwards, of which the fastest counts."""
    json: Path | None = None
    """Write the numbers to this file."""


@torch.no_grad()
def main(args: Args) -> None:
    torch.set_num_threads(1)
    with recorded(args.json) as found:
        model: Any = Checkpoint.named("bundled").world_model()
        inputs = inputs_of(model.config, model.transformer, args.rows)
        given: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

        def keep(hidden_states: Tensor, timestep: Tensor, **named: Tensor | None) -> Tensor:
            tensors = {name: value for name, value in named.items() if value is not None}
            given.append((hidden_states, timestep, tensors))
            return model.transformer(hidden_states, timestep, **named)

        predict_velocity(keep, *inputs)
        hidden_states, timestep, named = given[0]
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
        exported = engine._export(model.transformer, hidden_states, timestep, named)
        request = engine._core().compile_model(exported, "CPU", options).create_infer_request()
        arrays = [tensor.contiguous().numpy() for tensor in (hidden_states, timestep, *named.values())]
        best: Counter[str] = Counter()
        peaks = [max(matmul_peak().values())]
        for _ in range(args.rounds):
            request.infer(arrays)
            times: Counter[str] = Counter()
            for node in request.profiling_info:
                times[KINDS.get(node.node_type, OTHER)] += 1000 * node.real_time.total_seconds()
            best = times if not best or times.total() < best.total() else best
            peaks.append(max(matmul_peak().values()))
        linear, attention = gflop_of(partial(predict_velocity, model.transformer, *inputs))
        gflop, found["peak"] = {LINEAR: linear, ATTENTION: attention}, max(peaks)
        found["parts"] = {
            name: {"ms": round(ms, 1), "part": round(ms / best.total(), 3)}
            | ({"of_peak": round(1000 * gflop[name] / ms / found["peak"], 2)} if name in gflop else {})
            for name, ms in best.most_common()
        }
        found["of_peak"] = round(1000 * (linear + attention) / best.total() / found["peak"], 2)
        print(found)


if __name__ == "__main__":
    main(tyro.cli(Args))
