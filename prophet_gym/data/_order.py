"""The order in which windows are read: a pure function of seed and position, so any moment can be resumed.

Sources are mixed by exact quotas. An epoch takes `quota` windows of each source, shuffled together; the windows of one
source come as an endless row of shuffled passes over it, so none comes twice before all have come once.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

_PASS, _EPOCH = 0, 1


def quotas(weights: Sequence[float | int], size: int) -> list[int]:
    """Divide `size` windows in proportion to the weights, to the nearest whole one (largest remainders)."""
    if not weights or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights must be above zero, got {list(weights)}; leave a source out instead")
    # Quotas rather than draws: the mixture is met exactly in every epoch, and a position says which window it is.
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * size
    shares = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")
    shares[largest[: size - int(shares.sum())]] += 1
    if not shares.all():
        source = int(np.argmin(shares))
        raise ValueError(
            f"an epoch of {size} windows has no window for source {source} of weight {weights[source]:g} "
            f"out of {sum(weights):g}; make epochs longer"
        )
    return shares.tolist()


def shuffled_passes(count: int, start: int, take: int, *, seed: int, source: int) -> Int64[np.ndarray, " n"]:
    """Cut `take` windows from `start` out of the endless row of shuffled passes over a source's `count` windows."""
    # Each pass has a generator of its own, so any moment is reached without going through those before.
    passes = range(start // count, (start + take - 1) // count + 1)
    row = [np.random.default_rng([seed, _PASS, source, number]).permutation(count) for number in passes]
    first = start - passes.start * count
    return np.concatenate(row)[first : first + take].astype(np.int64)


def epoch_order(counts: Sequence[int], shares: Sequence[int], *, seed: int, epoch: int) -> Int64[np.ndarray, "n 2"]:
    """Return (source, window) of every position of an epoch that takes `shares` of the `counts` windows of sources."""
    rows = []
    for source, (count, share) in enumerate(zip(counts, shares, strict=True)):
        windows = shuffled_passes(count, epoch * share, share, seed=seed, source=source)
        rows.append(np.stack([np.full_like(windows, source), windows], axis=1))
    return np.random.default_rng([seed, _EPOCH, epoch]).permutation(np.concatenate(rows))
