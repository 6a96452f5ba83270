"""Denoise one chunk: noise levels, and pure solvers of the probability-flow ODE, given what predicts clean latents.

In the EDM form `x = x0 + sigma * noise`, so the state that enters has the scale of its first noise level.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

# The clean latents expected behind `x`, which carries noise of standard deviation `sigma`.
PredictClean = Callable[[Tensor, float], Tensor]


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
