"""The training losses, on generated slots, and the noise levels that they are taken at: pure functions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym.prophet._autoencoder import stack_frames
from prophet_gym.prophet._gripper import ChunkInputs, flow_source
from prophet_gym.prophet._transformer import Conditions, ProphetTransformer3DModel, predict_velocity

# Rare high noise levels of training: range and probability (reference.md: "Training objective").
_HIGH_SIGMAS, _FRACTION_OF_HIGH = (200.0, 1e5), 0.05


def interpolate(
    clean: Float[Tensor, "b *s"], source: Float[Tensor, "b *s"], time: Float[Tensor, " b"]
) -> Float[Tensor, "b *s"]:
    """Return the rectified-flow point `(1 - time) clean + time source`, which is `(1 - tau) x` of the EDM form."""
    t = time.reshape(-1, *([1] * (clean.ndim - 1)))
    return (1 - t) * clean + t * source


def velocity_loss(
    transformer: ProphetTransformer3DModel,
    conditions: Conditions,
    clean: Float[Tensor, "b c t h w"],
    source: Float[Tensor, "b c t h w"],
    time: Float[Tensor, " b"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "b c t h w"]]:
    """Return the mean squared velocity error on the generated slots, and the clean latents predicted.

    The uniform-weight form `(1 + sigma)^2 / sigma^2 ||x0 - x0_hat||^2` equals the squared velocity error (reference.md:
    "Training objective"). Time 1 makes the step a regression from the source.
    """
    noisy = interpolate(clean, source, time)
    velocity = predict_velocity(transformer, conditions, noisy, time)
    # Unweighted in velocity: the weight (1 + sigma)^2 / sigma^2 of the clean error cancels.
    loss = (velocity - (source - clean)).square().mean()
    return loss, (noisy - time[:, None, None, None, None] * velocity).detach()


def flow_loss(
    transformer: ProphetTransformer3DModel,
    inputs: ChunkInputs,
    target: Float[Tensor, "b n c h w"],
    time: Float[Tensor, " b"],
    noise: Float[Tensor, "b c4 t h w"],
    noise_scale: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "b c4 t h w"]]:
    """Return the small Prophet's `velocity_loss`, whose flow starts at the last given frame."""
    source = flow_source(inputs, noise, noise_scale)
    return velocity_loss(transformer, inputs, stack_frames(target), source, time)


def sample_sigmas(rows: int, latent_frames: int, *, generator: torch.Generator) -> Float[Tensor, " b"]:
    """Draw the full Prophet's noise levels (reference.md: "Training objective"); `latent_frames` has the given one too.

    Log-normal(0, 1) times the square root of the number of latent frames; some log-uniform in a high range instead.
    """
    usual = math.sqrt(latent_frames) * torch.randn(rows, generator=generator).exp()
    low, high = (math.log(sigma) for sigma in _HIGH_SIGMAS)
    rare = (low + (high - low) * torch.rand(rows, generator=generator)).exp()
    return torch.where(torch.rand(rows, generator=generator) < _FRACTION_OF_HIGH, rare, usual)


def flow_times(sigmas: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return tau = sigma / (1 + sigma), the flow time of a noise level."""
    return sigmas / (1 + sigmas)
