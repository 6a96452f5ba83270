"""Sample and train the flow of a chunk's latents, in pure functions: noise levels, solvers that denoise, and losses.

In the EDM form `x = x0 + sigma * noise`, so the state that enters a solver has the scale of its first noise level.
Losses are on generated slots.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym.prophet._autoencoder import stack_frames
from prophet_gym.prophet._gripper import ChunkInputs, flow_source
from prophet_gym.prophet._transformer import Conditions, ProphetTransformer3DModel, predict_velocity

# The clean latents expected behind `x`, which carries noise of standard deviation `sigma`.
PredictClean = Callable[[Tensor, float], Tensor]
# Rare high noise levels of training: range and probability (reference.md: "Training objective").
_HIGH_SIGMAS, _FRACTION_OF_HIGH = (200.0, 1e5), 0.05
# Noise level that stands for flow time 1, the largest that training draws.
_AT_SOURCE = _HIGH_SIGMAS[1]


def karras_sigmas(
    steps: int, sigma_min: float = 0.01, sigma_max: float = 200.0, order: float = 7.0
) -> Float[Tensor, " levels"]:
    """Return the falling noise levels of Karras et al. (arXiv 2206.00364, eq. 5), by default Prophet's, in float64.

    They are evenly spaced in `sigma ** (1 / order)`.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if not 0.0 < sigma_min < sigma_max:
        raise ValueError(f"0 < sigma_min < sigma_max must hold, got sigma_min={sigma_min}, sigma_max={sigma_max}")
    if order <= 0.0:
        raise ValueError(f"order={order} must be above 0")
    ramp = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    high, low = sigma_max ** (1 / order), sigma_min ** (1 / order)
    sigmas = (high + ramp * (low - high)) ** order
    # Powers and roots do not cancel to the last bit, and the ends are compared with.
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    return sigmas


def flow_levels(steps: int) -> Float[Tensor, " levels"]:
    """Return the falling noise levels of a small Prophet's chunk: evenly spaced in flow time from the source to 0."""
    times = torch.linspace(1, 0, steps + 1)[1:-1]
    return torch.cat([torch.tensor([_AT_SOURCE]), times / (1 - times), torch.zeros(1)])


def sample_ab2(
    predict_x0: PredictClean, x_init: Float[Tensor, "*latent"], sigmas: Float[Tensor, " levels"] | Sequence[float]
) -> Float[Tensor, "*latent"]:
    """Solve by second-order exponential (RES) Adams-Bashforth steps in `log sigma`, one prediction a step.

    This is the sampler that Prophet generates with. Its last step ends at `sigmas[-1]`; the caller takes the clean
    prediction there.
    """
    levels = _checked_levels(sigmas, lowest_may_be_zero=False)
    x = x_init
    earlier: tuple[float, Tensor] | None = None
    for sigma, sigma_next in pairwise(levels):
        clean = predict_x0(x, sigma)
        kept = sigma_next / sigma
        if earlier is None:  # the first step has no slope to go by
            x = kept * x + (1.0 - kept) * clean
        else:
            weight_now, weight_earlier = _ab2_weights(earlier[0], sigma, sigma_next)
            x = kept * x + weight_now * clean + weight_earlier * earlier[1]
        earlier = (sigma, clean)
    return x


def sample_euler(
    predict_x0: PredictClean, x_init: Float[Tensor, "*latent"], sigmas: Float[Tensor, " levels"] | Sequence[float]
) -> Float[Tensor, "*latent"]:
    """Solve by first-order steps in `sigma`; where the last level is 0, the result is the last clean prediction.

    A step goes straight towards the clean prediction. The rectified flow's Euler step in `tau = sigma / (1 + sigma)`
    is the same step, since both forms share their straight paths.
    """
    levels = _checked_levels(sigmas, lowest_may_be_zero=True)
    x = x_init
    for sigma, sigma_next in pairwise(levels):
        kept = sigma_next / sigma
        x = kept * x + (1.0 - kept) * predict_x0(x, sigma)
    return x


def _ab2_weights(sigma_before: float, sigma: float, sigma_next: float) -> tuple[float, float]:
    """Return the weights of the clean predictions at `sigma` and `sigma_before`, which sum to `1 - exp(-h)`."""
    h = math.log(sigma / sigma_next)
    c2 = -math.log(sigma_before / sigma) / h
    phi1 = -math.expm1(-h) / h
    b2 = (1.0 - phi1) / h / c2
    return h * (phi1 - b2), h * b2


def _checked_levels(sigmas: Tensor | Sequence[float], *, lowest_may_be_zero: bool) -> list[float]:
    levels = sigmas.tolist() if isinstance(sigmas, torch.Tensor) else [float(sigma) for sigma in sigmas]
    if len(levels) < 2:
        raise ValueError(f"sigmas must hold at least two noise levels, got {len(levels)}")
    falls = all(high > low for high, low in pairwise(levels))
    if not falls or levels[-1] < 0.0 or (levels[-1] == 0.0 and not lowest_may_be_zero):
        floor = "0" if lowest_may_be_zero else "above 0"
        raise ValueError(f"sigmas must fall from step to step and end at {floor} or more, got {levels}")
    return levels


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
