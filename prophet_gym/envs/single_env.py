"""One dream as a plain Gymnasium environment: the vector env of one."""

import multiprocessing
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike

from prophet_gym.envs._episodes import FPS, RENDER_MODES, EpisodeVectorEnv, Observation, row_info
from prophet_gym.envs._plain import plain_spec
from prophet_gym.envs._require import require_actions
from prophet_gym.envs.initial_states import InitialStates
from prophet_gym.envs.vector_env import ProphetVectorEnv
from prophet_gym.specs import ActionSpec, InitialState
from prophet_gym.world_model import RewardModel, WorldModel


class OnlyRow(gym.Env):
    """The vector env of one, without its leading axis; its autoreset mode must be DISABLED.

    `reset(seed=s)` and the same actions give the row of a vector env that was seeded with `s`. After its end an
    episode absorbs: nothing changes until `reset`.
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
        """Start an episode; options as in the vector env. Errors in the arguments leave everything as it was."""
        horizon = self._horizon()
        if self._np_random is not None:
            self._vector.np_random = (self._np_random,)
        try:
            observations, infos = self._vector.reset(seed=None if seed is None else [seed], options=options)
        except Exception:
            self._keep_horizon()
            raise
        self._vector.max_episode_steps = horizon
        self._take_random()
        return _first(observations), row_info(infos, 0)

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Run one chunk (k, a); InvalidActionError before anything has changed."""
        checked = require_actions(action, self._vector.single_action_space)
        observations, rewards, terminated, truncated, infos = self._vector.step(checked[None])
        return _first(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), row_info(infos, 0)

    def render(self) -> Any:
        """The last frame, or the frames since the last `render` or `reset`."""
        rendered = self._vector.render()
        return None if rendered is None else rendered[0]

    def close(self) -> None:
        """Forget the episode, and free what the world holds; a closed env raises ClosedEnvironmentError."""
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

    def _horizon(self) -> int | None:
        """Chunks until this env truncates an episode by itself."""
        return self._max_episode_steps

    def _registered_horizon(self) -> int | None:
        registered = None if self.spec is None else gym.registry.get(self.spec.id)
        return None if registered is None else registered.max_episode_steps

    def _keep_horizon(self) -> None:
        """End the episode that goes on after a refused reset where its id says, until the next reset.

        Gymnasium's TimeLimit has begun to count again before it asked this env.
        """
        horizon, ran = self._registered_horizon(), self._vector.elapsed[0]
        if self._vector.max_episode_steps is None and horizon is not None and 0 < ran < horizon:
            self._vector.max_episode_steps = horizon

    def _take_random(self) -> None:
        """Make the row's randomness the env's own, as Gymnasium's `reset` does."""
        if self._vector.np_random[0] is not self._np_random:
            self._np_random, self._np_random_seed = self._vector.np_random[0], self._vector.np_random_seed[0]


class ProphetEnv(OnlyRow):
    """A dream, one action chunk per step; see `ProphetVectorEnv` for observation, info and options.

    `reset(seed=s)` and the same actions give the row of a vector env that was seeded with `s`. After its end an
    episode absorbs: nothing changes until `reset`.

    Example:
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> env = ProphetEnv(CountingWorldModel(chunk=4), counting_starts())
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> observation["image"].shape, info["frames"].shape, reward
        ((8, 8, 3), (4, 8, 8, 3), 0.0)
    """

    _vector: ProphetVectorEnv

    def __init__(
        self,
        world_model: WorldModel,
        starts: Sequence[InitialState],
        *,
        reward_model: RewardModel | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        action_spec: ActionSpec | None = None,
        proprioception: bool = False,
        max_uncertainty: float | None = None,
        fps: float = FPS,
    ) -> None:
        """Build the env.

        Args:
            world_model: As in `ProphetVectorEnv`, like all that follow.
            starts: Where episodes start.
            reward_model: Judges the dream.
            max_episode_steps: Chunks until truncation. None leaves it to a TimeLimit around this env, as
                `gym.make` puts there; a judge with `when="end"` is then asked at the horizon that the id is
                registered with, and the episode ends there: `gym.make(..., max_episode_steps=)` stays outside.
            render_mode: `rgb_array` or `rgb_array_list`.
            action_spec: Bounds of one action.
            proprioception: Adds `gripper_position` to the observation.
            max_uncertainty: Truncates where the world model's doubt passes it.
            fps: Actions per second.
        """
        warn_in_worker()
        super().__init__(
            ProphetVectorEnv(
                world_model,
                starts,
                reward_model=reward_model,
                max_episode_steps=max_episode_steps,
                autoreset_mode=AutoresetMode.DISABLED,
                render_mode=render_mode,
                action_spec=action_spec,
                proprioception=proprioception,
                max_uncertainty=max_uncertainty,
                fps=fps,
            )
        )

    @property
    def world_model(self) -> WorldModel:
        """What dreams."""
        return self._vector.world_model

    @property
    def reward_model(self) -> RewardModel | None:
        """What judges."""
        return self._vector.reward_model

    @property
    def starts(self) -> InitialStates:
        """Where episodes start."""
        return self._vector.starts

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; options `task`, `start`, `starts` as in the vector env."""
        unscored = self._unscored()
        result = super().reset(seed=seed, options=options)
        if unscored is not None:
            gym.logger.warn(unscored)
        return result

    def get_state(self) -> bytes:
        """The episode as it stands, as safetensors bytes."""
        return self._vector.get_state()

    def set_state(self, state: bytes, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        """Go on from `get_state`, with new randomness if there is a seed.

        A TimeLimit around this env counts on as it was: pass `max_episode_steps` here to have it saved and set.
        """
        horizon = self._horizon()
        observations, infos = self._vector.set_state(state, seed=None if seed is None else [seed])
        self._vector.max_episode_steps = horizon
        self._take_random()
        return _first(observations), row_info(infos, 0)

    def _horizon(self) -> int | None:
        reward_model = self.reward_model
        if self._max_episode_steps is not None or reward_model is None or reward_model.when != "end":
            return self._max_episode_steps
        registered = self._registered_horizon()
        if registered is None:
            raise ValueError("a reward model with when='end' must know when an episode ends: pass max_episode_steps")
        return registered

    def _unscored(self) -> str | None:
        """Return the warning for an episode that another TimeLimit than the id's ended before the judge was asked."""
        reward_model, ran = self.reward_model, self._vector.elapsed[0]
        if reward_model is None or reward_model.when != "end" or self._max_episode_steps is not None:
            return None
        if ran and not self._vector.finished:
            return (
                f"an episode was left unjudged after {ran} chunks: this judge (when='end') is asked after the "
                f"{self._vector.max_episode_steps} that the id is registered with. gym.make keeps max_episode_steps to "
                "itself; give another horizon to gym.make_vec, to prophet_gym.factory.make_env or to ProphetEnv"
            )
        return None


def warn_in_worker() -> None:
    """Warn where every worker process of an AsyncVectorEnv would load a world model of its own."""
    if multiprocessing.current_process().name.startswith("Worker<AsyncVectorEnv>"):
        gym.logger.warn(
            "AsyncVectorEnv loads one copy of the world model per worker and dreams each row alone; "
            "gym.make_vec(id, num_envs=...) or ProphetVectorEnv dreams all rows in one batch with one copy"
        )


def _first(observations: Observation) -> Observation:
    return {name: values[0] for name, values in observations.items()}
