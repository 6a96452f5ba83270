"""Check what is asked of a suite: the split that its episodes start from, and the cameras that see them."""

from collections.abc import Sequence

import numpy as np

from prophet_gym._checks import require_known
from prophet_gym.errors import UnknownOptionError
from prophet_gym.sims.simulator import HasWristCamera, simulator_of
from prophet_gym.specs import CAMERAS, FIRST_CAMERA


def check_split(suite: str, split: str) -> None:
    """Raise UnknownOptionError unless episodes of a suite can start from this split."""
    splits = simulator_of(suite).splits
    if split == "train" and splits == ("official",):
        raise UnknownOptionError(f"{suite} is for evaluation only: it has the split 'official', and no 'train'")
    require_known("split", split, splits)


def check_cameras(suite: str, cameras: Sequence[str] | np.ndarray) -> tuple[str, ...]:
    """Return names of cameras in the order of `specs.CAMERAS`; UnknownOptionError unless a suite's simulator has them.

    ValueError unless the first camera is among them, and each at most once.
    """
    # It imports torch, which a process that only simulates does without.
    from prophet_gym.envs._plain import require_cameras

    names = require_cameras(cameras)
    own = tuple(CAMERAS) if issubclass(simulator_of(suite), HasWristCamera) else (FIRST_CAMERA,)
    for camera in names:
        require_known(f"camera of {suite}", camera, own)
    return names
