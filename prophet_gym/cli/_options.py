"""Options that several commands share, each declared once; a command's `Args` inherits those that it takes."""

from dataclasses import dataclass
from pathlib import Path

from prophet_gym._arguments import Arguments, DeviceOrAuto, Items, Seed, Workers


@dataclass(frozen=True, kw_only=True)
class DreamOptions(Arguments):
    """What dreams, and where."""

    world_model: str = "bundled"
    """Checkpoint of the world model: `bundled`, the name of a bundled one, a folder, or a Hub repository."""
    device: DeviceOrAuto = "auto"
    """Device that computes, for example `cpu` or `cuda:1`; `auto` is the GPU if there is one."""
    seed: Seed = 0
    """Seed of the dreams' noise."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions(DreamOptions):
    """What dreams, and how much at once."""

    batch_size: Items = 8
    """Number of dreams computed at once."""


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions(Arguments):
    """Episodes that dreams are compared with."""

    data: Path | None = None
    """Recording of `prophet collect`. Without it, episodes from the official initial states are recorded and kept."""
    episodes: Items = 40
    """Number of episodes, spread evenly over the tasks."""
    workers: Workers = 2
    """Number of processes that record."""
    without: tuple[str, ...] = ()
    """Episodes of `--data` to leave out, for example `task_03/episode_00007`."""
