"""Action chunks: checking them, and a view of a chunked env with one action per step."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike

from prophet_gym.errors import InvalidActionError


def require_actions(actions: object, space: gym.Space) -> np.ndarray:
    """The actions as a float32 array of their own; the space is a Box.

    Raises:
        InvalidActionError: If the shape is not the space's, or a number is not finite or out of bounds.
    """
    assert isinstance(space, gym.spaces.Box)
    try:
        array = np.array(actions, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidActionError(f"actions must be numbers of shape {space.shape}, got {type(actions)}") from error
    if array.shape != space.shape:
        raise InvalidActionError(f"actions must have shape {space.shape}, got {array.shape}")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InvalidActionError(f"actions must be finite, got {array[tuple(where)]} at {where}")
    outside = (array < space.low) | (array > space.high)
    if outside.any():
        where = tuple(np.argwhere(outside)[0].tolist())
        raise InvalidActionError(
            f"actions must lie within [{space.low[where]:g}, {space.high[where]:g}], "
            f"got {array[where]:g} at {list(where)}; clip them to the action space first"
        )
    return array


class OneActionPerStep(gym.Wrapper, RecordConstructorArgs):
    """One action per step, for libraries that know no chunks.

    Actions are collected; the k-th runs the chunk. Until then the last observation is held, the reward is 0,
    and `info["pending"]` says how many actions wait. What the chunk earned comes with its last action.

    Example:
        >>> from prophet_gym.envs import ProphetEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> env = OneActionPerStep(ProphetEnv(CountingWorldModel(chunk=4), counting_starts()))
        >>> _ = env.reset(seed=0)
        >>> [env.step(env.action_space.sample())[4]["pending"] for _ in range(4)]
        [1, 2, 3, 0]
    """

    def __init__(self, env: gym.Env) -> None:
        """Wrap an env whose action space is `Box` (k, a)."""
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
            raise ValueError(f"OneActionPerStep needs an action space Box (k, a), got {space}")
        self._chunk_shape = space.shape
        self.action_space = gym.spaces.Box(space.low[0], space.high[0], dtype=np.float32)
        self._pending: list[np.ndarray] = []
        self._observation: dict[str, np.ndarray] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset the env and drop the actions that wait."""
        self._observation, info = self.env.reset(seed=seed, options=options)
        self._pending = []
        return self._held(), info | {"pending": 0}

    def step(self, action: ArrayLike) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Add one action (a,); run the chunk when it is full."""
        if self._observation is None:
            raise gym.error.ResetNeeded("call reset before step")
        checked = require_actions(action, self.action_space)
        if len(self._pending) + 1 < self._chunk_shape[0]:
            self._pending.append(checked)
            return self._held(), 0.0, False, False, {"pending": len(self._pending)}
        chunk = np.stack([*self._pending, checked])
        self._observation, reward, terminated, truncated, info = self.env.step(chunk)
        self._pending = []
        return self._held(), float(reward), terminated, truncated, info | {"pending": 0}

    def _held(self) -> dict[str, np.ndarray]:
        assert self._observation is not None
        return {name: value.copy() for name, value in self._observation.items()}
