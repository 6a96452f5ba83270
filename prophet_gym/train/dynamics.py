"""Train the gripper tracker and the transformer on latents."""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym._io.networks import save_network
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.prophet._autoencoder import unstack_frames
from prophet_gym.prophet._gripper import GripperTracker, tracker_loss
from prophet_gym.prophet._training import flow_loss, sample_times
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.train.dreams import CHUNK, Dreams, inputs_of
from prophet_gym.train.loop import LoopConfig, on_device, train_loop

WINDOW = 7
"""Samples across and down that a new tracker sees around the gripper."""


def train_tracker(
    data: LatentEpisodes,
    camera: Float[Tensor, "3 4"],
    folder: Path,
    *,
    steps: int,
    device: torch.device,
    rows: int = 128,
    base: GripperTracker | None = None,
) -> GripperTracker:
    """Train a tracker, or `base` on, on real frames seen by `camera`; the result goes to `folder/tracker`."""
    torch.manual_seed(0)
    tracker = on_device(new_tracker(data, base), device)
    shake = torch.tensor([0.005, 0.005, 0.005, 0.02])

    def step(_index: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        clips = data.draw(rows, past=1, chunk=CHUNK, chunks=1, generator=generator).to(device)
        latents = clips.past[:, -1]
        latents = latents + 0.1 * torch.randn(latents.shape, generator=generator).to(device)
        start = clips.gripper[:, 0]
        shaken = start + (shake * torch.randn(start.shape, generator=generator)).to(device)
        following = clips.gripper[:, 1:]
        loss = tracker_loss(
            tracker, latents, start, shaken, clips.past_actions, clips.actions, following, camera.to(device)
        )
        return loss, {}

    config = LoopConfig(steps=steps, learning_rate=1e-3)
    average = train_loop(tracker, step, config, folder, name="tracker")
    save_network(average, folder / "tracker")
    return average


def new_tracker(data: LatentEpisodes, base: GripperTracker | None = None) -> GripperTracker:
    """Make a tracker that sees around the gripper; what `base` knows, it knows from the beginning."""
    gripper = torch.from_numpy(data.gripper)
    # What never changes in a recording (a gripper that stays open, say) must not be divided by zero.
    sizes: dict[str, Any] = {
        "latent_size": tuple(data.latents.shape[-2:]),
        "gripper_mean": tuple(gripper.mean(0).tolist()),
        "gripper_std": tuple(gripper.std(0).clamp(min=1e-3).tolist()),
    }
    if base is not None:
        sizes = {name: value for name, value in base.config.items() if not name.startswith("_")}
    sizes["window"] = WINDOW
    tracker = GripperTracker(**sizes)
    if base is not None:
        tracker.load_state_dict(base.state_dict(), strict=False)
    return tracker


@torch.no_grad()
def tracker_errors(
    tracker: GripperTracker, data: LatentEpisodes, camera: Float[Tensor, "3 4"], rows: int = 2000
) -> dict[str, float]:
    """Mean distances in millimetres: reading a frame, and following true and read starts for a chunk."""
    clips = data.draw(rows, past=1, chunk=CHUNK, chunks=1, generator=torch.Generator().manual_seed(1)).to(
        tracker.device
    )
    read = tracker.read(clips.past[:, -1])
    distance = lambda a, b: 1000 * (a - b)[..., :3].norm(dim=-1).mean().item()  # noqa: E731
    camera = camera.to(tracker.device)
    seen = clips.past[:, -1]
    follow = lambda start: tracker.follow(start, clips.past_actions, clips.actions, seen, camera)[:, -1]  # noqa: E731
    return {
        "read_mm": distance(read, clips.gripper[:, 0]),
        "follow_true_mm": distance(follow(clips.gripper[:, 0]), clips.gripper[:, -1]),
        "follow_read_mm": distance(follow(read), clips.gripper[:, -1]),
    }


def dream_loss(
    transformer: ProphetTransformer3DModel,
    tracker: GripperTracker,
    data: LatentEpisodes,
    camera: Float[Tensor, "3 4"],
    dreams: Dreams,
    generator: torch.Generator,
    *,
    noise_scale: float,
    source_fraction: float,
    reader_weight: float = 0.1,
) -> tuple[Tensor, dict[str, float], Dreams]:
    """Loss of the next chunk of some dreams, what to log of it, and the dreams with what was predicted.

    Gradients stop between chunks, so dreaming costs no more than single chunks do.

    Args:
        transformer: trained.
        tracker: follows the gripper, as it will in dreams.
        data: latents.
        camera: world to unit image.
        dreams: how far they have come.
        generator: all randomness.
        noise_scale: see `flow_source`.
        source_fraction: see `sample_times`.
        reader_weight: see `GripperTracker.correct`; as in the checkpoint's config.
    """
    clips = dreams.clips(data)
    inputs = inputs_of(dreams, clips, tracker, camera)
    target = clips.future
    b, _, c, h, w = target.shape
    time = sample_times(b, source_fraction=source_fraction, generator=generator).to(target)
    noise = torch.randn(b, 4 * c, CHUNK // 4, h, w, generator=generator).to(target)
    with torch.autocast(target.device.type, torch.bfloat16, enabled=target.is_cuda):
        loss, predicted = flow_loss(transformer, inputs, target, time, noise, noise_scale)
    error = (unstack_frames(predicted) - target).square().mean((1, 2, 3, 4))
    figures = {
        f"error_{name}": error[torch.from_numpy(ages)].mean().item()
        for name, ages in {"new": dreams.age == 0, "later": dreams.age > 0, "after_8": dreams.age >= 8}.items()
        if ages.any()
    }
    new = torch.from_numpy(dreams.age == 0)
    if new.any():
        copied = (target - dreams.past[:, -1:]).square().mean((1, 2, 3, 4))
        figures["against_copy"] = (error[new].mean() / copied[new].mean()).item()
    return loss, figures, dreams.go_on(tracker, inputs, predicted, reader_weight)


def train_transformer(
    transformer: ProphetTransformer3DModel,
    tracker: GripperTracker,
    data: LatentEpisodes,
    camera: Float[Tensor, "3 4"],
    folder: Path,
    config: LoopConfig,
    *,
    rows: int,
    single_until: float,
    chunks: int,
    noise_scale: float = 0.1,
    source_fraction: float = 1.0,
    minutes: float = math.inf,
) -> ProphetTransformer3DModel:
    """Train on single chunks first, then on dreams, which go on from step to step; return the averaged model.

    Args:
        transformer: trained in place, on the device where it lies.
        tracker: fixed.
        data: latents.
        camera: world to unit image.
        folder: for checkpoints.
        config: the schedule.
        rows: chunks per step, each of another dream.
        single_until: share of the steps with single chunks.
        chunks: mean length of the dreams after that, where their episodes are long enough.
        noise_scale: see `flow_source`.
        source_fraction: see `sample_times`.
        minutes: see `train_loop`.
    """
    tracker = on_device(tracker, transformer.device).eval().requires_grad_(requires_grad=False)

    dreams: Dreams | None = None

    def step(index: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        nonlocal dreams
        length = 1 if index < single_until * config.steps else chunks
        dreams = (
            Dreams.begin(data, tracker, rows, generator)
            if dreams is None
            else dreams.renewed(data, tracker, length, generator)
        )
        loss, figures, dreams = dream_loss(
            transformer, tracker, data, camera, dreams, generator,
            noise_scale=noise_scale, source_fraction=source_fraction,
        )  # fmt: skip
        return loss, figures

    return train_loop(transformer, step, config, folder, name="transformer", minutes=minutes)
