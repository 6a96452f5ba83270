"""Train the gripper tracker and the transformer on latents."""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym.data.clips import LatentEpisodes
from prophet_gym.prophet.autoencoder import FRAMES_PER_LATENT, unstack_frames
from prophet_gym.prophet.conditioning import chunk_inputs
from prophet_gym.prophet.gripper import GripperTracker, tracker_loss
from prophet_gym.prophet.training import flow_loss, sample_times
from prophet_gym.prophet.transformer import ProphetTransformer3DModel
from prophet_gym.train.loop import LoopConfig, on_device, train_loop

CHUNK = 8
PAST = 20
"""Frames a dream carries: 16 of history and the four of the given slot."""


def train_tracker(
    data: LatentEpisodes, folder: Path, *, steps: int, device: torch.device, rows: int = 128
) -> GripperTracker:
    """Train reader and path on real frames; the result goes to `folder/tracker`."""
    torch.manual_seed(0)
    gripper = torch.from_numpy(data.gripper)
    tracker = on_device(
        GripperTracker(
            latent_size=tuple(data.latents.shape[-2:]),
            gripper_mean=tuple(gripper.mean(0).tolist()),
            # What never changes in a recording (a gripper that stays open, say) must not be divided by zero.
            gripper_std=tuple(gripper.std(0).clamp(min=1e-3).tolist()),
        ),
        device,
    )
    shake = torch.tensor([0.005, 0.005, 0.005, 0.02])

    def step(_index: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        clips = data.draw(rows, past=1, chunk=CHUNK, chunks=1, generator=generator).to(device)
        latents = clips.past[:, -1]
        latents = latents + 0.1 * torch.randn(latents.shape, generator=generator).to(device)
        start = clips.gripper[:, 0]
        shaken = start + (shake * torch.randn(start.shape, generator=generator)).to(device)
        loss = tracker_loss(tracker, latents, start, shaken, clips.past_commands, clips.commands, clips.gripper[:, 1:])
        return loss, {}

    config = LoopConfig(steps=steps, learning_rate=1e-3)
    average = train_loop(tracker, step, config, folder, name="tracker")
    average.save_pretrained(folder / "tracker")
    return average


@torch.no_grad()
def tracker_errors(tracker: GripperTracker, data: LatentEpisodes, rows: int = 2000) -> dict[str, float]:
    """Mean distances in millimetres: reading a frame, and following true and read starts for a chunk."""
    clips = data.draw(rows, past=1, chunk=CHUNK, chunks=1, generator=torch.Generator().manual_seed(1)).to(
        tracker.device
    )
    read = tracker.read(clips.past[:, -1])
    distance = lambda a, b: 1000 * (a - b)[..., :3].norm(dim=-1).mean().item()  # noqa: E731
    follow = lambda start: tracker.follow(start, clips.past_commands, clips.commands)[:, -1]  # noqa: E731
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
    generator: torch.Generator,
    *,
    rows: int,
    chunks: int,
    noise_scale: float,
    share_at_source: float,
    reader_trust: float = 0.1,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a dream of several chunks, each starting from the model's own prediction of the one before.

    Gradients stop between chunks, so a dream of n chunks costs n plain steps, and all n are trained.

    Args:
        transformer: trained.
        tracker: reads the gripper, as it will in dreams.
        data: latents.
        camera: world to unit image.
        generator: all randomness.
        rows: batch size.
        chunks: length of the dream.
        noise_scale: see `flow_source`.
        share_at_source: see `sample_times`.
        reader_trust: see `GripperTracker.correct`; as in the checkpoint's config.
    """
    clips = data.draw(rows, past=PAST, chunk=CHUNK, chunks=chunks, generator=generator).to(transformer.device)
    past, past_commands = clips.past, clips.past_commands
    with torch.no_grad():
        gripper = tracker.read_frames(past[:, -FRAMES_PER_LATENT:])
    losses = []
    for chunk in range(chunks):
        window = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        commands, target = clips.commands[:, window], clips.future[:, window]
        with torch.no_grad():
            inputs = chunk_inputs(tracker, past, gripper, past_commands, commands, camera)
        time = sample_times(rows, share_at_source=share_at_source, generator=generator).to(target)
        b, _, c, h, w = target.shape
        noise = torch.randn(b, 4 * c, CHUNK // 4, h, w, generator=generator).to(target)
        with torch.autocast(target.device.type, torch.bfloat16, enabled=target.is_cuda):
            loss, predicted = flow_loss(transformer, inputs, target, time, noise, noise_scale)
        losses.append(loss)
        past = torch.cat([past, unstack_frames(predicted).to(past)], dim=1)[:, -PAST:]
        with torch.no_grad():
            newest = slice(-FRAMES_PER_LATENT, None)
            gripper = tracker.correct(inputs.path[:, newest], past[:, newest], reader_trust)
        past_commands = commands
    copied = (clips.future[:, :CHUNK] - clips.past[:, -1:]).square().mean()
    figures = {f"loss_chunk_{i}": loss.item() for i, loss in enumerate(losses)}
    return torch.stack(losses).mean(), {**figures, "against_copy": losses[0].item() / copied.item()}


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
    share_at_source: float = 1.0,
    minutes: float = math.inf,
) -> ProphetTransformer3DModel:
    """Train on single chunks first, then on dreams; return the averaged model.

    Args:
        transformer: trained in place, on the device where it lies.
        tracker: fixed.
        data: latents.
        camera: world to unit image.
        folder: for checkpoints.
        config: the schedule.
        rows: chunks per step: a dream of n chunks has `rows / n` rows.
        single_until: share of the steps with single chunks.
        chunks: length of the dreams after that.
        noise_scale: see `flow_source`.
        share_at_source: see `sample_times`.
        minutes: see `train_loop`.
    """
    tracker = on_device(tracker, transformer.device).eval().requires_grad_(requires_grad=False)

    def step(index: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        length = 1 if index < single_until * config.steps else chunks
        return dream_loss(
            transformer, tracker, data, camera, generator,
            rows=max(1, rows // length), chunks=length, noise_scale=noise_scale, share_at_source=share_at_source,
        )  # fmt: skip

    return train_loop(transformer, step, config, folder, name="transformer", minutes=minutes)
