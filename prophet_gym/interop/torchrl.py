"""TorchRL: a vector env of chunks as an env of tensordicts."""

import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torchrl.data import TensorSpec, Unbounded
from torchrl.envs import GymWrapper, default_info_dict_reader

_FLAGS = ("scored", "success")


class _Named(VectorWrapper):
    """Give the autoreset mode as an attribute, where TorchRL reads it; Gymnasium's wrappers carry metadata alone."""

    @property
    def autoreset_mode(self) -> AutoresetMode:
        return self.metadata["autoreset_mode"]


def torchrl_env(envs: VectorEnv, *, device: str | torch.device = "cpu") -> GymWrapper:
    """Wrap a vector env for TorchRL, which resets ended episodes itself.

    A plain `GymWrapper(env)` of a `ProphetVectorEnv` works too; this one adds `scored` and `success` of `info` to the
    tensordict, and takes an env in any wrappers, Gymnasium's too. ValueError unless its autoreset mode is DISABLED.

    Example:
        >>> from prophet_gym.envs import ProphetVectorEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> model = CountingWorldModel(chunk=4)
        >>> envs = ProphetVectorEnv(model, counting_starts(), num_envs=3, autoreset_mode="Disabled")
        >>> tuple(torchrl_env(envs).rollout(5)["next", "success"].shape)
        (3, 5)
    """
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.DISABLED:
        raise ValueError(f"TorchRL resets ended episodes itself: it needs autoreset_mode DISABLED, got {mode}")
    env = GymWrapper(_Named(envs), device=device)
    spec: dict[str, TensorSpec] = {name: Unbounded(torch.Size([envs.num_envs]), dtype=torch.bool) for name in _FLAGS}
    env.set_info_dict_reader(default_info_dict_reader(list(_FLAGS), spec=spec))
    return env
