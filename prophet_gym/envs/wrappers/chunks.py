"""One action held for the whole chunk."""

from collections.abc import Sequence
from typing import SupportsFloat, SupportsIndex, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from prophet_gym._checks import require_different
from prophet_gym.envs._require import require_actions
from prophet_gym.envs.wrappers._common import DeclaringVectorWrapper, PlainArguments, chunk_space
from prophet_gym.errors import InvalidActionError

_Whole: TypeAlias = Sequence[SupportsIndex] | np.ndarray
_Real: TypeAlias = Sequence[SupportsFloat] | np.ndarray


class _Held:
    def __init__(self, wrapper: str, space: gym.Space, dims: _Whole, rest: _Real) -> None:
        chunk = chunk_space(wrapper, space)
        self.steps, count = chunk.shape
        self.dims = require_different("numbers", dims, count)
        action = gym.spaces.Box(chunk.low[0], chunk.high[0], dtype=np.float32)
        try:
            self.rest = require_actions(rest, action)
        except InvalidActionError as error:
            raise ValueError(f"rest must be an action: {error}") from error
        self.space = gym.spaces.Box(action.low[self.dims], action.high[self.dims], dtype=np.float32)

    def chunks(self, given: np.ndarray) -> np.ndarray:
        held = np.broadcast_to(self.rest, (*given.shape[:-1], len(self.rest))).copy()
        held[..., self.dims] = given
        return np.repeat(held[..., None, :], self.steps, axis=-2)


class OneActionPerChunk(gym.ActionWrapper, PlainArguments):
    """Take one action and hold it for the whole chunk; some of its dimensions are chosen, the others rest.

    Example:
        >>> from prophet_gym.envs import ProphetEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> env = ProphetEnv(CountingWorldModel(chunk=4), counting_starts())
        >>> env = OneActionPerChunk(env, dims=(0, 1), rest=(0, 0, 0, 0, 0, 0, -1))
        >>> env.action_space.shape, env.action([0.5, -0.5])[3].tolist()
        ((2,), [0.5, -0.5, 0.0, 0.0, 0.0, 0.0, -1.0])
    """

    def __init__(self, env: gym.Env, dims: _Whole, rest: _Real) -> None:
        """Wrap an env whose action space is `Box` (k, a).

        Args:
            env: The env.
            dims: Which dimensions of an action are chosen, in which order.
            rest: A whole action (a,), from which the others are taken.

        Raises:
            ValueError: The action space is another one, an action has no such dimension, or `rest` is no action.
        """
        PlainArguments.__init__(self, dims=dims, rest=rest)
        super().__init__(env)
        self._held = _Held("OneActionPerChunk", env.action_space, dims, rest)
        self.action_space = self._held.space

    def action(self, action: ArrayLike) -> np.ndarray:
        """Return the chunk (k, a) that an action stands for."""
        return self._held.chunks(require_actions(action, self.action_space))


class OneActionPerChunkVector(DeclaringVectorWrapper, VectorActionWrapper):
    """`OneActionPerChunk` for a vector env."""

    def __init__(self, env: VectorEnv, dims: _Whole, rest: _Real) -> None:
        """Wrap a vector env whose single action space is `Box` (k, a); arguments as in `OneActionPerChunk`."""
        super().__init__(env)
        self._held = _Held("OneActionPerChunkVector", env.single_action_space, dims, rest)
        self.single_action_space = self._held.space
        self.action_space = batch_space(self._held.space, env.num_envs)

    def actions(self, actions: ArrayLike) -> np.ndarray:
        """Return the chunks (num_envs, k, a) that actions stand for."""
        return self._held.chunks(require_actions(actions, self.action_space))
