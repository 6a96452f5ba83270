"""Initial states that begin where recorded episodes do."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prophet_gym.data._episode import Episode
from prophet_gym.data._recording import opened
from prophet_gym.specs import CAMERAS, WRIST_CAMERA, InitialState


def first_state(episode: Episode, **place: Any) -> InitialState:
    """Return where an episode begins, with what a second camera saw there and the robot's state where it has them."""
    extra = {}
    if len(episode.cameras) > 1:
        extra[CAMERAS[WRIST_CAMERA]] = episode.frames(0, 1, camera=WRIST_CAMERA)
    if episode.simulation is not None and episode.simulation.robot_state is not None:
        extra["state"] = episode.simulation.robot_state[0]
    return InitialState(episode.frames(0, 1), episode.instruction, extra=extra, **place)


def first_frames(recorded: Sequence[Path | Episode], size: tuple[int, int], most: int = 50) -> list[InitialState]:
    """Return the first frames of recorded episodes as initial states, `most` of every task.

    Where no simulator says otherwise, the suite is the data set and a task is an instruction, numbered as they appear.
    """
    taken: Counter[tuple[str, int]] = Counter()
    tasks: dict[str, int] = {}
    states = []
    for each in recorded:
        episode = opened(each)
        task = tasks.setdefault(episode.instruction, len(tasks))
        known = episode.simulation
        suite, task = key = (Path(episode.name).parent.name, task) if known is None else (known.suite, known.task)
        if taken[key] == most:
            continue
        state = first_state(episode, suite=suite, task=task, index=taken[key], split="train")
        if (found := state.frames.shape[1:3]) != size:
            raise ValueError(f"{episode.name} has frames of {found}, and the model dreams {size}; record them so")
        states.append(state)
        taken[key] += 1
    return states
