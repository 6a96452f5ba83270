"""The vector env for learners on the world model's device: tensors out, and no frame passes through the CPU."""

from collections.abc import Sequence
from typing import Any

import torch

from prophet_gym.envs._sub_env import Frame, Row, stack
from prophet_gym.envs.vector_env import Clips, ProphetVectorEnv
from prophet_gym.specs import InitialState
from prophet_gym.world_model import Chunk, State


class ProphetTorchVectorEnv(ProphetVectorEnv):
    """`ProphetVectorEnv` with torch tensors on the world model's device.

    Observations, rewards, flags and `info["frames"]` are tensors there; the rest of `info` is as ever. Actions and
    `reset_mask` may be tensors on any device, and the reward model is given frames on this one. Frames of resting
    sub-environments are 0. Wrappers of actions alone (`FlattenChunkVector`, `OneActionPerChunkVector`) go around it;
    those that read arrays refuse it.

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
        reward = torch.from_numpy(rewards).float().to(self._device)
        ended, cut = (torch.from_numpy(flag).to(self._device) for flag in (terminated, truncated))
        return observation, reward, ended, cut, infos

    @property
    def _device(self) -> torch.device:
        assert self._state is not None
        return next(iter(self._state.values())).device

    def _frames(self, chunk: Chunk) -> Clips:
        return chunk.frames

    def _first_frame(self, start: InitialState) -> Frame:
        return torch.from_numpy(start.frames[-1].copy()).to(self._device)

    def _place(self, targets: Sequence[int], rows: Sequence[Row], state: State) -> None:
        super()._place(targets, rows, state)
        for row in rows:
            window, frames = row.seen
            row.image = torch.as_tensor(row.image).to(self._device)
            row.recall([torch.as_tensor(frame).to(self._device) for frame in window], frames, self.reward_model)

    def _observe(self) -> Any:
        return {"image": stack([row.image for row in self._rows])} | self._proprioception(range(self.num_envs))

    def _observe_row(self, row: int) -> Any:
        image = torch.as_tensor(self._rows[row].image).clone()
        return {"image": image} | {name: value[0] for name, value in self._proprioception([row]).items()}

    def _proprioception(self, rows: Sequence[int]) -> Any:
        return {"gripper_position": self._read_gripper(rows).float()} if self._reads_gripper else {}
