"""LeRobot data sets as `ActionProphet` reads them: all cameras in one image, of a size that it can dream."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from prophet_gym._checks import read_options, unknown_option
from prophet_gym._io.files import read_json
from prophet_gym._io.hub import fetch_data_set
from prophet_gym.data._episode import Episode, ReadFrames
from prophet_gym.data._lerobot import INFO, LeRobotSource, camera_features
from prophet_gym.data._mixture import LEROBOT, named_options
from prophet_gym.data._recording import refuse_official_export
from prophet_gym.data._windows import fitted

PREFIX = "lerobot:"
_CAMERAS = "observation.images."
LONGEST, SHORTEST, _MULTIPLE = 128, 64, 16
"""Sides, in pixels, of the size that is chosen where none is given; sides are multiples of 16."""


def is_lerobot(name: str | Path) -> bool:
    """Return whether `--data` names a LeRobot data set: `lerobot:FOLDER` or `lerobot:owner/repo`."""
    return str(name).startswith(PREFIX)


class StackedSource:
    """Read some cameras of a LeRobot data set as one: their images, each of `size`, lie below one another.

    Args:
        name: `lerobot:FOLDER` or, on the Hub, `lerobot:owner/repo`, then options of `LeRobotSource` (action, orient,
            tolerance, episodes, without) as `,name=value`.
        cameras: Names of features, from top to bottom; `observation.images.` may be left out. By default the first.
        size: Height and width of each image: what is seen is cut to these proportions about its middle, then resized.
            By default as large as recorded, its longer side at most 128 pixels, sides rounded to multiples of 16.
        evaluating: Whether nothing is fitted to the episodes, so that they may start from official initial states.
    """

    def __init__(
        self,
        name: str,
        cameras: Sequence[str] = (),
        size: tuple[int, int] | None = None,
        *,
        evaluating: bool = False,
    ):
        place, given = named_options(name.removeprefix(PREFIX))
        known = {option: read for option, read in LEROBOT.items() if option != "camera"}
        options: dict[str, Any] = read_options("option of a lerobot data set", given, known)
        root = Path(place).expanduser()
        if not root.exists() and place.count("/") == 1:
            root = fetch_data_set(place)
        if size is not None and any(side % _MULTIPLE or side < SHORTEST for side in size):
            raise ValueError(f"size must be two multiples of {_MULTIPLE} of at least {SHORTEST}, got {size}")
        self.root, self.suite = root, Path(place).expanduser().resolve().name
        if not evaluating:
            refuse_official_export(root)
        features = camera_features(root)
        if not features:
            raise ValueError(f"{root} must have a camera, a feature of dtype video or image, and has none")
        self.cameras = tuple(_feature(camera, features) for camera in cameras or features[:1])
        self.sources = [LeRobotSource(root, camera, **options) for camera in self.cameras]
        self.first = self.sources[0]
        self.layout = str(read_json(root / INFO)["codebase_version"])
        if not any(map(self.first.steps, range(len(self.first)))):
            raise ValueError(f"{root} must have an episode with an action and the frames around it, and has none")
        self.size = size or default_size(*self.first.episode(0).frames(0, 1).shape[1:3])

    def __len__(self) -> int:
        return len(self.first)

    def steps(self, index: int) -> int:
        """Return the number of actions of episode `index` with a frame before and after."""
        return self.first.steps(index)

    def episode(self, index: int) -> Episode:
        """Read episode `index`; its name is that of the set's folder and its number there."""
        episodes = [source.episode(index) for source in self.sources]
        read = partial(_read_stacked, [episode.read for episode in episodes], self.size)
        name = f"{self.suite}/episode_{self.first.entries[index].number:06d}"
        return replace(episodes[0], name=name, read=read, camera=None)

    def episodes(self, most: int | None = None) -> list[Episode]:
        """Read the actions of the first `most` episodes, or of all; one without a whole action is left out."""
        return [self.episode(index) for index in range(len(self)) if self.steps(index)][:most]

    @property
    def action_names(self) -> tuple[str, ...] | None:
        """Return the names of an action's dimensions as the set states them; None where it does not."""
        return names_of(self.first.features[self.first.action])


def names_of(feature: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the names of a feature's numbers: a list, or as in older sets lists by group; None if they do not fit."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) if [len(names)] == feature.get("shape") else None


def default_size(height: int, width: int) -> tuple[int, int]:
    """Return the size to which frames are brought where none is asked for.

    Example:
        >>> default_size(480, 640), default_size(96, 96), default_size(720, 1280)
        ((96, 128), (96, 96), (64, 128))
    """
    scale = min(1.0, LONGEST / max(height, width))
    rows, columns = (max(SHORTEST, round(side * scale / _MULTIPLE) * _MULTIPLE) for side in (height, width))
    return rows, columns


def _feature(camera: str, features: Sequence[str]) -> str:
    for name in (camera, _CAMERAS + camera):
        if name in features:
            return name
    raise unknown_option("camera", camera, features)


def _read_stacked(
    reads: Sequence[ReadFrames], size: tuple[int, int], start: int, stop: int
) -> UInt8[np.ndarray, "f h w 3"]:
    views = [fitted(read(start, stop), size) for read in reads]
    # A camera may lack frames at its end; `Episode.frames` counts those that all have.
    count = min(map(len, views))
    return np.concatenate([view[:count] for view in views], axis=1)
