"""Store training latents in a few megabytes: steps of 1/16, differences between consecutive frames, lzma.

numpy and the standard library alone, since it runs on the other machine before anything is installed there.
"""

import io
import lzma
from itertools import pairwise

import numpy as np

STEPS_PER_UNIT = 16
LIMIT = 127 / STEPS_PER_UNIT
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]
NAMES = ("latents", "commands", "gripper", "starts")


def quantise(latents: np.ndarray) -> np.ndarray:
    """Round to sixteenths, int8.

    Args:
        latents: normalised, of any shape.

    Raises:
        ValueError: one does not fit.
    """
    largest = float(np.abs(latents).max(initial=0))
    if not largest <= LIMIT:
        raise ValueError(f"latents must lie within {LIMIT:g} of zero, got {largest:g}: normalise them")
    return np.rint(latents.astype(np.float32) * STEPS_PER_UNIT).astype(np.int8)


def compress(arrays: dict[str, np.ndarray]) -> bytes:
    """Pack the arrays of a `LatentEpisodes`: latents rounded to sixteenths, the rest as it is.

    Args:
        arrays: `latents` n c h w, `commands` n a and `gripper` n 4 of all frames, `starts` of the episodes.
    """
    numbers = quantise(arrays["latents"]).view(np.uint8)  # differences wrap around, and so come back exactly
    first = arrays["starts"][:-1]
    changes = numbers.copy()
    changes[1:] -= numbers[:-1]
    changes[first] = numbers[first]
    file = io.BytesIO()
    np.savez(file, **{**{name: arrays[name] for name in NAMES}, "latents": changes})
    return lzma.compress(file.getvalue(), filters=FILTERS)


def decompress(data: bytes) -> dict[str, np.ndarray]:
    """Unpack what `compress` packed, latents in float16, which holds all sixteenths exactly."""
    with np.load(io.BytesIO(lzma.decompress(data))) as stored:
        arrays = {name: stored[name] for name in NAMES}
    changes, starts = arrays["latents"], arrays["starts"]
    numbers = np.empty_like(changes)
    for first, end in pairwise(starts):
        np.cumsum(changes[first:end], axis=0, dtype=np.uint8, out=numbers[first:end])
    return arrays | {"latents": numbers.view(np.int8).astype(np.float16) / np.float16(STEPS_PER_UNIT)}
