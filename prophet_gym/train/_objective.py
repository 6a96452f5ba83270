"""The loss of the full Prophet on windows of images: pixels -> latents -> rectified flow, and what is random in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from prophet_gym.prophet._autoencoder import WanAutoencoder
from prophet_gym.prophet._full import appended, decode_chunk, encode_history, sample_chunk
from prophet_gym.prophet._sampling import karras_sigmas
from prophet_gym.prophet._training import flow_times, sample_sigmas, velocity_loss
from prophet_gym.prophet._transformer import Conditions, ProphetTransformer3DModel


@dataclass(frozen=True)
class Draws:
    """Hold the random numbers of a batch, a row for each window and a column for each chunk.

    Attributes:
        sigmas: Noise levels of the loss.
        noise: Of the loss.
        dream_noise: What sampling of all chunks but the last starts from.
    """

    sigmas: Float[Tensor, "b n"]
    noise: Float[Tensor, "b n c t h w"]
    dream_noise: Float[Tensor, "b n1 c t h w"]


@dataclass(frozen=True)
class ToolVideos:
    """What the action-frame conditioner reads of a batch.

    Attributes:
        video: The tools at the current frame and after each action; black where they are not known.
        drawn: The rows where they are.
    """

    video: UInt8[Tensor, "b f h w 3"]
    drawn: Bool[Tensor, " b"]


def draw(places: Sequence[int], chunks: int, latent_shape: Sequence[int], *, seed: int) -> Draws:
    """Draw each window's random numbers from a generator of its own.

    Args:
        places: Of the clips in the row that all processes read.
        chunks: Chunks of a window.
        latent_shape: Of a chunk's generated slots, `c t h w`.
        seed: Of the run.
    """
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

    Args:
        transformer: Trained.
        autoencoder: Fixed.
        history: Real frames before the current one, oldest first.
        frames: The current frame and the real ones after each action.
        actions: Model actions.
        draws: Random numbers, as many columns as there are chunks.
        levels: Noise levels that the model's own frames are sampled along.
        images: Of the tools, in the rows where they are known; None leaves the action-frame conditioner out.

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
        latents = autoencoder.encode(torch.cat([past[:, -1:], frames[:, 1:][:, window]], dim=1))
        conditions = Conditions(
            given=latents[:, :, :1],
            history=encode_history(autoencoder, past[:, :-1], transformer.config["history_order"]),
            actions=actions[:, window],
            action_frames=None,
        )
        if images is not None:
            shown = images.video[:, n * chunk : (n + 1) * chunk + 1]
            action_frames = encode_rows(autoencoder, shown, images.drawn, latents)
            conditions = replace(conditions, action_frames=action_frames, drawn=images.drawn)
        target, time = latents[:, :, 1:], flow_times(draws.sigmas[:, n])
        loss, _ = velocity_loss(transformer, conditions, target, draws.noise[:, n], time)
        losses.append(loss)
        if n + 1 < count:
            past = dreamt_past(transformer, autoencoder, past, conditions, draws.dream_noise[:, n], levels)
    return torch.stack(losses)


def encode_rows(
    autoencoder: WanAutoencoder,
    video: UInt8[Tensor, "b f h w 3"],
    rows: Bool[Tensor, " b"],
    like: Float[Tensor, "b c s y x"],
) -> Float[Tensor, "b c s y x"]:
    """Encode the videos of some rows; the latents of the others are 0, and `like` says how large they are."""
    latents = torch.zeros_like(like)
    if rows.any():
        latents[rows] = autoencoder.encode(video[rows])
    return latents


@torch.no_grad()
def dreamt_past(
    transformer: ProphetTransformer3DModel,
    autoencoder: WanAutoencoder,
    past: UInt8[Tensor, "b p h w 3"],
    conditions: Conditions,
    noise: Float[Tensor, "b c t y x"],
    levels: Float[Tensor, " levels"],
) -> UInt8[Tensor, "b p h w 3"]:
    """Return the past after the chunk that the model itself dreams."""
    latents = sample_chunk(transformer, conditions, noise, levels)
    return appended(past, decode_chunk(autoencoder, conditions.given, latents))


class ClipObjective(nn.Module):
    """Make `clip_losses` the forward pass of one module, which is what data-parallel wrappers take.

    Args:
        transformer: Trained.
        autoencoder: Fixed.
        sampler_steps: Of the model's own frames.
    """

    def __init__(self, transformer: ProphetTransformer3DModel, autoencoder: WanAutoencoder, sampler_steps: int) -> None:
        super().__init__()
        self.transformer, self.autoencoder = transformer, autoencoder
        self.levels = karras_sigmas(sampler_steps)

    def forward(
        self,
        history: Tensor,
        frames: Tensor,
        actions: Tensor,
        sigmas: Tensor,
        noise: Tensor,
        dream_noise: Tensor,
        video: Tensor | None = None,
        drawn: Tensor | None = None,
    ) -> Float[Tensor, " n"]:
        """Return the loss of each chunk; `video` and `drawn` are those of `ToolVideos`."""
        draws = Draws(sigmas, noise, dream_noise)
        images = None if video is None or drawn is None else ToolVideos(video, drawn)
        return clip_losses(self.transformer, self.autoencoder, history, frames, actions, draws, self.levels, images)
