"""Leaving a dream that can no longer be believed."""

from numbers import Real
from typing import Any, SupportsFloat

import gymnasium as gym

from prophet_gym.envs.wrapping import PlainArguments


class TruncateOnDoubt(gym.Wrapper, PlainArguments):
    """Truncates the episode when `info["doubt"]` passes a threshold (or is NaN); `info["doubted"]` says whether it did.

    In a vector env the world must know, so that the row restarts as the autoreset mode says: pass `max_doubt=` to
    `ProphetVectorEnv` (`ProphetEnv` takes it too).

    Example:
        >>> from prophet_gym.envs import ProphetEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> env = TruncateOnDoubt(ProphetEnv(CountingWorldModel(chunk=4), counting_starts()), 0.5)
        >>> _ = env.reset(seed=0)
        >>> env.step(env.action_space.sample())
        Traceback (most recent call last):
        ...
        ValueError: TruncateOnDoubt needs a world model that tells its doubt, and info has no 'doubt'
    """

    def __init__(self, env: gym.Env, threshold: SupportsFloat) -> None:
        """Wrap an env.

        Args:
            env: Its steps must report `info["doubt"]`.
            threshold: The largest doubt that is gone along with, at least 0.
        """
        PlainArguments.__init__(self, threshold=threshold)
        super().__init__(env)
        self._threshold = require_threshold("threshold", threshold)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the env."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, info | {"doubted": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the env; ValueError if it dreamt and does not say how unsure it is."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        nothing_dreamt = info.get("pending", 0) > 0 or info.get("live") is False
        if "doubt" not in info and not nothing_dreamt:
            raise ValueError("TruncateOnDoubt needs a world model that tells its doubt, and info has no 'doubt'")
        doubted = not info.get("doubt", 0.0) <= self._threshold
        return observation, float(reward), terminated, truncated or doubted, info | {"doubted": doubted}


def require_threshold(name: str, value: object) -> float:
    """The largest doubt that is gone along with; ValueError if it is no number of at least 0."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if not number >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return number
