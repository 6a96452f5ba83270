"""Measure speed and memory of the full Prophet's vector env: published sizes, random weights.

    python benchmarks/gpu/full_env.py --device cuda --json benchmarks/results/full_env.json
    python benchmarks/gpu/full_env.py --tiny                             # the same code in seconds, on a CPU

What the weights are does not change what they cost. In a step of the env the past goes through the Wan VAE, then the
sampler calls the transformer once more than it has steps, then the chunk comes back through the VAE. Each number is a
median of several steps, after one that is not counted. The report is rewritten after each; what the time does not
allow or the memory does not hold is left out, and the report says so.
"""

import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from prophet_gym.envs import InitialStates, ProphetVectorEnv
from prophet_gym.evaluation._report import machine, write_json
from prophet_gym.prophet import FullProphet
from prophet_gym.prophet._autoencoder import WanAutoencoder
from prophet_gym.prophet._full import FullConfig, decode_chunk, encode_conditions
from prophet_gym.prophet._presets import FULL_TRANSFORMER, tiny_full_prophet
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.specs import InitialState


@dataclass(frozen=True)
class Args:
    rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Dreams at once."""
    sampler_steps: tuple[int, ...] = (35, 10, 5)
    repeats: int = 3
    """Steps of the env for each number."""
    minutes: float = 8.0
    """No number is begun after so much time."""
    device: str = "cpu"
    dtype: str = "bfloat16"
    engine: Literal["eager", "compiled", "graphs"] = "eager"
    """Run the transformer by PyTorch, compiled by it, or compiled to CUDA graphs, which no env offers yet."""
    render: str = "step"
    """Decode frames as the env does; `chunk` shows fewer, but the next chunk reads all, so none is left undecoded."""
    channels_last: bool = False
    """Keep channels last in the VAE's convolutions, which tensor cores may like better."""
    tiny: bool = False
    """The tiny preset, to try this script."""
    json: Path | None = None


def full_prophet(device: torch.device, dtype: torch.dtype) -> FullProphet:
    """Build the published sizes with random weights: 2.058 B of the transformer, the Wan 2.1 VAE."""
    torch.manual_seed(0)
    with device:
        transformer = ProphetTransformer3DModel(**FULL_TRANSFORMER).to(dtype)
        autoencoder = WanAutoencoder().to(dtype)
    return FullProphet(transformer, autoencoder, FullConfig())


def prepare(prophet: FullProphet, args: Args) -> None:
    """Set the engine and the layout of the VAE's weights."""
    if args.engine == "graphs":
        prophet._engine = torch.compile(prophet.transformer.forward, dynamic=False, mode="reduce-overhead")
    else:
        prophet.use_engine(args.engine)
    for layer in prophet.autoencoder.modules() if args.channels_last else ():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d):
            flat = isinstance(layer, torch.nn.Conv2d)
            layer.to(memory_format=torch.channels_last if flat else torch.channels_last_3d)  # pyright: ignore[reportCallIssue]


def with_steps(prophet: FullProphet, steps: int) -> FullProphet:
    """Return the same networks, run by the same engine, with another number of sampler steps."""
    assert isinstance(prophet.config, FullConfig)
    other = FullProphet(prophet.transformer, prophet.autoencoder, replace(prophet.config, steps=steps))
    other._engine = prophet._engine
    return other


def median_seconds(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the median time of a call, after one that is not counted; wait for the device's work."""
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def measure(prophet: FullProphet, rows: int, repeats: int, render: str = "step") -> dict[str, float | None]:
    """Measure seconds of an env step of `rows` chunks, frames a second, and the peak memory of the GPU."""
    device = next(prophet.transformer.parameters()).device
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, *prophet.frame_size, 3), dtype=np.uint8)
    starts = InitialStates([InitialState(frames, "lift")])
    envs = ProphetVectorEnv(prophet, starts, rows, max_episode_steps=None, render=render)
    envs.reset(seed=0)
    actions = rng.uniform(-0.3, 0.3, envs.action_space.shape).astype(np.float32)
    seconds = median_seconds(lambda: envs.step(actions), repeats, device)
    envs.close()
    return {
        "seconds_per_step": round(seconds, 4),
        "seconds_per_chunk": round(seconds / rows, 4),
        "frames_per_second": round(rows * prophet.chunk / seconds, 2),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if on_gpu else None,
    }


@torch.no_grad()
def measure_autoencoder(prophet: FullProphet, rows: int, repeats: int) -> dict[str, float]:
    """Measure the seconds that a step of `rows` chunks spends in the VAE, encoding the past and decoding the chunk."""
    config, autoencoder, device = prophet.config, prophet.autoencoder, next(prophet.transformer.parameters()).device
    assert isinstance(config, FullConfig)
    assert isinstance(autoencoder, WanAutoencoder)
    past = torch.randint(0, 256, (rows, config.history_frames + 1, *config.frame_size, 3), dtype=torch.uint8).to(device)
    actions = torch.zeros(rows, config.chunk, 1, device=device)
    order = prophet.transformer.config["history_order"]
    encode = lambda: encode_conditions(autoencoder, past, actions, order)  # noqa: E731
    given = encode().given
    latents = torch.randn(rows, given.shape[1], config.chunk // 4, *given.shape[3:], device=device)
    return {
        "encode_seconds": round(median_seconds(encode, repeats, device), 4),
        "decode_seconds": round(median_seconds(lambda: decode_chunk(autoencoder, given, latents), repeats, device), 4),
    }


def main(args: Args) -> None:
    device, began = torch.device(args.device), time.monotonic()
    dtype = getattr(torch, args.dtype)
    prophet = tiny_full_prophet().to(device, dtype) if args.tiny else full_prophet(device, dtype)
    prepare(prophet, args)
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else args.device,
        "dtype": str(prophet.transformer.dtype).removeprefix("torch."),
        "weights": {name: sum(p.numel() for p in getattr(prophet, name).parameters()) for name in prophet.networks},
        "chunk": prophet.chunk,
        "frame_size": prophet.frame_size,
        "autoencoder": {},
        "env": {},
        "left_out": {},
        "machine": machine(),
    }

    def take(what: str, key: str, run: Callable[[], dict[str, Any]]) -> None:
        """Measure one number, or note why not, and write what is known."""
        if time.monotonic() - began > 60 * args.minutes:
            report["left_out"][f"{what}, {key}"] = f"after {args.minutes:g} minutes"
        else:
            try:
                report[what][key] = run()
            except torch.cuda.OutOfMemoryError:
                report["left_out"][f"{what}, {key}"] = "out of memory"
            print(f"{what}, {key}: {report[what].get(key, 'out of memory')}", flush=True)
        write_json(args.json, report)

    for rows in args.rows:
        for steps in args.sampler_steps:
            dreams = with_steps(prophet, steps)
            take("env", f"{rows} rows, {steps} steps", lambda: measure(dreams, rows, args.repeats, args.render))  # noqa: B023
        take("autoencoder", f"{rows} rows", lambda: measure_autoencoder(prophet, rows, args.repeats))  # noqa: B023


if __name__ == "__main__":
    main(tyro.cli(Args))
