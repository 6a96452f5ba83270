"""Train the full Prophet on windows of images: pixels -> latents -> rectified flow, on any number of processes.

All randomness of a window is a function of the seed and of its place in the sequence that all processes read, so a run
resumes to the same bits, and two processes compute what one does with twice the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from prophet_gym._io.lora import add_lora
from prophet_gym.data._windows import WindowDataset, WindowLoader, Windows, WindowShape
from prophet_gym.prophet import FullProphet, Prophet
from prophet_gym.prophet._action_frames import action_video
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, SPATIAL_COMPRESSION, WanAutoencoder
from prophet_gym.prophet._flow import flow_times, karras_sigmas, sample_sigmas, velocity_loss
from prophet_gym.prophet._full import FullConfig, appended, decode_chunk, encode_history, sample_chunk
from prophet_gym.prophet._transformer import Conditions, HistoryOrder, ProphetTransformer3DModel, history_levels
from prophet_gym.train._fit import FitConfig, fit


@dataclass(frozen=True)
class Draws:
    """Hold the random numbers of a batch, a row for each window and a column for each chunk.

    `sigmas` and `noise` are those of the loss; `dream_noise` is what sampling of all chunks but the last starts from.
    """

    sigmas: Float[Tensor, "b n"]
    noise: Float[Tensor, "b n c t h w"]
    dream_noise: Float[Tensor, "b n1 c t h w"]


@dataclass(frozen=True)
class ToolVideos:
    """Hold images of the tools, now and after each action, in the rows `drawn`; black where they are not known."""

    video: UInt8[Tensor, "b f h w 3"]
    drawn: Bool[Tensor, " b"]


def draw(places: Sequence[int], chunks: int, latent_shape: Sequence[int], *, seed: int) -> Draws:
    """Draw random numbers by each window's place in the row that all processes read; `latent_shape` is `c t h w`."""
    sigmas, noise, dream_noise = [], [], []
    for place in places:
        # A generator for each place: the numbers do not depend on which process or batch the window is in.
        state = np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]) >> 1)
        sigmas.append(sample_sigmas(chunks, 1 + latent_shape[1], generator=generator))
        noise.append(torch.randn(chunks, *latent_shape, generator=generator))
        dream_noise.append(torch.randn(chunks - 1, *latent_shape, generator=generator))
    return Draws(torch.stack(sigmas), torch.stack(noise), torch.stack(dream_noise))


def clip_losses(
    transformer: ProphetTransformer3DModel,
    autoencoder: WanAutoencoder,
    history: UInt8[Tensor, "b p h w 3"],
    frames: UInt8[Tensor, "b f h w 3"],
    actions: Float[Tensor, "b k a"],
    draws: Draws,
    levels: Float[Tensor, " levels"],
    images: ToolVideos | None = None,
) -> Float[Tensor, " n"]:
    """Return the loss of each chunk (reference.md: "Training objective"); after the first one the past is dreamt.

    The target of a later chunk is the real future as the VAE encodes it after the model's own frame, so it is what must
    be decoded there. Gradients stop between chunks: n chunks cost n training steps, and sampling besides.

    `history` are the real frames before the current one, oldest first; `frames` the current and the following ones; the
    model's own frames are sampled along `levels`.

    Differences from the paper: Prophet trains on real pasts. In Self-Forcing (arXiv 2506.08009) a distribution-matching
    loss on the model's rollout runs back through its last sampler step; here, as in `dynamics.dream_loss`, the rollout
    is only the condition of the usual loss. Unlike there, where the prediction of the loss itself is the next past, a
    prediction from a random noise level is no image: the past is sampled, without gradient, in `len(levels)` calls.
    """
    count = draws.sigmas.shape[1]
    chunk = actions.shape[1] // count
    past = torch.cat([history, frames[:, :1]], dim=1)
    losses = []
    for n in range(count):
        window = slice(n * chunk, (n + 1) * chunk)
        shown = None if images is None else ToolVideos(images.video[:, n * chunk : (n + 1) * chunk + 1], images.drawn)
        order = transformer.config["history_order"]
        conditions, target = encode_chunk(autoencoder, past, frames[:, 1:][:, window], actions[:, window], order, shown)
        loss, _ = velocity_loss(transformer, conditions, target, draws.noise[:, n], flow_times(draws.sigmas[:, n]))
        losses.append(loss)
        if n + 1 < count:
            with torch.no_grad():
                dreamt = sample_chunk(transformer, conditions, draws.dream_noise[:, n], levels)
                past = appended(past, decode_chunk(autoencoder, conditions.given, dreamt))
    return torch.stack(losses)


def encode_chunk(
    autoencoder: WanAutoencoder,
    past: UInt8[Tensor, "b n h w 3"],
    following: UInt8[Tensor, "b k h w 3"],
    actions: Float[Tensor, "b k a"],
    order: HistoryOrder | None,
    images: ToolVideos | None = None,
) -> tuple[Conditions, Float[Tensor, "b c t y x"]]:
    """Return what a chunk is conditioned on, and the latents of the frames that follow the past."""
    latents = autoencoder.encode(torch.cat([past[:, -1:], following], dim=1))
    history = encode_history(autoencoder, past[:, :-1], order)
    conditions = Conditions(given=latents[:, :, :1], history=history, actions=actions, action_frames=None)
    if images is not None:
        action_frames = torch.zeros_like(latents)
        if images.drawn.any():
            action_frames[images.drawn] = autoencoder.encode(images.video[images.drawn])
        conditions = replace(conditions, action_frames=action_frames, drawn=images.drawn)
    return conditions, latents[:, :, 1:]


class ClipObjective(nn.Module):
    """Make `clip_losses` the forward pass of one module, which is what data-parallel wrappers take."""

    def __init__(self, transformer: ProphetTransformer3DModel, autoencoder: WanAutoencoder, sampler_steps: int) -> None:
        super().__init__()
        self.transformer, self.autoencoder = transformer, autoencoder
        self.levels = karras_sigmas(sampler_steps)

    def forward(self, batch: Windows, draws: Draws, images: ToolVideos | None) -> Float[Tensor, " n"]:
        """Return the loss of each chunk."""
        parts = batch.history, batch.frames, batch.actions
        return clip_losses(self.transformer, self.autoencoder, *parts, draws, self.levels, images)


def draw_batch(batch: Windows, device: torch.device) -> ToolVideos:
    """Draw the tools in the rows that say where they are and what camera looks on; the others stay black."""
    shape = batch.frames.shape
    video, drawn = torch.zeros(shape, dtype=torch.uint8, device=device), torch.zeros(shape[0], dtype=torch.bool)
    for row, (tools, camera) in enumerate(zip(batch.tools, batch.cameras, strict=True)):
        if tools is not None and camera is not None:
            video[row] = action_video(tools[None].to(device), camera[None], (shape[2], shape[3]))[0]
            drawn[row] = True
    return ToolVideos(video, drawn.to(device))


def require_drawable(clips: WindowDataset) -> None:
    """Raise ValueError unless there is an episode whose tools can be drawn; no image is decoded."""
    entries = clips.entries
    # First episodes of all data sets before second ones: most data sets say it in all episodes or in none.
    for index in range(max(len(entry.source) for entry in entries)):
        for entry in entries:
            if index < len(entry.source) and entry.source.steps(index):
                episode = entry.source.episode(index)
                if episode.tools is None or episode.camera is None:
                    continue
                if entry.plan(episode.actions[:1], episode.tools[:2])[1] is not None:
                    return
    raise ValueError(
        "the tools cannot be drawn: no data set says where they are and what camera looks on; name its states, what "
        "they hold, and a file of camera matrices: state=COLUMN,numbers=xyz+euler+gripper,calibration=FILE.npy; our "
        "recordings say it all, except with actions=given"
    )


@dataclass(frozen=True)
class Batching:
    """Say what a step of training reads: `rows` windows, each of so many chunks, in every process.

    From the second chunk on a window continues on the model's own frames (self-forcing), which take `sampler_steps`.
    """

    rows: int = 1
    chunks: int = 1
    sampler_steps: int = 5
    workers: int = 0


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
    prophet: Prophet,
    clips: WindowDataset,
    folder: Path,
    config: FitConfig,
    batching: Batching,
    *,
    accelerator: Any,
    objective: nn.Module | None = None,
    name: str = "full",
) -> None:
    """Take the steps that are left; at the end the weights that require gradients hold their moving average.

    A run that was killed resumes from its newest state, also with another number of processes, rows or workers.
    `objective` takes the inputs of a `ClipObjective`, which it is by default.
    """
    require_fit(prophet, clips, batching, accelerator)
    autoencoder: Any = prophet.autoencoder
    objective = objective or ClipObjective(prophet.transformer, autoencoder, batching.sampler_steps)
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
        drawn = vars(draw(places, batching.chunks, shape, seed=config.seed))
        draws = Draws(**{name: values.to(device) for name, values in drawn.items()})
        images = draw_batch(batch, device) if draw_tools else None
        return model(batch.to(device), draws, images), {}

    fit(objective, loss, config, folder, name=name, state=(loader,), accelerator=accelerator)


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
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU") and not accelerator.is_fsdp2:
        raise ValueError(
            f"several processes train by DDP or by FSDP2, got {kind}: use `accelerate launch --multi_gpu`, or give "
            "--shard or `--use_fsdp --fsdp_version 2`"
        )


def placed(loader: WindowLoader) -> Iterator[tuple[Windows, list[int]]]:
    """Yield batches with each window's place in the sequence that all processes read."""
    for batch in loader:
        first = loader.read - loader.rows * loader.ranks
        yield batch, [first + row * loader.ranks + loader.rank for row in range(loader.rows)]
