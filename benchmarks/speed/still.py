"""Measure what leaving out the tokens of cells that stand still would change in the bundled model's dreams.

    python -m benchmarks.speed.still --json benchmarks/results/speed/still.json

Which cells stand still is taken from the whole computation: no rule that has to guess them can do better. A token is
left out of every block, in both generated slots, where the gate of `keep_still` opens less than `--open` in all frames
of its cells; the latent there is the last given one, as the gate makes it.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.harness import recorded
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT
from prophet_gym.world_model import Chunk, State


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    rows: int = 8
    """Dreams."""
    chunks: int = 8
    """Chunks of each; every one begins at the state of the whole computation."""
    open: tuple[float, ...] = (-1.0, 0.02, 0.1, 0.5)
    """Leave out the tokens where the gate opens no further; -1 leaves none out, which checks this computation."""
    json: Path | None = None
    """Write the numbers to this file."""


def forward(transformer: Any, kept: Tensor, hidden_states: Tensor, timestep: Tensor, **given: Any) -> Tensor:
    """Run the transformer for one element on the kept tokens (a mask of slots by tokens); the others put out 0."""
    size, mask = hidden_states.shape[3:], given["condition_mask"]
    x = torch.cat([hidden_states, mask, torch.zeros_like(mask), given["action_frames"]], dim=1)
    rope, x = transformer.rope(x), transformer.patch_embed(x)
    grid, chosen = x.shape[1:4], kept.flatten()
    x = x.flatten(1, 3)[:, chosen][:, None]
    time = transformer.time_embed.time_proj(timestep.flatten()).unflatten(0, timestep.shape)
    embedding, modulation = transformer.action_embedder(given["actions"], hidden_states.shape[2])
    embedding, modulation = time + embedding, transformer.time_embed.t_embedder(time) + modulation
    slots = torch.arange(grid[0]).repeat_interleave(grid[1] * grid[2])[chosen]
    embedding, modulation = (each[:, None, slots] for each in (transformer.time_embed.norm(embedding), modulation))
    rope = tuple(each[chosen] for each in rope)
    memory = transformer.history_memory(given["history"])
    for block in transformer.transformer_blocks:
        x = block(x, embedding, modulation, rope, memory, None)
    x = transformer.proj_out(transformer.norm_out(x, embedding, modulation))
    whole = x.new_zeros(1, len(chosen), x.shape[-1])
    whole[:, chosen] = x[:, 0]
    return transformer._unpatchify(whole.unflatten(1, (grid[0], -1)), grid, size)


def gate_of(latents: Tensor, last: Tensor, threshold: float, softness: float) -> Tensor:
    """Return how far the gate of `keep_still` is open, (frames, h, w)."""
    change = (latents - last[:, None]).square().mean(dim=2).sqrt()
    return torch.sigmoid((F.max_pool2d(change, 3, stride=1, padding=1) - threshold) / softness)[0]


def dream(model: Any, state: State, actions: Tensor, seed: int, network: Any) -> Chunk:
    """Dream one chunk, the transformer run by `network`."""
    model._engine = network
    return model.rollout(state, actions, generators=[torch.Generator().manual_seed(seed)])


@torch.no_grad()
def main(args: Args) -> None:
    with recorded(args.json) as found:
        checkpoint = Checkpoint.named("bundled")
        model: Any = checkpoint.world_model()
        starts, random = checkpoint.initial_states(), np.random.default_rng(0)
        seen: dict[float, list[tuple[float, int, float]]] = {limit: [] for limit in args.open}
        for row in range(args.rows):
            state = model.encode(torch.from_numpy(starts[row].frames)[None])
            for chunk in range(args.chunks):
                actions = torch.from_numpy(random.uniform(-0.6, 0.6, (1, model.chunk, 7)).astype(np.float32))
                dreamt = partial(dream, model, state, actions, 100 * row + chunk)
                full = dreamt(model.transformer.forward)
                last = state["latents"][:, -1]
                latents = full.state["latents"][:, -model.chunk :]
                still = gate_of_tokens(model, latents, last)
                for limit in args.open:
                    moving = still > limit
                    kept = torch.cat([torch.ones_like(moving[:1]), moving]).flatten(1)
                    part = dreamt(partial(forward, model.transformer, kept))
                    apart = (part.frames.int() - full.frames.int()).abs()
                    seen[limit].append((1 - float(kept.float().mean()), int(apart.max()), float(apart.float().mean())))
                state = full.state
        rows = []
        for limit, each in seen.items():
            share, largest, mean = zip(*each, strict=True)
            rows.append(
                {
                    "open": limit,
                    "left_out": round(float(np.mean(share)), 3),
                    "largest_difference": max(largest),
                    "median_largest_difference": float(np.median(largest)),
                    "chunks_within_2": round(float(np.mean(np.array(largest) <= 2)), 3),
                    "mean_difference": round(float(np.mean(mean)), 3),
                }
            )
        found |= {"chunks": args.rows * args.chunks, "limits": rows}
        print(found)


def gate_of_tokens(model: Any, latents: Tensor, last: Tensor) -> Tensor:
    """Return how far the gate is open at most in a token's cells and frames, for both generated slots the same."""
    gate = gate_of(latents, last, *model.config.stillness)
    most = F.max_pool2d(gate.amax(0)[None], model.transformer.config["patch_size"][1])[0]
    return most[None].expand(latents.shape[1] // FRAMES_PER_LATENT, -1, -1)


if __name__ == "__main__":
    main(tyro.cli(Args))
