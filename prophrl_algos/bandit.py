"""An analytic bandit behind the vector env interface: one chunk, and a reward whose maximum is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike


class BanditVectorEnv(VectorEnv):
    """A vector env of one chunk per episode, whose best action is known.

    The reward is exp(-d^2 / 2 width^2) with d the distance of the chunk's mean action to `target`. Info keys are those
    of the dream and of LIBERO; the observation is a black image, the same for all.
    """

    def __init__(
        self, num_envs: int, *, target: Sequence[float] = (0.8, -0.6), width: float = 0.6, chunk: int = 1
    ) -> None:
        """Build the env; the reward of `target` is 1, and `width` is that of its peak."""
        super().__init__()
        self.num_envs, self.target, self.width, self.chunk = num_envs, np.asarray(target), width, chunk
        self.max_episode_steps = 1
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_action_space = gym.spaces.Box(-2, 2, (chunk, len(target)), dtype=np.float32)
        self.single_observation_space = gym.spaces.Dict(image=gym.spaces.Box(0, 255, (2, 2, 3), dtype=np.uint8))
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._live = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin episodes in all sub-environments or in those of `options["reset_mask"]`; nothing is random."""
        del seed
        mask = (options or {}).get("reset_mask")
        self._live |= np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        return self._observe(), self._info()

    def step(
        self, actions: ArrayLike
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Pull every arm; all episodes end."""
        distance = ((np.asarray(actions, dtype=np.float64).mean(1) - self.target) ** 2).sum(1)
        live = self._live.copy()
        reward = np.where(live, np.exp(-distance / (2 * self.width**2)), 0.0)
        success = live & (reward >= 0.9)
        self._live[:] = False
        found = {"success": success, "scored": live, "live": live, "executed": live * self.chunk}
        info = self._info() | found | {f"_{name}": np.ones(self.num_envs, dtype=np.bool_) for name in found}
        return self._observe(), reward, success, live, info

    def _observe(self) -> dict[str, np.ndarray]:
        return {"image": np.zeros((self.num_envs, 2, 2, 3), np.uint8)}

    def _info(self) -> dict[str, Any]:
        instructions = np.full(self.num_envs, "pull", dtype=object)
        return {"instruction": instructions, "_instruction": np.ones(self.num_envs, dtype=np.bool_)}
