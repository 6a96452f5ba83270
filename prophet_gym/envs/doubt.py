"""Leaving a dream that can no longer be believed."""

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs


class TruncateOnDoubt(gym.Wrapper, RecordConstructorArgs):
    """Truncates the episode when `info["doubt"]` passes a threshold; `info["doubted"]` says whether it did.

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

    def __init__(self, env: gym.Env, threshold: float) -> None:
        """Wrap an env.

        Args:
            env: Its steps must report `info["doubt"]`.
            threshold: The largest doubt that is gone along with, at least 0.
        """
        if not threshold >= 0:
            raise ValueError(f"threshold must be a number of at least 0, got {threshold}")
        RecordConstructorArgs.__init__(self, threshold=threshold)
        super().__init__(env)
        self._threshold = threshold

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the env."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "doubt" not in info:
            raise ValueError("TruncateOnDoubt needs a world model that tells its doubt, and info has no 'doubt'")
        doubted = info["doubt"] > self._threshold
        return observation, float(reward), terminated, truncated or doubted, info | {"doubted": doubted}
