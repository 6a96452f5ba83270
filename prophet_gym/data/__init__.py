"""Read episodes, whoever recorded them and in whatever files, and cut training windows out of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prophet_gym.data._episode import Episode, EpisodeSource, Simulation, held_out
from prophet_gym.data._reading import ToolReading
from prophet_gym.data._recording import RecordingSource, list_episodes, read_episode, write_episode
from prophet_gym.data._windows import MixtureEntry, WindowDataset, WindowLoader, Windows, WindowShape

if TYPE_CHECKING:
    from prophet_gym.data._hdf5 import LIBERO, LIBERO_REGENERATED, ROBOMIMIC, Hdf5Source, Layout
    from prophet_gym.data._lerobot import LeRobotSource

__all__ = [
    "LIBERO",
    "LIBERO_REGENERATED",
    "ROBOMIMIC",
    "Episode",
    "EpisodeSource",
    "Hdf5Source",
    "Layout",
    "LeRobotSource",
    "MixtureEntry",
    "RecordingSource",
    "Simulation",
    "ToolReading",
    "WindowDataset",
    "WindowLoader",
    "WindowShape",
    "Windows",
    "held_out",
    "list_episodes",
    "read_episode",
    "write_episode",
]

# Loaded when they are asked for: h5py and pyarrow are in the extra `data` alone.
_HDF5 = ("LIBERO", "LIBERO_REGENERATED", "ROBOMIMIC", "Hdf5Source", "Layout")
_LATER = dict.fromkeys(_HDF5, "_hdf5") | {"LeRobotSource": "_lerobot"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
