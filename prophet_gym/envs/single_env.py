"""A vector env of one as a plain Gymnasium environment, and a learned simulator in that form."""

import multiprocessing
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike

from prophet_gym._checks import warn
from prophet_gym.envs._episodes import FPS, RENDER_MODES, EpisodeVectorEnv, Info, Observation, sub_env_info
from prophet_gym.envs._initial_states import InitialStates
from prophet_gym.envs._plain import PlainSpec
from prophet_gym.envs._require import require_actions
from prophet_gym.envs.vector_env import ProphetVectorEnv
from prophet_gym.specs import InitialState
from prophet_gym.world_model import RewardModel, WorldModel


class SingleEnv(PlainSpec, gym.Env):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Show a vector env of one, whose autoreset mode is DISABLED, as a single env.

    `reset(seed=s)` and the same actions give what the vector env gives when it is seeded with `s`.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": FPS}  # noqa: RUF012 Gymnasium's own form
    _vector: EpisodeVectorEnv
    _lent = False  # whether the vector env has a horizon for the current episode alone

    def __init__(self, vector: EpisodeVectorEnv) -> None:
        self._vector = vector
        self.metadata = {name: vector.metadata[name] for name in ("render_modes", "render_fps")}
        self.render_mode = vector.render_mode
        self.action_space = vector.single_action_space
        self.observation_space = vector.single_observation_space

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode, seeded or with the current randomness; after an error everything is as it was."""
        if self._np_random is not None:
            self._vector.np_random = (self._np_random,)
        try:
            begun = self._vector.reset(seed=None if seed is None else [seed], options=options)
        except Exception:
            # Gymnasium's TimeLimit counts from 0 again before it asks this env to reset. Where the reset is refused,
            # the episode that goes on ends at the horizon of its id all the same: this env truncates it there.
            horizon, ran = _registered_horizon(self), self._vector.elapsed[0]
            if self._vector.max_episode_steps is None and horizon is not None and 0 < ran < horizon:
                self._vector.max_episode_steps, self._lent = horizon, True
            raise
        return self._begun(*begun)

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, Info]:
        """Run one chunk of actions (k, a).

        Raises:
            InvalidActionError: The action has another shape, is not finite or is out of bounds; the env is unchanged.
        """
        checked = require_actions(action, self._vector.single_action_space)
        observations, rewards, terminated, truncated, infos = self._vector.step(checked[None])
        return _first(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), sub_env_info(infos, 0)

    def render(self) -> Any:
        """Return the last frame, or the frames since the last `render` or `reset`, or None, as the render mode says."""
        rendered = self._vector.render()
        return None if rendered is None else rendered[0]

    def close(self) -> None:
        """Close the env and free its memory; later calls raise ClosedEnvironmentError."""
        self._vector.close()

    @property
    def closed(self) -> bool:
        """Return whether the env was closed."""
        return self._vector.closed

    def _begun(self, observations: Observation, infos: Mapping[str, Any]) -> tuple[Observation, Info]:
        """Take over the randomness of an episode that has begun, as Gymnasium's `reset` does."""
        if self._lent:
            self._vector.max_episode_steps, self._lent = None, False
        if self._vector.np_random[0] is not self._np_random:
            self._np_random, self._np_random_seed = self._vector.np_random[0], self._vector.np_random_seed[0]
        return _first(observations), sub_env_info(infos, 0)


class ProphetEnv(SingleEnv):
    """Simulate a robot manipulation task with a world model, which generates what the camera would see.

    ## Description
    An episode begins at a recorded image of a scene with an instruction, such as "pick up the milk and place it in
    the basket". Every step runs a chunk of actions; the world model generates the camera image after each of them,
    and a reward model says from these images whether the task is done. Nothing is simulated by physics: images,
    rewards and success are estimates of a neural network.

    ## Action Space
    `Box(low, high, (k, a), float32)`: k consecutive actions of the robot, a dimensions each, in its own units. The ids
    `Prophet-LIBERO-*` take `Box(-1.0, 1.0, (8, 7), float32)`, at 20 actions a second:

    | dimension | meaning | 1.0 is |
    |---|---|---|
    | 0, 1, 2 | move the gripper along x, y, z | 5 cm |
    | 3, 4, 5 | turn it about x, y, z | 0.5 rad |
    | 6 | gripper: -1 opens, 1 closes | |

    An action that is not finite, out of bounds or of another shape raises InvalidActionError; the env is unchanged.

    ## Observation Space
    `Dict` with `image`, `Box(0, 255, (h, w, 3), uint8)`: the camera image after the last action, RGB. With
    `proprioception=True` also `gripper_position`, `Box(-10, 10, (3,), float32)`: the world model's estimate of where
    the gripper is, in metres. With `cameras=("agentview", "wrist")`, if the weights generate both, also `wrist_image`,
    of the same size, and `state`, `Box(-10, 10, (8,), float32)`, the numbers of `specs.STATE_NAMES`.

    ## Rewards
    The reward model's score. The bundled one gives 1.0 at the step at which it finds the task done, else 0.0.
    `info["scored"]` says whether the step was scored; the reward of an unscored step is 0.0.

    ## Starting State
    A recorded initial state (image and instruction), drawn with the env's seed from those that the env was made with.
    `reset(options=...)` chooses:
    - `task`: a task number.
    - `start`: an index into the initial states of the task, or into all of them if no task is given.
    - `starts`: an `InitialState` of your own, in place of both.

    ## Episode End
    - Termination: the reward model finds the task done.
    - Truncation: after `max_episode_steps` chunks (`env.spec` has the default), or if `max_uncertainty` is exceeded.

    After an episode has ended, every step has reward 0 and both flags False, until `reset`.

    ## Info
    | key | value |
    |---|---|
    | `instruction`, `suite`, `task`, `start`, `split` | the episode's initial state, at every step |
    | `frames` | uint8 `(k, h, w, 3)`: the image after each action of the chunk, unless `render="chunk"` |
    | `executed` | the number of actions that were run |
    | `scored`, `success` | whether the step was scored; whether the reward model finds the task done |
    | `live` | False if the episode had already ended before this step |
    | `uncertainty` | how uncertain the world model is of the chunk, where it estimates it; larger is less certain |
    | `approximate` | True if the env was made with `chunk=`, fewer actions per step than the world model's |

    ## Arguments
    `gym.make` takes plain values; `prophet_gym.factory.EnvOptions` lists them all:

    ```python
    env = gym.make("Prophet-LIBERO-v0", weights="bundled", reward="auto", starts="train", tasks=[0, 3], device="cpu")
    ```

    To use a world model, a reward model or initial states of your own, construct this class; it takes the arguments
    of `ProphetVectorEnv` too. `gym.make_vec(id, num_envs=n)` generates n episodes in one batch, with one copy of the
    weights.

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
        max_episode_steps: int | None = None,
        **arguments: Any,
    ) -> None:
        """Build the env.

        Args:
            world_model: Generates the frames.
            starts: The initial states that `reset` draws from.
            max_episode_steps: Number of chunks until truncation. None leaves truncation to a TimeLimit around this env,
                which `gym.make` adds. A reward model with `when="end"` then scores at the horizon that the id is
                registered with, and the episode ends there; `gym.make(..., max_episode_steps=)` does not change it.
            arguments: Those of `ProphetVectorEnv`: `reward_model`, `render_mode`, `action_spec`, `proprioception`,
                `max_uncertainty`, `fps`, `render` and `cameras`.
        """
        # Every worker process of an AsyncVectorEnv loads a world model of its own.
        if multiprocessing.current_process().name.startswith("Worker<AsyncVectorEnv>"):
            warn(
                "AsyncVectorEnv loads one copy of the world model per worker and generates each episode alone; "
                "gym.make_vec(id, num_envs=...) or ProphetVectorEnv generates all in one batch with one copy"
            )
        arguments |= {"max_episode_steps": max_episode_steps, "autoreset_mode": AutoresetMode.DISABLED}
        super().__init__(ProphetVectorEnv(world_model, starts, 1, **arguments))
        self._own_horizon = max_episode_steps is not None

    @property
    def world_model(self) -> WorldModel:
        """Return the model that generates the frames."""
        return self._vector.world_model

    @property
    def reward_model(self) -> RewardModel | None:
        """Return the model that scores the frames."""
        return self._vector.reward_model

    @property
    def starts(self) -> InitialStates:
        """Return the initial states that `reset` draws from."""
        return self._vector.starts

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode; an error leaves the env unchanged.

        Args:
            seed: Seed of the env's generator; None keeps the current generator.
            options: `task`, `start` or `starts`, see the class.
        """
        ran, horizon = self._vector.elapsed[0], self._vector.max_episode_steps
        # Another TimeLimit than the id's ended the episode before it was scored.
        unscored = ran and horizon and not (self._own_horizon or self._lent or self._vector.finished)
        self._learn_horizon()
        result = super().reset(seed=seed, options=options)
        if unscored:
            warn(
                f"an episode was left unscored after {ran} chunks: this reward model (when='end') is asked after the "
                f"{horizon} that the id is registered with. gym.make keeps max_episode_steps to itself; give another "
                "horizon to gym.make_vec, to prophet_gym.factory.make_env or to ProphetEnv"
            )
        return result

    def get_state(self) -> bytes:
        """Return a snapshot of the episode as safetensors bytes, see `ProphetVectorEnv.get_state`."""
        return self._vector.get_state()

    def set_state(self, state: bytes, *, seed: int | None = None) -> tuple[Observation, Info]:
        """Continue an episode that `get_state` saved, with new randomness if there is a seed.

        The step count of a TimeLimit around this env is not saved; that of `max_episode_steps` of this class is.
        """
        self._learn_horizon()
        return self._begun(*self._vector.set_state(state, seed=None if seed is None else [seed]))

    def _learn_horizon(self) -> None:
        """Let a reward model of whole episodes know when they end: at the horizon that the id is registered with."""
        if self._own_horizon or self.reward_model is None or self.reward_model.when != "end":
            return
        if (horizon := _registered_horizon(self)) is None:
            raise ValueError("a reward model with when='end' must know when an episode ends: pass max_episode_steps")
        self._vector.max_episode_steps = horizon


def _registered_horizon(env: gym.Env) -> int | None:
    registered = None if env.spec is None else gym.registry.get(env.spec.id)
    return None if registered is None else registered.max_episode_steps


def _first(observations: Observation) -> Observation:
    return {name: values[0] for name, values in observations.items()}
