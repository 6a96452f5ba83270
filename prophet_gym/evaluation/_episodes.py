"""Episodes to compare dreams with: held-out ones of the simulator, and the same ones as a world model dreams them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data._episode import Episode, LabelledVideo
from prophet_gym.data._recording import list_episodes, read_episode
from prophet_gym.evaluation import dream
from prophet_gym.world_model import WorldModel


def held_out_episodes(
    checkpoint: Checkpoint,
    data: Path | None,
    count: int,
    *,
    look: str | None = None,
    workers: int = 2,
    without: Sequence[str] = (),
) -> tuple[list[Path], list[Episode]]:
    """Return at most `count` held-out episodes and their files, spread evenly over the tasks.

    Without `data` they are recorded from the official initial states; later calls use them again.
    """
    if data is None:
        paths = record_official(checkpoint, count, look=look, workers=workers)
    else:
        paths = list_episodes(data, evaluating=True, without=without)[:count]
    if not paths:
        raise ValueError(f"{data} holds no complete episode; make some with `prophet collect --out {data}`")
    return paths, [read_episode(path) for path in paths]


def record_official(checkpoint: Checkpoint, count: int, *, look: str | None = None, workers: int = 2) -> list[Path]:
    """Record what is missing of the held-out episodes and return their files."""
    from prophet_gym._io.cache import cache_dir
    from prophet_gym.data._recording import episode_path
    from prophet_gym.errors import MissingAssetsError
    from prophet_gym.sims.libero._install import missing

    reason = missing()
    if reason is not None:
        raise MissingAssetsError(f"cannot record held-out episodes: {reason}. Or give recorded ones with --data")
    from prophet_gym.sims._recorder import Plan, collect

    starts = checkpoint.initial_states("official")
    suite = starts.suites[0]
    chosen = str(look or checkpoint.config.get("look", "light"))
    plan = Plan(suite, starts.tasks, count, seed=0, look=chosen, starts="official")
    # Scripts and looks have versions, so that a newer program does not compare with what an older one recorded.
    version = f"v{plan.meta()['script_version']}.{plan.meta()['look_version']}"
    folder = cache_dir() / "recordings" / f"{suite}_{chosen}_official_{version}"
    collect(plan, folder, workers=workers)
    return [episode_path(folder, *job) for job in plan.jobs()]


def dreamt_frames(
    world_model: WorldModel, episodes: Sequence[Episode], batch_size: int, seed: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "t h w 3"]]]:
    """Yield each episode's number and its frames as dreamt from the first one under the recorded actions.

    A dream ends with the last whole chunk; its noise depends on `seed` and on the episode's number alone.
    """
    chunk = world_model.chunk
    order = sorted(range(len(episodes)), key=lambda number: len(episodes[number]))
    # In batches of similar length.
    for first in range(0, len(order), batch_size):
        numbers = order[first : first + batch_size]
        batch = [episodes[number] for number in numbers]
        whole = [len(episode) // chunk * chunk for episode in batch]
        actions = np.zeros((len(batch), max(whole), batch[0].actions.shape[1]), np.float32)
        for row, (episode, steps) in enumerate(zip(batch, whole, strict=True)):
            actions[row, :steps] = episode.actions[:steps]
        starts = np.stack([episode.frames()[:1] for episode in batch])
        if not max(whole):
            yield from zip(numbers, starts, strict=True)
            continue
        state = world_model.encode(torch.from_numpy(starts))
        frames = dream(world_model, state, actions, [seed + number for number in numbers]).frames
        for row, (number, steps) in enumerate(zip(numbers, whole, strict=True)):
            yield number, np.concatenate([starts[row], frames[row, :steps]])


def labelled(episode: Episode, frames: UInt8[np.ndarray, "t h w 3"]) -> LabelledVideo:
    """Return an episode's frames, recorded or dreamt, with the labels of the recording."""
    labels = episode.sim.success[: len(frames)]
    return LabelledVideo(frames, labels, episode.instruction, episode.sim.task, episode.sim.mode)
