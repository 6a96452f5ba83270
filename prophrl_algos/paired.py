"""Two policies on the same starts: who gained, and how sure one may be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 2000


@dataclass(frozen=True)
class Gain:
    """A difference of success rates with its 95% interval.

    Attributes:
        mean: after minus before.
        low: lower end of the interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float


def paired_gain(before: Float[np.ndarray, "n runs"], after: Float[np.ndarray, "m seeds"], *, seed: int = 0) -> Gain:
    """The gain over the same starts, by a bootstrap of the starts and, apart from them, of the training seeds.

    Args:
        before: success of each start (0 or 1, or a share), a column for each run.
        after: likewise; a column for each training seed. One column leaves the spread over seeds unknown: the interval
            is then of the starts alone.
        seed: of the resampling.

    Example:
        >>> paired_gain(np.array([[0.0], [0.0], [1.0]]), np.array([[1.0], [1.0], [1.0]])).mean.__round__(3)
        0.667
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"before and after must hold the same starts, got {len(before)} and {len(after)}")
    random = np.random.default_rng(seed)
    starts = random.integers(len(before), size=(RESAMPLES, len(before)))
    found = _resampled(after, starts, random) - _resampled(before, starts, random)
    low, high = np.quantile(found, [0.025, 0.975])
    return Gain(float(after.mean() - before.mean()), float(low), float(high))


def _resampled(
    table: Float[np.ndarray, "n columns"], starts: Int[np.ndarray, "r n"], random: np.random.Generator
) -> Float[np.ndarray, " r"]:
    """The mean over chosen starts and over columns that are drawn here."""
    columns = random.integers(table.shape[1], size=(len(starts), table.shape[1]))
    return np.take_along_axis(table[starts].mean(1), columns, 1).mean(1)


def mcnemar(before: Bool[np.ndarray, " n"] | Sequence[bool], after: Bool[np.ndarray, " n"] | Sequence[bool]) -> float:
    """The exact two-sided p-value of McNemar's test: are gains and losses over the same episodes equally likely?

    Example:
        >>> mcnemar([False] * 5 + [True], [True] * 6)
        0.0625
    """
    one, other = np.asarray(before, bool), np.asarray(after, bool)
    if one.shape != other.shape:
        raise ValueError(f"before and after must hold the same episodes, got {one.shape} and {other.shape}")
    gained, lost = int((other & ~one).sum()), int((one & ~other).sum())
    count = gained + lost
    tail = sum(math.comb(count, k) for k in range(min(gained, lost) + 1)) / 2**count
    return min(1.0, 2 * tail)
