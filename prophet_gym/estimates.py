"""Rates, means and gains over episodes, with 95% intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 2000
_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """Hold a mean over the episodes that have a value, with its 95% interval; NaN if there are no such episodes."""

    mean: float
    low: float
    high: float
    episodes: int

    @property
    def interval(self) -> tuple[float, float]:
        """Return the lower and upper end of the interval."""
        return self.low, self.high


_NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)


def bootstrap(
    *values: Float[np.ndarray, " e"], statistic: Callable[..., Float[np.ndarray, " r"]] | None = None, seed: int = 0
) -> Estimate:
    """Resample episodes; values of one episode stay together, so differences and ratios are paired.

    An episode with a NaN in any of `values` is left out. `statistic` leads from the means of each of `values` (one
    array each) to the number of interest; by default the mean itself.
    """
    statistic = statistic or (lambda first: first)
    table = np.stack(values)
    table = table[:, ~np.isnan(table).any(axis=0)]
    count = table.shape[1]
    if count == 0:
        return _NOTHING
    # scipy.stats.bootstrap draws the same, but refuses a single episode and takes no statistic of means.
    picks = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    low, high = np.quantile(statistic(*table[:, picks].mean(axis=2)), _QUANTILES)
    mean = statistic(*table.mean(axis=1, keepdims=True))[0]
    return Estimate(float(mean), float(low), float(high), count)


def wilson(successes: int, tries: int) -> Estimate:
    """Return a rate with its 95% Wilson interval; NaN where nothing was tried."""
    if not 0 <= successes <= tries:
        raise ValueError(f"successes must be between 0 and tries, got {successes} of {tries}")
    if tries == 0:
        return _NOTHING
    from scipy.stats import binomtest  # here, because an env imports this module and needs no statistics

    interval = binomtest(successes, tries).proportion_ci(0.95, "wilson")
    return Estimate(successes / tries, float(interval.low), float(interval.high), tries)


def paired_gain(before: Float[np.ndarray, "n runs"], after: Float[np.ndarray, "m seeds"], *, seed: int = 0) -> Estimate:
    """Estimate the gain over the same initial states, resampling the states and, apart from them, the training seeds.

    `before` and `after` hold the success at each initial state (0 or 1, or a rate), a column for each run or seed. One
    column leaves the spread over seeds unknown: the interval is then of the states alone.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"before and after must hold the same starts, got {len(before)} and {len(after)}")
    random = np.random.default_rng(seed)
    starts = random.integers(len(before), size=(RESAMPLES, len(before)))
    found = _resampled(after, starts, random) - _resampled(before, starts, random)
    low, high = np.quantile(found, _QUANTILES)
    return Estimate(float(after.mean() - before.mean()), float(low), float(high), len(before))


def mcnemar(before: Bool[np.ndarray, " n"] | Sequence[bool], after: Bool[np.ndarray, " n"] | Sequence[bool]) -> float:
    """Return McNemar's exact two-sided p-value: are gains and losses over the same episodes equally likely?"""
    one, other = np.asarray(before, bool), np.asarray(after, bool)
    if one.shape != other.shape:
        raise ValueError(f"before and after must hold the same episodes, got {one.shape} and {other.shape}")
    from scipy.stats import binomtest

    gained, changed = int((other & ~one).sum()), int((other != one).sum())
    return float(binomtest(gained, changed).pvalue) if changed else 1.0


def _resampled(
    table: Float[np.ndarray, "n columns"], starts: Int[np.ndarray, "r n"], random: np.random.Generator
) -> Float[np.ndarray, " r"]:
    """Return the mean over the chosen states and over columns that are drawn here."""
    columns = random.integers(table.shape[1], size=(len(starts), table.shape[1]))
    return np.take_along_axis(table[starts].mean(1), columns, 1).mean(1)
