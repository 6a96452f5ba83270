"""The checkpoint that a training ends in: one that an env can be made of."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prophet_gym._io.companions import next_steps
from prophet_gym.data.recording import read_episode
from prophet_gym.envs.initial_states import INDEX_NAME, write_initial_states
from prophet_gym.prophet import Prophet
from prophet_gym.specs import InitialState

STARTS_PER_TASK = 50


def write_checkpoint(prophet: Prophet, folder: Path, recorded: Sequence[Path]) -> None:
    """Save a model with what its base had beside it, and make starts where there are none; print what to do next.

    Args:
        prophet: its `source` is the checkpoint whose starts, success head and object reader are true of its scene, too.
        folder: of the checkpoint.
        recorded: episodes of random resets that it was trained on; their first frames become the start set `train`.
    """
    places = [folder, *([] if prophet.source is None else [prophet.source])]
    if recorded and not any(any((place / "starts").glob(f"*/{INDEX_NAME}")) for place in places):
        write_initial_states(folder / "starts" / "train", starts_of(recorded, prophet.frame_size))
    prophet.save_pretrained(folder)
    print(next_steps(folder, recorded[0].parents[1] if recorded else "DIR"))


def starts_of(recorded: Sequence[Path], size: tuple[int, int]) -> list[InitialState]:
    """Return the first frames of recorded episodes, at most `STARTS_PER_TASK` of every task.

    Raises:
        ValueError: they are of another size than the model's.
    """
    taken: Counter[tuple[str, int]] = Counter()
    starts = []
    for path in recorded:
        episode = read_episode(path)
        suite, task = key = (episode.sim.suite, episode.sim.task)
        if taken[key] == STARTS_PER_TASK:
            continue
        frames = episode.frames(0, 1)
        if frames.shape[1:3] != size:
            raise ValueError(f"{path} has frames of {frames.shape[1:3]}, and the model dreams {size}; record them so")
        starts.append(
            InitialState(frames, episode.instruction, suite=suite, task=task, index=taken[key], split="train")
        )
        taken[key] += 1
    return starts
