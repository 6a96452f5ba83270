"""Read episodes, whoever recorded them and in whatever files, and cut training windows out of them."""

from prophet_gym.data._episode import Episode, EpisodeSource, Simulation, held_out
from prophet_gym.data._hdf5 import LIBERO, LIBERO_REGENERATED, ROBOMIMIC, Hdf5Source, Layout
from prophet_gym.data._lerobot import LeRobotSource
from prophet_gym.data._reading import ToolReading
from prophet_gym.data._recording import RecordingSource, list_episodes, read_episode, write_episode
from prophet_gym.data._windows import MixtureEntry, WindowDataset, WindowLoader, Windows, WindowShape

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
