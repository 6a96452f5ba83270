"""The loss of the full Prophet on windows of images: pixels -> latents -> rectified flow, and what is random in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from prophet_gym.data._windows import Windows
from prophet_gym.prophet._autoencoder import WanAutoencoder
from prophet_gym.prophet._full import appended, decode_chunk, encode_history, sample_chunk
from prophet_gym.prophet._sampling import karras_sigmas
from prophet_gym.prophet._training import flow_times, sample_sigmas, velocity_loss
from prophet_gym.prophet._transformer import Conditions, ProphetTransformer3DModel


@dataclass(frozen=True)
class Draws:
    """Hold the random numbers of a batch, a row for each window and a column for each chunk.

    `sigmas` and `noise` are those of the loss; `dream_noise` is what sampling of all chunks but the last starts from.
    """

    sigmas: Float[Tensor, "b n"]
    noise: Float[Tensor, "b n c t h w"]
    dream_noise: Float[Tensor, "b n1 c t h w"]

    def to(self, device: torch.device) -> "Draws":
        return Draws(*(values.to(device) for values in vars(self).values()))


@dataclass(frozen=True)
class ToolVideos:
    """The tools at the current frame and after each action, in the rows `drawn`; black where they are not known."""

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
        latents = autoencoder.encode(torch.cat([past[:, -1:], frames[:, 1:][:, window]], dim=1))
        conditions = Conditions(
            given=latents[:, :, :1],
            history=encode_history(autoencoder, past[:, :-1], transformer.config["history_order"]),
            actions=actions[:, window],
            action_frames=None,
        )
        if images is not None:
            shown = images.video[:, n * chunk : (n + 1) * chunk + 1]
            action_frames = torch.zeros_like(latents)
            if images.drawn.any():
                action_frames[images.drawn] = autoencoder.encode(shown[images.drawn])
            conditions = replace(conditions, action_frames=action_frames, drawn=images.drawn)
        target, time = latents[:, :, 1:], flow_times(draws.sigmas[:, n])
        loss, _ = velocity_loss(transformer, conditions, target, draws.noise[:, n], time)
        losses.append(loss)
        if n + 1 < count:
            with torch.no_grad():
                dreamt = sample_chunk(transformer, conditions, draws.dream_noise[:, n], levels)
                past = appended(past, decode_chunk(autoencoder, conditions.given, dreamt))
    return torch.stack(losses)


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
