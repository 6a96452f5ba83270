"""A vector env of one, without its leading axis, as a plain Gymnasium environment."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from numpy.typing import ArrayLike

from prophet_gym.envs._episodes import FPS, RENDER_MODES, EpisodeVectorEnv, Observation, sub_env_info
from prophet_gym.envs._plain import plain_spec
from prophet_gym.envs._require import require_actions


class SingleEnv(gym.Env):
    """Show a vector env of one, whose autoreset mode is DISABLED, as a single env.

    `reset(seed=s)` and the same actions give what the vector env gives when it is seeded with `s`.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": FPS}  # noqa: RUF012 Gymnasium's own form
    _vector: EpisodeVectorEnv

    def __init__(self, vector: EpisodeVectorEnv) -> None:
        self._vector = vector
        self._spec: EnvSpec | None = None
        self._max_episode_steps = vector.max_episode_steps
        self.metadata = {name: vector.metadata[name] for name in ("render_modes", "render_fps")}
        self.render_mode = vector.render_mode
        self.action_space = vector.single_action_space
        self.observation_space = vector.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. After an error everything is as it was.

        Args:
            seed: Seeds the env's randomness; without it the current one continues.
            options: See the class.
        """
        horizon = self._horizon()
        if self._np_random is not None:
            self._vector.np_random = (self._np_random,)
        try:
            observations, infos = self._vector.reset(seed=None if seed is None else [seed], options=options)
        except Exception:
            self._keep_horizon()
            raise
        return self._begun(horizon, observations, infos)

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Run one chunk of actions (k, a).

        Raises:
            InvalidActionError: The action is no such array, or is out of bounds; nothing has changed.
        """
        checked = require_actions(action, self._vector.single_action_space)
        observations, rewards, terminated, truncated, infos = self._vector.step(checked[None])
        return _first(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), sub_env_info(infos, 0)

    def render(self) -> Any:
        """Return the last frame, or the frames since the last `render` or `reset`, as the render mode says."""
        rendered = self._vector.render()
        return None if rendered is None else rendered[0]

    def close(self) -> None:
        """Forget the episode and free what the world holds; later calls raise ClosedEnvironmentError."""
        self._vector.close()

    @property
    def closed(self) -> bool:
        """Whether the env was closed."""
        return self._vector.closed

    @property
    def spec(self) -> EnvSpec | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How `gym.make` made the env, in plain data that JSON can carry; None where it did not."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = plain_spec(spec)

    def _begun(
        self, horizon: int | None, observations: Observation, infos: Mapping[str, Any]
    ) -> tuple[Observation, dict[str, Any]]:
        """Take over the horizon and the randomness of an episode that has begun, as Gymnasium's `reset` does."""
        self._vector.max_episode_steps = horizon
        if self._vector.np_random[0] is not self._np_random:
            self._np_random, self._np_random_seed = self._vector.np_random[0], self._vector.np_random_seed[0]
        return _first(observations), sub_env_info(infos, 0)

    def _horizon(self) -> int | None:
        """Return the chunks after which this env truncates an episode by itself."""
        return self._max_episode_steps

    def _registered_horizon(self) -> int | None:
        registered = None if self.spec is None else gym.registry.get(self.spec.id)
        return None if registered is None else registered.max_episode_steps

    def _keep_horizon(self) -> None:
        # Gymnasium's TimeLimit counts from 0 again before it asks this env to reset. Where the reset is refused, the
        # episode that goes on ends at the horizon of its id all the same: this env truncates it there.
        horizon, ran = self._registered_horizon(), self._vector.elapsed[0]
        if self._vector.max_episode_steps is None and horizon is not None and 0 < ran < horizon:
            self._vector.max_episode_steps = horizon


def _first(observations: Observation) -> Observation:
    return {name: values[0] for name, values in observations.items()}
