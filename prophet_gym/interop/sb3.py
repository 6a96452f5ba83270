"""Stable-Baselines3: a vector env of chunks as its `VecEnv`, and what it saved as a policy of `prophet rank`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from prophet_gym._checks import require_known
from prophet_gym.envs._episodes import sub_env_info
from prophet_gym.envs.wrappers._common import require_arrays

_Acting = Callable[[Mapping[str, np.ndarray], Sequence[Any]], np.ndarray]
"""An `ActingPolicy` of `prophet_gym.evaluation`, which this module does not know."""


class Sb3VecEnv(VecEnv):
    """Adapt a vector env with autoreset SAME_STEP, in any wrappers, to Stable-Baselines3.

    One model generates all episodes in one batch, where `make_vec_env` would load a model for each. Put `VecMonitor`
    around it for episode statistics. Infos are those of the step; at the end of an episode they also have
    `terminal_observation`, `TimeLimit.truncated` and `is_success`.

    Example:
        >>> from prophet_gym.envs import ProphetVectorEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> model = CountingWorldModel(chunk=4)
        >>> envs = ProphetVectorEnv(model, counting_starts(), num_envs=3, autoreset_mode="SameStep")
        >>> Sb3VecEnv(envs).reset()["image"].shape
        (3, 8, 8, 3)
    """

    envs: Any

    def __init__(self, envs: VectorEnv) -> None:
        """Wrap a vector env; ValueError if its autoreset mode is another, or if it gives tensors."""
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(f"Stable-Baselines3 needs autoreset_mode SAME_STEP, got {mode}")
        require_arrays("Sb3VecEnv", envs)
        self.envs = envs
        self._actions: np.ndarray | None = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        # The base class keeps the render modes alone, and recorders read the frame rate of videos from here.
        self.metadata = dict(envs.metadata)

    def reset(self) -> VecEnvObs:
        """Start episodes with the seeds and options that were set."""
        options = self._options[0]
        if any(other is not options and other != options for other in self._options):
            raise ValueError("options must be one dict for all, whose values may be one each, e.g. task=[0, 3]")
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observation, infos = self.envs.reset(seed=seeds, options=dict(options) or None)
        self.reset_infos = [sub_env_info(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step the env with the actions kept."""
        if self._actions is None:
            raise RuntimeError("call step_async before step_wait")
        actions, self._actions = self._actions, None
        observation, rewards, terminated, truncated, infos = self.envs.step(actions)
        done = terminated | truncated
        rows = [sub_env_info(infos, row) for row in range(self.num_envs)]
        for row in np.flatnonzero(done):
            # The next episode has begun already: its info is that of a reset, and the last step's is inside.
            started = rows[row]
            self.reset_infos[row] = {name: value for name, value in started.items() if not name.startswith("final_")}
            rows[row] = {
                **started["final_info"],
                "terminal_observation": started["final_obs"],
                "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                "is_success": started["final_info"].get("success", False),
            }
        return observation, rewards.astype(np.float32), done, rows

    def close(self) -> None:
        """Close the env."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return one image of each sub-environment, None where the render mode has none."""
        images = self.envs.render() if self.render_mode == "rgb_array" else [None] * self.num_envs
        return [None if image is None else np.asarray(image) for image in images]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the env's attribute, once for each sub-environment, since all share it."""
        env: Any = self.envs
        while not hasattr(env, attr_name) and isinstance(env, gym.vector.VectorWrapper):
            env = env.env
        return [getattr(env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the innermost env, for all sub-environments; ValueError for some of them."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError("all sub-environments are one env: set_attr works without indices only")
        setattr(self.envs.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list:
        """Raise NotImplementedError: sub-environments have no methods of their own."""
        del method_args, indices, method_kwargs
        wanted = f"call {method_name} on the `envs` of this Sb3VecEnv"
        raise NotImplementedError(f"all sub-environments are one env: {wanted}")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return False: sub-environments have no wrappers of their own."""
        del wrapper_class
        return [False for _ in self._get_indices(indices)]


def acting(env: VectorEnv, path: str, algorithm: str = "PPO") -> _Acting:
    """Load what Stable-Baselines3 saved as a policy for `prophet rank`: the mean of its distribution acts.

    Args:
        env: With the spaces that it acts in, as it was trained in them.
        path: The file that `save` wrote.
        algorithm: The name of its class, such as `PPO`.

    Raises:
        UnknownOptionError: There is no such algorithm.
    """
    del env
    known = {name for name in stable_baselines3.__all__ if hasattr(getattr(stable_baselines3, name), "load")}
    require_known("algorithm", algorithm, known)
    model = getattr(stable_baselines3, algorithm).load(path, device="cpu")

    def act(observation: Mapping[str, np.ndarray], episodes: Sequence[Any]) -> np.ndarray:
        del episodes
        return model.predict({name: observation[name] for name in model.observation_space}, deterministic=True)[0]

    return act
