"""The noise levels that a dream is denoised along."""

import torch
from jaxtyping import Float
from torch import Tensor


def karras_sigmas(
    steps: int, sigma_min: float = 0.01, sigma_max: float = 200.0, order: float = 7.0
) -> Float[Tensor, " levels"]:
    """Noise levels of Karras et al. (arXiv 2206.00364, eq. 5), evenly spaced in `sigma ** (1 / order)`.

    The defaults are Prophet's (and Cosmos-Predict2's).

    Args:
        steps: number of steps between levels, at least 1.
        sigma_min: the last level, above 0.
        sigma_max: the first level, above `sigma_min`.
        order: how strongly the levels gather near `sigma_min`; 1 spaces them evenly.

    Returns:
        `steps + 1` levels in float64, falling from `sigma_max` to `sigma_min`.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> karras_sigmas(4).tolist()[::4]
        [200.0, 0.01]
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
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    return sigmas
