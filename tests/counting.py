"""An env of the counting model that an id can name."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

from prophet_gym.envs import ProphetEnv
from prophet_gym.envs._plain import plain
from prophet_gym.testing import CountingWorldModel, counting_starts


def counting_env(*, chunk: SupportsIndex = 8, size: Sequence[SupportsIndex] = (8, 8), **arguments: Any) -> ProphetEnv:
    """Build a `ProphetEnv` of the counting model from plain data."""
    height, width = plain(size)
    model = CountingWorldModel(chunk=plain(chunk), frame_size=(height, width))
    return ProphetEnv(model, counting_starts(size=(height, width)), **plain(arguments))
