"""Other forms of action for a chunked env: one action per step or per chunk, flat chunks."""

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from prophet_gym.envs._episodes import NOTHING_RUN, START_FACTS, require_open, row_info
from prophet_gym.envs._require import require_actions
from prophet_gym.envs.wrappers._common import DeclaringVectorWrapper, PlainArguments, require_arrays
from prophet_gym.errors import InvalidActionError, require_different

Whole: TypeAlias = Sequence[SupportsIndex] | np.ndarray
Real: TypeAlias = Sequence[SupportsFloat] | np.ndarray


class OneActionPerStep(gym.Wrapper, PlainArguments):
    """One action per step, for libraries that know no chunks.

    Actions are collected; the k-th runs the chunk. Until then the last observation is held, the reward is 0,
    and `info["pending"]` says how many actions wait; the rest of `info` has its usual entries, with `executed` 0, but
    no frames. What the chunk earned comes with its last action.

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
        PlainArguments.__init__(self)
        super().__init__(env)
        space = _chunk_space("OneActionPerStep", env.action_space)
        self._chunk_shape = space.shape
        self.metadata = _metadata_of_actions(env, space.shape[0])
        self.action_space = gym.spaces.Box(space.low[0], space.high[0], dtype=np.float32)
        self._pending: list[np.ndarray] = []
        self._observation: dict[str, np.ndarray] | None = None
        self._held_info: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset the env and drop the actions that wait."""
        self._observation, info = self.env.reset(seed=seed, options=options)
        self._pending, self._held_info = [], waiting_info(info, ended=False)
        return self._held(), info | {"pending": 0}

    def step(self, action: ArrayLike) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Add one action (a,); run the chunk when it is full. InvalidActionError before anything has changed."""
        require_open(self.unwrapped, "step")
        if self._observation is None:
            raise gym.error.ResetNeeded("call reset before step")
        checked = require_actions(action, self.action_space)
        if len(self._pending) + 1 < self._chunk_shape[0]:
            self._pending.append(checked)
            return self._held(), 0.0, False, False, self._held_info | {"pending": len(self._pending)}
        chunk = np.stack([*self._pending, checked])
        self._observation, reward, terminated, truncated, info = self.env.step(chunk)
        self._pending, self._held_info = [], waiting_info(info, ended=terminated or truncated)
        return self._held(), float(reward), terminated, truncated, info | {"pending": 0}

    def _held(self) -> dict[str, np.ndarray]:
        assert self._observation is not None
        return {name: value.copy() for name, value in self._observation.items()}


class OneActionPerStepVector(DeclaringVectorWrapper):
    """One action per step for a vector env; rows share one clock, so all chunks run at the same step.

    It needs autoreset SAME_STEP: with NEXT_STEP a row that restarts would fall one action behind the others.
    `info["pending"]` counts the actions that wait, and until the chunk runs rewards are 0 and no flag is set.

    Example:
        >>> from prophet_gym.envs import ProphetVectorEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> model = CountingWorldModel(chunk=4)
        >>> envs = ProphetVectorEnv(model, counting_starts(), num_envs=2, autoreset_mode="SameStep")
        >>> envs = OneActionPerStepVector(envs)
        >>> _ = envs.reset(seed=0)
        >>> [envs.step(envs.action_space.sample())[4]["pending"].tolist() for _ in range(4)]
        [[1, 1], [2, 2], [3, 3], [0, 0]]
    """

    def __init__(self, env: VectorEnv) -> None:
        """Wrap a vector env whose action space is `Box` (k, a) per row; ValueError for another one."""
        super().__init__(env)
        require_arrays("OneActionPerStepVector", env)
        space = _chunk_space("OneActionPerStepVector", env.single_action_space)
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(f"OneActionPerStepVector needs autoreset_mode SAME_STEP, got {mode}")
        self._steps = space.shape[0]
        self.metadata = _metadata_of_actions(env, self._steps)
        self.single_action_space = gym.spaces.Box(space.low[0], space.high[0], dtype=np.float32)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._pending: list[np.ndarray] = []
        self._observation: dict[str, np.ndarray] | None = None
        self._held_infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset rows and drop the actions that wait; ValueError for some rows alone except between two chunks."""
        mask = options.get("reset_mask") if isinstance(options, Mapping) else None
        if self._pending and mask is not None and not np.asarray(mask).all():
            raise ValueError(
                f"rows can be reset by a mask between two chunks only, and {len(self._pending)} of {self._steps} "
                "actions wait; step until info['pending'] is 0 or reset all rows"
            )
        self._observation, infos = self.env.reset(seed=seed, options=options)
        self._hold(infos)
        return self._held(), infos | self._waiting()

    def step(
        self, actions: ArrayLike
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Add one action (num_envs, a) per row; run the chunks when they are full. Errors as in `OneActionPerStep`."""
        require_open(self.unwrapped, "step")
        if self._observation is None:
            raise gym.error.ResetNeeded("call reset before step")
        checked = require_actions(actions, self.action_space)
        if len(self._pending) + 1 < self._steps:
            self._pending.append(checked)
            nothing = np.zeros(self.num_envs, np.bool_)
            infos: dict[str, Any] = {}
            for row, info in enumerate(self._held_infos):
                infos = self._add_info(infos, info, row)
            return self._held(), np.zeros(self.num_envs), nothing, nothing.copy(), infos | self._waiting()
        chunk = np.stack([*self._pending, checked], axis=1)
        self._observation, rewards, terminated, truncated, infos = self.env.step(chunk)
        self._hold(infos)
        return self._held(), rewards, terminated, truncated, infos | self._waiting()

    def _hold(self, infos: dict[str, Any]) -> None:
        """Keep what is said of the rows that were told of, while the next actions wait."""
        self._pending = []
        for row in range(self.num_envs):
            if info := row_info(infos, row):
                self._held_infos[row] = waiting_info(info, ended=info.get("live") is False)

    def _waiting(self) -> dict[str, np.ndarray]:
        return {"pending": np.full(self.num_envs, len(self._pending)), "_pending": np.ones(self.num_envs, np.bool_)}

    def _held(self) -> dict[str, np.ndarray]:
        assert self._observation is not None
        return {name: value.copy() for name, value in self._observation.items()}


def waiting_info(info: Mapping[str, Any], *, ended: bool) -> dict[str, Any]:
    """Return what `info` says while actions wait: the episode's own entries, and that nothing was run."""
    known = {name: info[name] for name in START_FACTS if name in info}
    return known | NOTHING_RUN | {"live": not ended and info.get("live") is not False}


class FlattenChunk(gym.ActionWrapper, PlainArguments):
    """Chunks as one row of k * a numbers, for libraries that want flat actions.

    Example:
        >>> from prophet_gym.envs import ProphetEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> FlattenChunk(ProphetEnv(CountingWorldModel(chunk=4), counting_starts())).action_space.shape
        (28,)
    """

    def __init__(self, env: gym.Env) -> None:
        """Wrap an env whose action space is `Box` (k, a); ValueError for another one."""
        PlainArguments.__init__(self)
        super().__init__(env)
        self._chunk = _chunk_space("FlattenChunk", env.action_space)
        self.action_space = gym.spaces.flatten_space(self._chunk)

    def action(self, action: ArrayLike) -> np.ndarray:
        """The chunk (k, a) of k * a numbers."""
        return require_actions(action, self.action_space).reshape(self._chunk.shape)


class FlattenChunkVector(DeclaringVectorWrapper, VectorActionWrapper):
    """`FlattenChunk` for a vector env."""

    def __init__(self, env: VectorEnv) -> None:
        """Wrap a vector env whose action space is `Box` (k, a) per row; ValueError for another one."""
        super().__init__(env)
        self._chunk = _chunk_space("FlattenChunkVector", env.single_action_space)
        self.single_action_space = gym.spaces.flatten_space(self._chunk)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: ArrayLike) -> np.ndarray:
        """The chunks (num_envs, k, a) of num_envs times k * a numbers."""
        return require_actions(actions, self.action_space).reshape(self.num_envs, *self._chunk.shape)


class OneActionPerChunk(gym.ActionWrapper, PlainArguments):
    """One action, held for the whole chunk; some of its numbers are chosen, the others rest.

    Example:
        >>> from prophet_gym.envs import ProphetEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> env = ProphetEnv(CountingWorldModel(chunk=4), counting_starts())
        >>> env = OneActionPerChunk(env, dims=(0, 1), rest=(0, 0, 0, 0, 0, 0, -1))
        >>> env.action_space.shape, env.action([0.5, -0.5])[3].tolist()
        ((2,), [0.5, -0.5, 0.0, 0.0, 0.0, 0.0, -1.0])
    """

    def __init__(self, env: gym.Env, dims: Whole, rest: Real) -> None:
        """Wrap an env whose action space is `Box` (k, a).

        Args:
            env: The env.
            dims: Which numbers of an action are chosen, in which order.
            rest: A whole action (a,), from which the others are taken.

        Raises:
            ValueError: For another action space, numbers that an action does not have, or a rest that is no action.
        """
        PlainArguments.__init__(self, dims=dims, rest=rest)
        super().__init__(env)
        self._holding = _Holding("OneActionPerChunk", env.action_space, dims, rest)
        self.action_space = self._holding.space

    def action(self, action: ArrayLike) -> np.ndarray:
        """The chunk (k, a)."""
        return self._holding.chunks(require_actions(action, self.action_space))


class OneActionPerChunkVector(DeclaringVectorWrapper, VectorActionWrapper):
    """`OneActionPerChunk` for a vector env."""

    def __init__(self, env: VectorEnv, dims: Whole, rest: Real) -> None:
        """Wrap a vector env whose action space is `Box` (k, a) per row; as in `OneActionPerChunk`."""
        super().__init__(env)
        self._holding = _Holding("OneActionPerChunkVector", env.single_action_space, dims, rest)
        self.single_action_space = self._holding.space
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: ArrayLike) -> np.ndarray:
        """The chunks (num_envs, k, a)."""
        return self._holding.chunks(require_actions(actions, self.action_space))


class _Holding:
    """Chosen numbers to chunks."""

    def __init__(self, wrapper: str, space: gym.Space, dims: Whole, rest: Real) -> None:
        chunk = _chunk_space(wrapper, space)
        self.steps, count = chunk.shape
        self.dims = require_different("numbers", dims, count)
        action = gym.spaces.Box(chunk.low[0], chunk.high[0], dtype=np.float32)
        try:
            self.rest = require_actions(rest, action)
        except InvalidActionError as error:
            raise ValueError(f"rest must be an action: {error}") from error
        self.space = gym.spaces.Box(action.low[self.dims], action.high[self.dims], dtype=np.float32)

    def chunks(self, chosen: np.ndarray) -> np.ndarray:
        """(..., n) to (..., k, a)."""
        held = np.broadcast_to(self.rest, (*chosen.shape[:-1], len(self.rest))).copy()
        held[..., self.dims] = chosen
        return np.repeat(held[..., None, :], self.steps, axis=-2)


def _chunk_space(wrapper: str, space: gym.Space) -> gym.spaces.Box:
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"{wrapper} needs an action space Box (k, a), got {space}")
    return space


def _metadata_of_actions(env: gym.Env | VectorEnv, steps: int) -> dict[str, Any]:
    """The metadata where a picture is rendered per action, not per chunk: films keep the scene's pace."""
    metadata = dict(env.metadata)
    if env.render_mode == "rgb_array" and "render_fps" in metadata:
        metadata["render_fps"] *= steps
    return metadata
