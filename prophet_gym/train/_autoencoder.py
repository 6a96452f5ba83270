"""Train the small per-frame autoencoder on crops around what moves, and turn recordings into latents with it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from prophet_gym._io.networks import fill_matching, load_part, save_network
from prophet_gym._io.processes import by_main
from prophet_gym._io.processor import Precision, autocast
from prophet_gym._io.progress import progress
from prophet_gym.data._episode import Episode
from prophet_gym.data._latents import LatentEpisodes, first_action, hand_states, no_states
from prophet_gym.data._recording import opened
from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._kinematics import quaternion_to_matrix
from prophet_gym.prophet._autoencoder import FrameAutoencoder, to_pixels
from prophet_gym.specs import CAMERAS, FIRST_CAMERA
from prophet_gym.train._fit import FitConfig, Loss, fit

_CROP, _CELL = 64, 8
"""Pixels across and down of a crop, and of a latent's cell, on whose grid crops lie."""
_LATENT_NOISE = 0.05  # standard deviation, added to the latents so that the decoder bears the errors of a dream

Crops = UInt8[Tensor, "b h w 3"]


@dataclass(frozen=True)
class Footage:
    """Hold frames of many episodes in memory, with the places where crops are worth taking.

    `references` are indices of each frame's start frame; `centres` say where gripper and target object are in the image
    (y, x), pixels: the gripper twice for a target that is a fixture, and where something moves if neither is known.
    """

    frames: UInt8[np.ndarray, "n h w 3"]
    references: np.ndarray
    centres: Float[np.ndarray, "n 2 2"]


def load_footage(recorded: Sequence[Path | Episode], stride: int, cameras: Sequence[str] = (FIRST_CAMERA,)) -> Footage:
    """Decode every `stride`-th frame of the episodes, and project gripper and target into it."""
    frames, references, centres, total = [], [], [], 0
    for each, camera in progress([*itertools.product(recorded, cameras)], "decode", unit="video"):
        episode = opened(each)
        kept = np.arange(0, len(episode) + 1, stride)
        video = episode.frames(camera=camera)[kept]
        frames.append(video)
        references.append(np.full(len(kept), total))
        told = episode.simulation is not None
        centres.append(_projected(episode, kept, camera, video.shape[1:3]) if told else moving_places(video))
        total += len(kept)
    return Footage(np.concatenate(frames), np.concatenate(references), np.concatenate(centres))


def _projected(
    episode: Episode, kept: Int64[np.ndarray, " n"], camera: str, size: tuple[int, ...]
) -> Float[np.ndarray, "n 2 2"]:
    """Return where a camera sees gripper and target at some frames of an episode of a simulator."""
    target = episode.gripper_position if episode.target_positions is None else episode.target_positions
    points = np.stack([episode.gripper_position[kept], target[kept]], axis=1)
    if camera == FIRST_CAMERA:
        matrix = episode.camera
    else:
        # The hand's camera sees things where they are from the hand.
        matrix, turns = get_embodiment(episode.robot).wrist, quaternion_to_matrix(episode.sim.gripper_quaternion)
        points = np.einsum("tji,tnj->tni", turns[kept], points - episode.gripper_position[kept, None])
    if matrix is None:
        raise ValueError(f"{episode.name} must say what camera looks on; record it with `prophet collect`")
    u, v, z = np.moveaxis(np.insert(points, 3, 1, axis=-1) @ matrix.T, -1, 0)
    # What lies beside the image is looked for at its edge.
    return np.stack([v * size[0], u * size[1]], axis=-1) / z[..., None].clip(0.02)


def moving_places(video: UInt8[np.ndarray, "n h w 3"], seed: int = 0) -> Float[np.ndarray, "n 2 2"]:
    """Draw two places in each frame: where it differs from the one before, and from the first of its episode.

    A cell is as likely as it differs in the mean of its pixels, squared, so that noise hardly counts.
    """
    n, height, width, _ = video.shape
    cells = video.reshape(n, height // _CELL, _CELL, width // _CELL, _CELL, 3).mean(axis=(2, 4, 5))
    before = np.concatenate([cells[:1], cells[:-1]])
    weight = np.stack([np.square(cells - before), np.square(cells - cells[:1])], axis=1).reshape(n, 2, -1) + 1e-3
    reached = np.cumsum(weight, axis=-1)
    drawn = np.random.default_rng(seed).random((n, 2, 1)) * reached[..., -1:]
    chosen = (reached < drawn).sum(axis=-1)
    return (np.stack(np.unravel_index(chosen, cells.shape[1:]), axis=-1) + 0.5) * _CELL


def draw_crops(footage: Footage, rows: int, generator: torch.Generator) -> tuple[Crops, Crops]:
    """Draw crops and the same places of the start frames: 45% at the gripper, 25% at the target, the rest anywhere."""
    height, width = footage.frames.shape[1:3]
    crop = _crop_side(footage)
    picks = torch.randint(len(footage.frames), (rows,), generator=generator).numpy()
    kind = torch.rand(rows, 1, generator=generator).numpy()
    jitter = (torch.rand(rows, 2, generator=generator).numpy() - 0.5) * crop
    anywhere = torch.rand(rows, 2, generator=generator).numpy() * [height, width]
    centre = np.where(kind < 0.45, footage.centres[picks, 0], footage.centres[picks, 1]) + jitter
    centre = np.where(kind < 0.7, centre, anywhere)
    corner = np.clip(centre - crop / 2, 0, [height - crop, width - crop]) / _CELL
    crops, references = [], []
    # On the grid of cells: a latent of a crop is then what the whole frame has there.
    for pick, (y, x) in zip(picks, np.round(corner).astype(int) * _CELL, strict=True):
        place = (slice(y, y + crop), slice(x, x + crop))
        crops.append(footage.frames[pick][place])
        references.append(footage.frames[footage.references[pick]][place])
    return torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(references))


def _crop_side(footage: Footage) -> int:
    return min(_CROP, *footage.frames.shape[1:3]) // _CELL * _CELL


def autoencoder_loss(
    model: FrameAutoencoder,
    pixels: Float[Tensor, "b 3 h w"],
    reference: Float[Tensor, "b 3 h w"],
    noise: Float[Tensor, "b c y x"],
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Return a Charbonnier loss that counts what differs from the start frame five times and colour twice.

    What has not moved is shown from the start frame (`keep_background`), so the autoencoder may be poor there. Colour,
    the difference of the channels from their mean, tells objects apart, and few pixels show it. Pixels are in [-1, 1].
    """
    latents = model.encode_raw(pixels)
    out = model.decode_raw(latents + noise)
    # Blurred, so that the noise of a video's compression does not count as motion.
    moved = F.avg_pool2d((pixels - reference).abs().amax(dim=1, keepdim=True), 5, 1, 2) > 0.08
    weight = 0.25 + moved.float()
    difference = out - pixels
    colour = difference - difference.mean(dim=1, keepdim=True)
    error = difference.square()
    # The root is linear far from zero, so a wrong edge does not outweigh a whole object, and smooth at it.
    distance = torch.sqrt(error + 4e-4) + 2 * torch.sqrt(colour.square() + 4e-4)
    loss = (weight * distance).mean() / weight.mean()
    with torch.no_grad():
        everywhere = -10 * torch.log10(error.mean() / 4)
        at_motion = -10 * torch.log10((error * moved).sum() / (3 * moved.sum().clamp(min=1)) / 4 + 1e-9)
    figures = {"psnr": everywhere.item(), "psnr_moved": at_motion.item()}
    # Nothing else keeps the latents small, and the noise on them would be nothing beside large ones.
    return loss + 1e-4 * latents.square().mean(), figures


def train_autoencoder(
    recorded: Sequence[Path | Episode],
    folder: Path,
    *,
    steps: int,
    device: torch.device,
    rows: int = 32,
    precision: Precision = "no",
    cameras: Sequence[str] = (FIRST_CAMERA,),
    latent_channels: int = 4,
    base: FrameAutoencoder | None = None,
) -> FrameAutoencoder:
    """Train on `rows` crops a step; the averaged model, its normalisation measured, goes to `folder/autoencoder`.

    What of `base` has the right shape is where training begins.
    """
    # As many frames in all, however many cameras there are.
    footage = load_footage(recorded, 3 * len(cameras), cameras)
    torch.manual_seed(0)
    model = FrameAutoencoder(latent_channels=latent_channels).to(device)
    if base is not None:
        fill_matching(model, base)
    config = FitConfig(steps=steps, learning_rate=2e-3, weight_decay=1e-3)
    fit(model, _crop_loss(footage, rows, precision), config, folder, name="autoencoder")
    # A thousand frames are enough for four means; the normalisation is measured once and kept in the config.
    frames = torch.from_numpy(footage.frames[:: max(1, len(footage.frames) // 1000)])
    with torch.no_grad():
        latents = torch.cat([model.encode_raw(to_pixels(part.to(device))) for part in frames.split(64)])
    mean, std = (tuple(found.tolist()) for found in (latents.mean((0, 2, 3)), latents.std((0, 2, 3))))
    result = FrameAutoencoder(latent_channels=latent_channels, latents_mean=mean, latents_std=std)
    result.load_state_dict(model.state_dict())
    by_main(lambda: save_network(result, folder / "autoencoder"))
    return result


def tune_decoder(
    recorded: Sequence[Path | Episode],
    folder: Path,
    *,
    steps: int,
    device: torch.device,
    rows: int = 32,
    precision: Precision = "no",
    cameras: Sequence[str] = (FIRST_CAMERA,),
) -> FrameAutoencoder:
    """Train the decoder of `folder/autoencoder` further; latents, and what was trained on them, stay valid."""
    footage = load_footage(recorded, 3 * len(cameras), cameras)
    model = load_part(FrameAutoencoder, folder / "autoencoder").to(device).train()
    model.encoder.requires_grad_(requires_grad=False)
    config = FitConfig(steps=steps, learning_rate=1e-3, weight_decay=1e-3, decay=0.6)
    fit(model, _crop_loss(footage, rows, precision), config, folder, name="decoder")
    by_main(lambda: save_network(model, folder / "autoencoder"))
    return model


def _crop_loss(footage: Footage, rows: int, precision: Precision) -> Loss:
    cells = _crop_side(footage) // _CELL

    def loss(model: FrameAutoencoder, _step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        crops, references = (part.to(model.device) for part in draw_crops(footage, rows, generator))
        shape = (rows, model.config["latent_channels"], cells, cells)
        noise = (_LATENT_NOISE * torch.randn(shape, generator=generator)).to(model.device)
        with autocast(model.device, precision):
            return autoencoder_loss(model, to_pixels(crops), to_pixels(references), noise)

    return loss


@torch.no_grad()
def encode_episodes(
    recorded: Sequence[Path | Episode], autoencoder: FrameAutoencoder, rest: Float[np.ndarray, " 4"] | None = None
) -> LatentEpisodes:
    """Encode whole episodes, 64 frames at a time; latents are kept as float16.

    With the hand's quaternion at `rest` the latents of both cameras lie one below the other, and the gripper's numbers
    are those of `hand_states`. Episodes of no simulator have no such numbers.
    """
    cameras = (FIRST_CAMERA,) if rest is None else tuple(CAMERAS)
    latents, episodes = [], []
    for each in progress(recorded, "encode", unit="episode"):
        episode = opened(each)
        views = []
        for camera in cameras:
            parts = torch.from_numpy(episode.frames(camera=camera)).split(64)
            encoded = [autoencoder.encode(part.to(autoencoder.device)).half().cpu().numpy() for part in parts]
            views.append(np.concatenate(encoded))
        latents.append(np.concatenate(views, axis=-2))
        episodes.append(episode)
    if all(episode.simulation is None for episode in episodes):
        return LatentEpisodes.join(latents, episodes, no_states, first_action)
    if rest is None:
        return LatentEpisodes.join(latents, episodes)
    return LatentEpisodes.join(latents, episodes, partial(hand_states, rest=rest))
