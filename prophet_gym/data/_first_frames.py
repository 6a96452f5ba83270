"""Initial states that begin where recorded episodes do."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prophet_gym.data._episode import Episode
from prophet_gym.data._recording import opened
from prophet_gym.specs import CAMERAS, WRIST_CAMERA, InitialState


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
        frames = episode.frames(0, 1)
        if frames.shape[1:3] != size:
            raise ValueError(
                f"{episode.name} has frames of {frames.shape[1:3]}, and the model dreams {size}; record them so"
            )
        place = {"suite": suite, "task": task, "index": taken[key], "split": "train"}
        seen = {}
        if len(episode.cameras) > 1 and known is not None and known.robot_state is not None:
            seen = {CAMERAS[WRIST_CAMERA]: episode.frames(0, 1, camera=WRIST_CAMERA), "state": known.robot_state[0]}
        states.append(InitialState(frames, episode.instruction, **place, extra=seen))
        taken[key] += 1
    return states
