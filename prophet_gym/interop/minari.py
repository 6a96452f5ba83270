"""Minari: datasets of imagined rollouts, whose env can be made again from its id and plain arguments."""

from typing import Any

import gymnasium as gym
from minari import DataCollector, StepData, StepDataCallback

# What is kept of `info`: numbers, with what stands for those that the first observation, which no step led to, lacks.
_KEPT: dict[str, Any] = {"task": None, "start": None, "scored": False, "success": False, "executed": 0}


class _Step(StepDataCallback):
    """Keep the same entries of `info` at every step and at the first observation, as Minari asks."""

    def __call__(self, *args: Any, **kwargs: Any) -> StepData:
        step = super().__call__(*args, **kwargs)
        step["info"] = {name: step["info"].get(name, absent) for name, absent in _KEPT.items()}
        return step


def collector(env: gym.Env) -> DataCollector:
    """Return a Minari `DataCollector` around an env, with `task`, `start`, `success` and the like in infos.

    Make the env with the module in its id, `gym.make("prophet_gym:Prophet-LIBERO-v0", weights=...)`, or import
    prophet_gym before `recover_environment`: Gymnasium knows only the ids of imported packages. ValueError for an env
    without a spec.
    """
    if env.spec is None:
        raise ValueError("Minari stores how to make the env: pass one from gym.make(id, ...)")
    return DataCollector(env, step_data_callback=_Step, record_infos=True)
