"""Minari: data sets recorded in the dream, whose env can be recovered from the id and plain arguments."""

from typing import Any

import gymnasium as gym
from minari import DataCollector, StepData, StepDataCallback

ABSENT: dict[str, Any] = {"scored": False, "success": False, "executed": 0}
"""What the first observation, of no step, is given."""
KEPT = ("task", "start", *ABSENT)


class DreamStep(StepDataCallback):
    """Keeps the numbers of `info` that every step has, the first observation included, as Minari asks."""

    def __call__(self, *args: Any, **kwargs: Any) -> StepData:
        """One step as it is stored."""
        step = super().__call__(*args, **kwargs)
        step["info"] = {name: step["info"].get(name, ABSENT.get(name)) for name in KEPT}
        return step


def collector(env: gym.Env) -> DataCollector:
    """A Minari `DataCollector` around an env from `gym.make`, with `task`, `start`, `success` and the like in infos.

    Make the env by its whole name, `gym.make("prophet_gym:Prophet-LIBERO-v0", weights=...)`, or import prophet_gym
    before `recover_environment`: Gymnasium finds ids of packages that were imported only.

    Raises:
        ValueError: If the env was not made from an id, so that no one could recover it.
    """
    if env.spec is None:
        raise ValueError("Minari stores how to make the env: pass one from gym.make(id, ...)")
    return DataCollector(env, step_data_callback=DreamStep, record_infos=True)
