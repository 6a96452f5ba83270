"""Options that several commands share, each declared once; a command's `Args` inherits those that it takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophet_gym._arguments import Arguments, Items, Seed, Workers, WorldModelOptions


@dataclass(frozen=True, kw_only=True)
class DreamOptions(WorldModelOptions):
    """Choose the world model, its device and the seed of its dreams."""

    seed: Seed = 0
    """Seed of the dreams' noise."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions(DreamOptions):
    """Choose the world model, and how many of its dreams are computed at once."""

    batch_size: Items = 8
    """Number of dreams computed at once."""


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions(Arguments):
    """Choose the recorded episodes that dreams are compared with."""

    data: Path | None = None
    """Recording of `prophet collect`, or a LeRobot data set as `lerobot:FOLDER`, of which those episodes are read that
    training kept out. By default episodes from the official initial states are recorded and kept."""
    episodes: Items = 40
    """Number of episodes, spread evenly over the tasks."""
    workers: Workers = 2
    """Number of processes that record."""
    without: tuple[str, ...] = ()
    """Episodes of `--data` to leave out, for example `task_03/episode_00007`."""

    def read(self, checkpoint: Any, look: str | None = None) -> tuple[list[Any], dict[str, Any]]:
        """Return the episodes, recorded where they are missing, and what their recording says of itself."""
        from prophet_gym.data._recording import list_episodes, read_episode, read_meta
        from prophet_gym.data._stacked import is_lerobot
        from prophet_gym.evaluation._official import record_official
        from prophet_gym.train._robot import kept_out

        if self.data is not None and is_lerobot(self.data):
            if self.without:
                raise ValueError("episodes of a LeRobot data set are left out by number: lerobot:PATH,without=3+7")
            episodes = kept_out(str(self.data), checkpoint, self.episodes)
            suite = episodes[0].name.rpartition("/")[0]
            return episodes, {"suite": suite, "look": "recorded", "starts": "recorded"}
        if self.data is None and "cameras" in checkpoint.config:
            raise ValueError(
                f"{checkpoint.folder} was trained on LeRobot data sets, and no simulator records their robot: give "
                "--data lerobot:PATH, of which the episodes are read that training kept out"
            )
        if self.data is None:
            paths = record_official(checkpoint, self.episodes, look=look, workers=self.workers)
        else:
            paths = list_episodes(self.data, evaluating=True, without=self.without)[: self.episodes]
        if not paths:
            raise ValueError(
                f"{self.data} holds no complete episode; make some with `prophet collect --out {self.data}`"
            )
        meta = read_meta(paths[0].parents[1], needs=("suite", "look"))
        episodes = [read_episode(path) for path in paths]
        return episodes, {"suite": meta["suite"], "look": meta["look"], "starts": meta.get("starts", "random")}
