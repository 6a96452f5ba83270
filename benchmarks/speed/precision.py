"""Measure what bfloat16 would gain in the bundled transformer, and how far its dreams lie from those of float32.

    python -m benchmarks.speed.precision --json benchmarks/results/speed/precision.json

Only on processors that multiply bfloat16 natively (AVX512-BF16, AMX): others emulate it. No engine of ours uses it.
"""

import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.speed.engines import inputs_of
from benchmarks.speed.harness import recorded
from prophet_gym._io import engine
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.evaluation._dreams import dream
from prophet_gym.prophet._transformer import predict_velocity


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    rows: int = 16
    """Sub-environments at once."""
    chunks: int = 8
    """Chunks of the dreams that are compared."""
    rounds: int = 10
    """Measurements of each precision, in turns."""
    json: Path | None = None
    """Write the numbers to this file."""


@torch.no_grad()
def main(args: Args) -> None:
    with recorded(args.json) as found:
        checkpoint = Checkpoint.named("bundled")
        model: Any = checkpoint.world_model()
        inputs = inputs_of(model.config, model.transformer, args.rows)
        given: list[Any] = []

        def keep(hidden_states: Tensor, timestep: Tensor, **named: Tensor | None) -> Tensor:
            given[:] = [hidden_states, timestep, {name: each for name, each in named.items() if each is not None}]
            return model.transformer(hidden_states, timestep, **named)

        predict_velocity(keep, *inputs)
        exported = engine._export(model.transformer, *given)
        runs = {name: engine._Requests(engine._core(), exported, name) for name in ("f32", "bf16")}

        def run(name: str, hidden_states: Tensor, timestep: Tensor, **named: Tensor | None) -> Tensor:
            return engine._infer(runs[name], [hidden_states, timestep, *(e for e in named.values() if e is not None)])

        calls = {name: partial(predict_velocity, partial(run, name), *inputs) for name in runs}
        outputs, times = {name: call() for name, call in calls.items()}, {name: [] for name in calls}
        for _ in range(args.rounds):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - began)
        error = (outputs["bf16"] - outputs["f32"]).square().mean().sqrt() / outputs["f32"].std()
        found |= {"ms": {name: round(1000 * statistics.median(each), 1) for name, each in times.items()}}
        found["relative_error"] = round(float(error), 4)
        starts = checkpoint.initial_states()
        first = torch.from_numpy(np.stack([starts[number].frames for number in range(args.rows)]))
        actions = np.random.default_rng(0).uniform(-0.3, 0.3, (args.rows, args.chunks * model.chunk, 7))
        frames = {}
        for name in runs:
            model._engine = partial(run, name)
            dreamt = dream(model, model.encode(first), actions.astype(np.float32), range(args.rows))
            frames[name] = dreamt.frames[:, model.chunk - 1 :: model.chunk].astype(int)
        apart = abs(frames["bf16"] - frames["f32"])
        found["largest_difference"] = [int(apart[:, chunk].max()) for chunk in range(args.chunks)]
        found["mean_difference"] = [round(float(apart[:, chunk].mean()), 3) for chunk in range(args.chunks)]
        print(found)


if __name__ == "__main__":
    main(tyro.cli(Args))
