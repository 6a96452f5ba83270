"""A mean over episodes and how sure of it one may be."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean over episodes with its 95% bootstrap interval.

    Attributes:
        mean: over the episodes that have a value; NaN if none has.
        low: lower end of the interval.
        high: upper end of the interval.
        episodes: how many have a value.
    """

    mean: float
    low: float
    high: float
    episodes: int


def bootstrap(
    *values: Float[np.ndarray, " e"],
    statistic: Callable[..., Float[np.ndarray, " r"]] | None = None,
    seed: int = 0,
) -> Estimate:
    """Resample episodes; values of one episode stay together, so differences and ratios are paired.

    Args:
        values: one or more values per episode; an episode with a NaN in any of them is left out.
        statistic: from the means of each of `values` (one array each) to the number of interest; by default the
            mean itself.
        seed: of the resampling.

    Example:
        >>> dream, copy = np.array([25.0, 27.0, 26.0]), np.array([22.0, 24.0, 23.0])
        >>> gain = bootstrap(dream, copy, statistic=lambda d, c: d - c)
        >>> gain.mean, gain.low, gain.high, gain.episodes
        (3.0, 3.0, 3.0, 3)
    """
    statistic = statistic or (lambda first: first)
    table = np.stack(values)
    table = table[:, ~np.isnan(table).any(axis=0)]
    count = table.shape[1]
    if count == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    picks = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    low, high = np.quantile(statistic(*table[:, picks].mean(axis=2)), [0.025, 0.975])
    mean = statistic(*table.mean(axis=1, keepdims=True))[0]
    return Estimate(float(mean), float(low), float(high), count)


def wilson(successes: int, tries: int) -> Estimate:
    """A rate with its 95% Wilson interval; NaN where nothing was tried.

    Example:
        >>> found = wilson(9, 10)
        >>> found.mean, round(found.low, 3), round(found.high, 3)
        (0.9, 0.596, 0.982)
    """
    if not 0 <= successes <= tries:
        raise ValueError(f"successes must be between 0 and tries, got {successes} of {tries}")
    if tries == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    rate, z = successes / tries, Z95
    centre = (rate + z * z / (2 * tries)) / (1 + z * z / tries)
    half = z * math.sqrt(rate * (1 - rate) / tries + z * z / (4 * tries * tries)) / (1 + z * z / tries)
    return Estimate(rate, max(0.0, centre - half), min(1.0, centre + half), tries)
