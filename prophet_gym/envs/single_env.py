"""A learned simulator as a plain Gymnasium environment."""

import multiprocessing
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from prophet_gym.envs._episodes import Observation
from prophet_gym.envs._single import SingleEnv
from prophet_gym.envs.initial_states import InitialStates
from prophet_gym.envs.vector_env import ProphetVectorEnv
from prophet_gym.specs import InitialState
from prophet_gym.world_model import RewardModel, WorldModel


class ProphetEnv(SingleEnv):
    """A robot manipulation task in a learned simulator: a world model generates what the camera would see.

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

    Actions that are not finite, out of bounds or of another shape raise InvalidActionError, and nothing has changed.

    ## Observation Space
    `Dict` with `image`, `Box(0, 255, (h, w, 3), uint8)`: the camera image after the last action, RGB. With
    `proprioception=True` also `gripper_position`, `Box(-10, 10, (3,), float32)`: where the world model tracks the
    gripper, in metres; an estimate.

    ## Rewards
    What the reward model gives: with the bundled one, 1.0 at the step at which the task is found done, else 0.0.
    `info["scored"]` says whether the step was scored; a reward that was not is 0.0.

    ## Starting State
    A recorded initial state (image and instruction), drawn with the env's seed from those that the env was made with.
    `reset(options=...)` chooses:
    - `task`: a task number.
    - `start`: a position among the initial states of the task, or of all without one.
    - `starts`: an `InitialState` of your own, in place of both.

    ## Episode End
    - Termination: the reward model finds the task done.
    - Truncation: after `max_episode_steps` chunks, or where the uncertainty exceeds `max_uncertainty`.

    After its end an episode rests: every step has reward 0 and no flag, until `reset`.

    ## Info
    | key | value |
    |---|---|
    | `instruction`, `suite`, `task`, `start`, `split` | the episode's initial state, at every step |
    | `frames` | uint8 `(k, h, w, 3)`: the image after each action of the chunk |
    | `executed` | how many actions were run |
    | `scored`, `success` | whether the step was scored; whether the task is found done |
    | `live` | False where the episode had ended before |
    | `uncertainty` | how uncertain the world model is of the chunk, where it estimates it; larger is less certain |
    | `approximate` | True where chunks are shorter than the model's, see `chunk` |

    ## Arguments
    `gym.make` takes names; a world model, reward model and initial states of your own go to this class, with the
    other arguments of `ProphetVectorEnv`.

    ```python
    env = gym.make("Prophet-LIBERO-v0", weights="bundled", reward="auto", starts="train", tasks=[0, 3], device="cpu")
    ```

    | argument | meaning |
    |---|---|
    | `weights` | the world model: `bundled`, a folder, or a repository of the Hugging Face Hub |
    | `embodiment` | the robot whose actions the env takes, where it is not `libero`; the weights must be of it |
    | `reward` | the reward model: `auto` (the one beside the weights), the name of another, or None |
    | `starts` | the initial states: `train`, `official` (for evaluation alone), or a path |
    | `tasks` | the tasks to draw from; all if not given |
    | `chunk` | actions in a step, if fewer than the world model's own number |
    | `device`, `dtype` | where and in which precision the world model computes |
    | `proprioception`, `max_uncertainty`, `render_mode` | as above; `rgb_array` or `rgb_array_list` |

    `prophet_gym.factory.EnvOptions` documents all of them. `gym.make_vec(id, num_envs=n)` generates n episodes in one
    batch, with one copy of the weights.

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
            max_episode_steps: Chunks until truncation. None leaves it to a TimeLimit around this env, as `gym.make`
                puts there; a reward model with `when="end"` is then asked at the horizon that the id is registered
                with, and the episode ends there: `gym.make(..., max_episode_steps=)` stays outside.
            arguments: Those of `ProphetVectorEnv`: `reward_model`, `render_mode`, `action_spec`, `proprioception`,
                `max_uncertainty` and `fps`.
        """
        _warn_in_worker()
        super().__init__(
            ProphetVectorEnv(
                world_model,
                starts,
                1,
                max_episode_steps=max_episode_steps,
                autoreset_mode=AutoresetMode.DISABLED,
                **arguments,
            )
        )

    @property
    def world_model(self) -> WorldModel:
        """The model that generates the frames."""
        return self._vector.world_model

    @property
    def reward_model(self) -> RewardModel | None:
        """The model that scores the frames."""
        return self._vector.reward_model

    @property
    def starts(self) -> InitialStates:
        """The initial states that `reset` draws from."""
        return self._vector.starts

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. After an error everything is as it was.

        Args:
            seed: Seeds the env's randomness; without it the current one continues.
            options: `task`, `start` or `starts`, see the class.
        """
        unscored = self._unscored()
        result = super().reset(seed=seed, options=options)
        if unscored is not None:
            gym.logger.warn(unscored)
        return result

    def get_state(self) -> bytes:
        """Return the episode as it stands as safetensors bytes, see `ProphetVectorEnv.get_state`."""
        return self._vector.get_state()

    def set_state(self, state: bytes, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        """Continue an episode that `get_state` saved, with new randomness if there is a seed.

        A TimeLimit around this env counts on as it was: pass `max_episode_steps` to this class to have it saved too.
        """
        horizon = self._horizon()
        observations, infos = self._vector.set_state(state, seed=None if seed is None else [seed])
        return self._begun(horizon, observations, infos)

    def _horizon(self) -> int | None:
        model = self.reward_model
        if self._max_episode_steps is not None or model is None or model.when != "end":
            return self._max_episode_steps
        registered = self._registered_horizon()
        if registered is None:
            raise ValueError("a reward model with when='end' must know when an episode ends: pass max_episode_steps")
        return registered

    def _unscored(self) -> str | None:
        """Return the warning for an episode that another TimeLimit than the id's ended before it was scored."""
        model, ran = self.reward_model, self._vector.elapsed[0]
        if model is None or model.when != "end" or self._max_episode_steps is not None or not ran:
            return None
        if self._vector.finished:
            return None
        return (
            f"an episode was left unscored after {ran} chunks: this reward model (when='end') is asked after the "
            f"{self._vector.max_episode_steps} that the id is registered with. gym.make keeps max_episode_steps to "
            "itself; give another horizon to gym.make_vec, to prophet_gym.factory.make_env or to ProphetEnv"
        )


def _warn_in_worker() -> None:
    # Every worker process of an AsyncVectorEnv loads a world model of its own.
    if multiprocessing.current_process().name.startswith("Worker<AsyncVectorEnv>"):
        gym.logger.warn(
            "AsyncVectorEnv loads one copy of the world model per worker and generates each episode alone; "
            "gym.make_vec(id, num_envs=...) or ProphetVectorEnv generates all in one batch with one copy"
        )
