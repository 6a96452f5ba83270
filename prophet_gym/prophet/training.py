"""The training loss on generated slots, pure."""

import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym.prophet.autoencoder import stack_frames
from prophet_gym.prophet.conditioning import ChunkInputs, flow_source, predict_velocity
from prophet_gym.prophet.transformer import ProphetTransformer3DModel


def interpolate(
    clean: Float[Tensor, "b *s"], source: Float[Tensor, "b *s"], time: Float[Tensor, " b"]
) -> Float[Tensor, "b *s"]:
    """Return the rectified-flow point `(1 - time) clean + time source`, which is `(1 - tau) x` of the EDM form."""
    t = time.reshape(-1, *([1] * (clean.ndim - 1)))
    return (1 - t) * clean + t * source


def flow_loss(
    transformer: ProphetTransformer3DModel,
    inputs: ChunkInputs,
    target: Float[Tensor, "b n c h w"],
    time: Float[Tensor, " b"],
    noise: Float[Tensor, "b c4 t h w"],
    noise_scale: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "b c4 t h w"]]:
    """Mean squared velocity error on the generated slots, and the clean latents predicted.

    The uniform-weight form `(1 + sigma)^2 / sigma^2 ||x0 - x0_hat||^2` equals the squared velocity error (REFERENCE:
    "Training objective").

    Args:
        transformer: the network.
        inputs: its conditions.
        target: true per-frame latents of the chunk.
        time: flow times; 1 makes the step a regression from the source.
        noise: standard normal.
        noise_scale: see `flow_source`.
    """
    clean = stack_frames(target)
    source = flow_source(inputs, noise, noise_scale)
    noisy = interpolate(clean, source, time)
    velocity = predict_velocity(transformer, inputs, noisy, time)
    loss = (velocity - (source - clean)).square().mean()
    return loss, (noisy - time[:, None, None, None, None] * velocity).detach()


def sample_times(rows: int, *, share_at_source: float, generator: torch.Generator) -> Float[Tensor, " b"]:
    """Draw flow times: exactly 1 with probability `share_at_source`, else uniform on (0, 1)."""
    uniform = torch.rand(rows, generator=generator)
    at_source = torch.rand(rows, generator=generator) < share_at_source
    return torch.where(at_source, torch.ones(rows), uniform.clamp(1e-3, 1.0))
