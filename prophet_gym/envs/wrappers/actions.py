"""Other forms of a chunk of actions: one per step, for libraries that know no chunks, or one held for the chunk."""

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from prophet_gym._checks import require_different
from prophet_gym.envs._episodes import NOTHING_RUN, START_FACTS, Info, Observation, sub_env_info
from prophet_gym.envs._require import require_actions, require_open
from prophet_gym.envs.wrappers._common import DeclaringVectorWrapper, PlainArguments, chunk_space, require_arrays
from prophet_gym.errors import InvalidActionError

_Whole: TypeAlias = Sequence[SupportsIndex] | np.ndarray
_Real: TypeAlias = Sequence[SupportsFloat] | np.ndarray


class _Clock:
    """Keep the actions that wait for their chunk, and what is seen meanwhile."""

    def __init__(self, env: gym.Env | VectorEnv, space: gym.spaces.Box) -> None:
        self.env, self.steps = env.unwrapped, space.shape[0]
        self.space = gym.spaces.Box(space.low[0], space.high[0], dtype=np.float32)
        # An image is rendered for every action, not for every chunk: videos keep the pace of the scene.
        self.metadata = dict(env.metadata)
        if env.render_mode == "rgb_array" and "render_fps" in env.metadata:
            self.metadata["render_fps"] *= self.steps
        self.pending: list[np.ndarray] = []
        self.seen: Observation | None = None

    def add(self, action: ArrayLike, space: gym.Space) -> np.ndarray | None:
        """Return the chunk (..., k, a) that an action (..., a) completes; None while it waits."""
        require_open(self.env, "step")
        if self.seen is None:
            raise gym.error.ResetNeeded("call reset before step")
        checked = require_actions(action, space)
        if len(self.pending) + 1 < self.steps:
            self.pending.append(checked)
            return None
        # The last action joins the others only in the chunk: a step that fails can be taken again.
        return np.stack([*self.pending, checked], axis=-2)

    def show(self, observation: Observation) -> Observation:
        """Begin the next chunk after an observation; return it."""
        self.pending, self.seen = [], observation
        return self.observation()

    def observation(self) -> Observation:
        assert self.seen is not None
        return {name: value.copy() for name, value in self.seen.items()}


class OneActionPerStep(gym.Wrapper, PlainArguments):
    """Take one action per step; every k-th action runs a chunk of the last k.

    The steps in between repeat the last observation, with reward 0, and `info["pending"]` counts the actions that wait;
    the rest of `info` has its usual entries, with `executed` 0 and without frames. The reward of a chunk comes with
    its last action.

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
        self._clock = _Clock(env, chunk_space("OneActionPerStep", env.action_space))
        self.metadata, self.action_space = self._clock.metadata, self._clock.space
        self._held_info: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Reset the env and drop the actions that wait."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._held_info = _waiting_info(info, ended=False)
        return self._clock.show(observation), info | {"pending": 0}

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, Info]:
        """Add one action (a,); run the chunk when it is full.

        Raises:
            InvalidActionError: The action has another shape or is not finite; the env is unchanged.
        """
        chunk = self._clock.add(action, self.action_space)
        if chunk is None:
            info = self._held_info | {"pending": len(self._clock.pending)}
            return self._clock.observation(), 0.0, False, False, info
        observation, reward, terminated, truncated, info = self.env.step(chunk)
        self._held_info = _waiting_info(info, ended=terminated or truncated)
        return self._clock.show(observation), float(reward), terminated, truncated, info | {"pending": 0}


class OneActionPerStepVector(DeclaringVectorWrapper):
    """Take one action per step in a vector env; sub-environments share one clock, so all chunks run at the same step.

    It needs autoreset SAME_STEP: with NEXT_STEP a sub-environment that restarts would fall one action behind the
    others. `info["pending"]` counts the actions that wait; until the chunk runs rewards are 0 and no flag is set.

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
        """Wrap a vector env; ValueError for another action space than `Box` (k, a), or another autoreset mode."""
        super().__init__(env)
        require_arrays("OneActionPerStepVector", env)
        space = chunk_space("OneActionPerStepVector", env.single_action_space)
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(f"OneActionPerStepVector needs autoreset_mode SAME_STEP, got {mode}")
        self._clock = _Clock(env, space)
        self.metadata, self.single_action_space = self._clock.metadata, self._clock.space
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._held_infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Reset sub-environments and drop the actions that wait; ValueError for a mask in the middle of a chunk."""
        mask = options.get("reset_mask") if isinstance(options, Mapping) else None
        if self._clock.pending and mask is not None and not np.asarray(mask).all():
            found = f"{len(self._clock.pending)} of {self._clock.steps} actions wait"
            advice = "step until info['pending'] is 0 or reset all sub-environments"
            raise ValueError(f"a reset_mask needs a moment between two chunks, and {found}; {advice}")
        observation, infos = self.env.reset(seed=seed, options=options)
        self._hold(infos)
        return self._clock.show(observation), infos | self._waiting()

    def step(self, actions: ArrayLike) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Add one action (num_envs, a) each; run the chunks when they are full. Errors as in `OneActionPerStep`."""
        chunk = self._clock.add(actions, self.action_space)
        if chunk is None:
            nothing = np.zeros(self.num_envs, np.bool_)
            infos: dict[str, Any] = {}
            for row, info in enumerate(self._held_infos):
                infos = self._add_info(infos, info, row)
            infos |= self._waiting()
            return self._clock.observation(), np.zeros(self.num_envs), nothing, nothing.copy(), infos
        observation, rewards, terminated, truncated, infos = self.env.step(chunk)
        self._hold(infos)
        return self._clock.show(observation), rewards, terminated, truncated, infos | self._waiting()

    def _hold(self, infos: dict[str, Any]) -> None:
        """Keep what is said of the sub-environments that `infos` speaks of, for while the next actions wait."""
        for row in range(self.num_envs):
            if info := sub_env_info(infos, row):
                self._held_infos[row] = _waiting_info(info, ended=info.get("live") is False)

    def _waiting(self) -> Info:
        count = len(self._clock.pending)
        return {"pending": np.full(self.num_envs, count), "_pending": np.ones(self.num_envs, np.bool_)}


def _waiting_info(info: Mapping[str, Any], *, ended: bool) -> dict[str, Any]:
    """Return what `info` says while actions wait: the episode's own entries, and that nothing was run."""
    known = {name: info[name] for name in START_FACTS if name in info}
    return known | NOTHING_RUN | {"live": not ended and info.get("live") is not False}


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
    """Take some dimensions of one action and repeat it for the whole chunk; the other dimensions are constant.

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
            dims: Dimensions of an action that the new action space has, in this order.
            rest: Action (a,) that gives the values of the other dimensions.

        Raises:
            ValueError: The action space is no `Box` of chunks, `dims` are not its dimensions, or `rest` is no action.
        """
        PlainArguments.__init__(self, dims=dims, rest=rest)
        super().__init__(env)
        self._held = _Held("OneActionPerChunk", env.action_space, dims, rest)
        self.action_space = self._held.space

    def action(self, action: ArrayLike) -> np.ndarray:
        """Return the chunk (k, a) that an action stands for."""
        return self._held.chunks(require_actions(action, self.action_space))


class OneActionPerChunkVector(DeclaringVectorWrapper, VectorActionWrapper):
    """Wrap a vector env as `OneActionPerChunk` does a single one."""

    def __init__(self, env: VectorEnv, dims: _Whole, rest: _Real) -> None:
        """Wrap a vector env whose single action space is `Box` (k, a); arguments as in `OneActionPerChunk`."""
        super().__init__(env)
        self._held = _Held("OneActionPerChunkVector", env.single_action_space, dims, rest)
        self.single_action_space = self._held.space
        self.action_space = batch_space(self._held.space, env.num_envs)

    def actions(self, actions: ArrayLike) -> np.ndarray:
        """Return the chunks (num_envs, k, a) that actions stand for."""
        return self._held.chunks(require_actions(actions, self.action_space))
