"""Train the full Prophet on windows of images: pixels -> latents -> rectified flow, on any number of processes.

All randomness of a window is a function of the seed and of its place in the sequence that all processes read, so a run
resumes to the same bits, and two processes compute what one does with twice the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prophet_gym._io.lora import add_lora
from prophet_gym.data._windows import WindowDataset, WindowLoader, Windows, WindowShape
from prophet_gym.prophet import FullProphet, Prophet
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, SPATIAL_COMPRESSION
from prophet_gym.prophet._full import FullConfig
from prophet_gym.prophet._history import history_levels
from prophet_gym.train._fit import FitConfig, fit
from prophet_gym.train._objective import ClipObjective, draw
from prophet_gym.train._plans import draw_batch, require_drawable


@dataclass(frozen=True)
class Batching:
    """Say what a step of training reads: `rows` windows, each of so many chunks, in every process.

    From the second chunk on a window continues on the model's own frames (self-forcing), which take `sampler_steps`.
    """

    rows: int = 1
    chunks: int = 1
    sampler_steps: int = 5
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "chunks", "sampler_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def config_of(prophet: Prophet) -> FullConfig:
    """Return the config of a full Prophet; a small one is refused."""
    if not isinstance(prophet.config, FullConfig):
        raise ValueError("the base must be a full Prophet, got a small one; `prophet train` is for those")
    return prophet.config


def drawing(prophet: Prophet) -> Prophet:
    """Return the same full Prophet, but one that draws the tools in training and in dreams."""
    drawn = FullProphet(prophet.transformer, prophet.autoencoder, replace(config_of(prophet), draw_tools=True))
    drawn.source = prophet.source
    return drawn


def clip_shape(config: FullConfig, chunks: int) -> WindowShape:
    """Return the shape of the windows that a checkpoint is trained on."""
    return WindowShape(config.history_frames, config.chunk * chunks, config.frame_size)


def choose_trained(prophet: Prophet, *, lora_rank: int = 0, seed: int = 0) -> None:
    """Mark what is trained: adapters if `lora_rank` is above 0, else all weights that are read.

    Text is off, so the cross-attentions stay as they are (reference.md: "Text"), and so does the action-frame
    conditioner of a model that does not draw the tools. Adapters are of q, k, v, output and both MLP layers in every
    block; alpha is their rank, as in the paper's 16 and 16 (reference.md: "Training objective").
    """
    transformer = prophet.transformer
    if lora_rank:
        if not transformer.action_embedder.to_embedding.linear_2.weight.any():
            raise ValueError(
                "the base does not follow actions yet (its action stream puts out zero), and adapters "
                "cannot teach it that; train all weights: --lora-rank 0"
            )
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            add_lora(transformer, lora_rank)
        return
    # What no gradient reaches would make data-parallel training wait for ever.
    unread = {"attn2", "norm2"} | (set() if config_of(prophet).draw_tools else {"action_frame_embedder"})
    transformer.requires_grad_(requires_grad=True)
    for name, module in transformer.named_modules():
        if name.split(".")[-1] in unread:
            module.requires_grad_(requires_grad=False)
    memory = transformer.history_memory
    if memory is not None:
        # The levels that a short history does not reach.
        latents = 1 + (config_of(prophet).history_frames - 1) // FRAMES_PER_LATENT
        read = set(history_levels(latents, memory.order))
        memory.requires_grad_(requires_grad=bool(read))
        for number, level in enumerate(memory.levels):
            level.requires_grad_(requires_grad=number in read)


def train_full(
    prophet: Prophet, clips: WindowDataset, folder: Path, config: FitConfig, batching: Batching, *, accelerator: Any
) -> None:
    """Take the steps that are left; at the end the weights that require gradients hold their moving average.

    A run that was killed resumes from its newest state, also with another number of processes, rows or workers.
    """
    require_fit(prophet, clips, batching, accelerator)
    autoencoder: Any = prophet.autoencoder
    objective = ClipObjective(prophet.transformer, autoencoder, batching.sampler_steps)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    loader = WindowLoader(clips, batching.rows, seed=config.seed, rank=rank, ranks=ranks, workers=batching.workers)
    batches, device = placed(loader), accelerator.device
    draw_tools, channels = config_of(prophet).draw_tools, prophet.transformer.config["latent_channels"]

    # The random numbers belong to the windows' places, not to the step, so that processes and rows may change.
    def loss(model: Any, _step: int, _generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch, places = next(batches)
        height, width = batch.future.shape[2:4]
        slots = batch.actions.shape[1] // batching.chunks // FRAMES_PER_LATENT
        shape = (channels, slots, height // SPATIAL_COMPRESSION, width // SPATIAL_COMPRESSION)
        draws = draw(places, batching.chunks, shape, seed=config.seed).to(device)
        images = draw_batch(batch, device) if draw_tools else None
        return model(batch.to(device), draws, images), {}

    fit(objective, loss, config, folder, name="full", state=(loader,), accelerator=accelerator)


def require_fit(prophet: Prophet, clips: WindowDataset, batching: Batching, accelerator: Any) -> None:
    """Raise ValueError unless model, clips and accelerator go together."""
    config = config_of(prophet)
    if clips.shape != clip_shape(config, batching.chunks):
        raise ValueError(f"clips must be {clip_shape(config, batching.chunks)} for this checkpoint, got {clips.shape}")
    expected = prophet.transformer.config["action_dim"]
    for number, entry in enumerate(clips.entries):
        if (found := clips[number, 0].actions.shape[2]) != expected:
            raise ValueError(
                f"the model reads actions of {expected} dimensions, data set {number}, a "
                f"{type(entry.source).__name__}, gives {found}; give its MixtureEntry a plan"
            )
    if config.draw_tools:
        require_drawable(clips)
    # The average and the adapters are taken of whole weights, which sharding would cut.
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise ValueError(f"every process must hold all weights, got {kind}; use `accelerate launch --multi_gpu`")


def placed(loader: WindowLoader) -> Iterator[tuple[Windows, list[int]]]:
    """Yield batches with each window's place in the sequence that all processes read."""
    for batch in loader:
        first = loader.read - loader.rows * loader.ranks
        yield batch, [first + row * loader.ranks + loader.rank for row in range(loader.rows)]
