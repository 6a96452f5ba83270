"""The vector env for learners on the world model's device: tensors out, and no frame passes through the CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from prophet_gym.envs._sub_env import stack
from prophet_gym.envs.vector_env import ProphetVectorEnv


class ProphetTorchVectorEnv(ProphetVectorEnv):
    """Simulate as `ProphetVectorEnv` does, with torch tensors on the world model's device.

    Observations, rewards, flags and `info["frames"]` are tensors on this device; the rest of `info` stays as in
    `ProphetVectorEnv`. Actions and `reset_mask` may be tensors on any device, and the reward model gets frames on this
    one. Frames of sub-environments that have ended are 0. Wrappers that change actions alone
    (`OneActionPerChunkVector`) accept this env; those that read arrays raise an error.

    Example:
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> envs = ProphetTorchVectorEnv(CountingWorldModel(chunk=4), counting_starts(), num_envs=3)
        >>> observation, info = envs.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = envs.step(torch.zeros(3, 4, 7))
        >>> observation["image"].dtype, tuple(info["frames"].shape), reward.tolist()
        (torch.uint8, (3, 4, 8, 8, 3), [0.0, 0.0, 0.0])
    """

    gives_tensors = True

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Run one chunk in every sub-environment, as `ProphetVectorEnv.step`."""
        observation, rewards, terminated, truncated, infos = super().step(actions)
        for part in (infos, infos.get("final_info", {})):
            if "frames" in part:
                # Gymnasium collects frames in an object array, with None where an episode rests.
                clips = list(part["frames"])
                blank = torch.zeros_like(next(clip for clip in clips if clip is not None))
                part["frames"] = torch.stack([blank if clip is None else clip for clip in clips])
        told = (rewards.astype(np.float32), terminated, truncated)
        reward, ended, cut = (torch.from_numpy(each).to(self._device) for each in told)
        return observation, reward, ended, cut, infos

    @property
    def _device(self) -> torch.device:
        assert self._state is not None
        return next(iter(self._state.values())).device

    def _keep(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.to(self._device)

    def _observation(self, rows: Sequence[int]) -> Any:
        seen = {"image": stack([torch.as_tensor(self._rows[row].image) for row in rows])}
        seen |= {name: part.to(self._device) for name, part in self._read_hand(rows).items()}
        return seen | {"gripper_position": self._read_gripper(rows).float()} if self._reads_gripper else seen
