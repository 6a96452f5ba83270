"""The training losses, on generated slots, and the noise levels that they are taken at: pure functions."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym.prophet._autoencoder import stack_frames
from prophet_gym.prophet._gripper import ChunkInputs, flow_source
from prophet_gym.prophet._sampling import PredictClean, sample_euler
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
    transformer: Callable[..., Tensor],
    conditions: Conditions,
    clean: Float[Tensor, "b c t h w"],
    source: Float[Tensor, "b c t h w"],
    time: Float[Tensor, " b"],
    weight: Float[Tensor, "b c t h w"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "b c t h w"]]:
    """Return the mean (by `weight`) squared velocity error on the generated slots, and the clean latents predicted.

    The uniform-weight form `(1 + sigma)^2 / sigma^2 ||x0 - x0_hat||^2` equals the squared velocity error (reference.md:
    "Training objective"). Time 1 makes the step a regression from the source.
    """
    noisy = interpolate(clean, source, time)
    velocity = predict_velocity(transformer, conditions, noisy, time)
    # Unweighted in velocity: the weight (1 + sigma)^2 / sigma^2 of the clean error cancels.
    error = (velocity - (source - clean)).square()
    loss = error.mean() if weight is None else (weight * error).sum() / weight.sum()
    return loss, (noisy - time[:, None, None, None, None] * velocity).detach()


def flow_loss(
    transformer: ProphetTransformer3DModel,
    inputs: ChunkInputs,
    target: Float[Tensor, "b n c h w"],
    time: Float[Tensor, " b"],
    noise: Float[Tensor, "b c4 t h w"],
    noise_scale: float,
    weight: Float[Tensor, "b n c h w"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "b c4 t h w"]]:
    """Return the small Prophet's `velocity_loss`, whose flow starts at the last given frame."""
    source = flow_source(inputs, noise, noise_scale)
    weights = None if weight is None else stack_frames(weight)
    return velocity_loss(transformer, inputs, stack_frames(target), source, time, weights)


def distillation_losses(
    student: Callable[..., Tensor],
    teacher: PredictClean,
    conditions: Conditions,
    clean: Float[Tensor, "b c t h w"],
    source: Float[Tensor, "b c t h w"],
    levels: Sequence[Float[Tensor, " levels"]],
) -> Float[Tensor, " n"]:
    """Return the loss of each sampler step of a student, which must end where several steps of its teacher end.

    That is progressive distillation (Salimans & Ho, arXiv 2202.00512, algorithm 2). `levels` are those of
    `nested_levels`: the noise levels that the teacher passes in each step of the student.

    Differences from the paper: steps are Euler steps of the rectified flow, which DDIM's are in EDM form. A step of the
    student replaces two or more of the teacher's, so 5 steps can become 2. Errors are of the velocity, without the
    truncated weights. All steps of the student are trained on every batch, instead of one drawn for each element.
    """
    losses = []
    for sigmas in levels:
        first, kept = float(sigmas[0]), float(sigmas[-1] / sigmas[0])
        time = flow_times(sigmas[:1]).to(clean).expand(len(clean))
        noisy = interpolate(clean, source, time)
        with torch.no_grad():
            x = (1 + first) * noisy
            # The clean prediction from which one step leads from x to the teacher's end.
            target = (sample_euler(teacher, x, sigmas) - kept * x) / (1 - kept)
            velocity = (noisy - target) / float(time[0])
        losses.append(velocity_loss(student, conditions, target, target + velocity, time)[0])
    return torch.stack(losses)


def nested_levels(
    levels: Callable[[int], Float[Tensor, " levels"]], student: int, teacher: int
) -> list[Float[Tensor, " levels"]]:
    """Return the noise levels that a teacher passes in each step of a student: in each as many steps as are needed.

    `levels` returns a sampler's noise levels for a number of steps; those of the student are the ends.

    Raises:
        ValueError: The student has as many steps as its teacher, or more.
    """
    if not 1 <= student < teacher:
        raise ValueError(
            f"a student must take fewer sampler steps than its teacher's {teacher}, got {student}; give fewer, or a "
            "teacher that takes more"
        )
    each = math.ceil(teacher / student)
    passed = levels(each * student)
    return [passed[step * each : (step + 1) * each + 1] for step in range(student)]


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
