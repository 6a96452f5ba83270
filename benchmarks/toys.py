"""Learn on a toy: a bandit whose optimum is known, and a flow policy of a few thousand weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from prophet_gym._checks import require_images
from prophrl_algos.flow import FlowSpec, Obs, TensorContext

_TIME_FREQUENCIES = (1.0, 2.0, 4.0)


class BanditVectorEnv(VectorEnv):
    """Ask for one chunk per episode, whose best action is known.

    The reward is exp(-d^2 / 2 width^2) with d the distance of the chunk's mean action to `target`. Info keys are those
    of the dream and of LIBERO; the observation is a black image, the same for all.
    """

    def __init__(
        self, num_envs: int, *, target: Sequence[float] = (0.8, -0.6), width: float = 0.6, chunk: int = 1
    ) -> None:
        """Build the env; the reward of `target` is 1, and `width` is that of its peak."""
        super().__init__()
        self.num_envs, self.target, self.width, self.chunk = num_envs, np.asarray(target), width, chunk
        self.max_episode_steps = 1
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_action_space = gym.spaces.Box(-2, 2, (chunk, len(target)), dtype=np.float32)
        self.single_observation_space = gym.spaces.Dict(image=gym.spaces.Box(0, 255, (2, 2, 3), dtype=np.uint8))
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._live = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin episodes in all sub-environments or in those of `options["reset_mask"]`; nothing is random."""
        del seed
        mask = (options or {}).get("reset_mask")
        self._live |= np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        return self._observe(), self._info()

    def step(
        self, actions: ArrayLike
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Pull every arm; all episodes end."""
        distance = ((np.asarray(actions, dtype=np.float64).mean(1) - self.target) ** 2).sum(1)
        live = self._live.copy()
        reward = np.where(live, np.exp(-distance / (2 * self.width**2)), 0.0)
        success = live & (reward >= 0.9)
        self._live[:] = False
        found = {"success": success, "scored": live, "live": live, "executed": live * self.chunk}
        info = self._info() | found | {f"_{name}": np.ones(self.num_envs, dtype=np.bool_) for name in found}
        return self._observe(), reward, success, live, info

    def _observe(self) -> dict[str, np.ndarray]:
        return {"image": np.zeros((self.num_envs, 2, 2, 3), np.uint8)}

    def _info(self) -> dict[str, Any]:
        instructions = np.full(self.num_envs, "pull", dtype=object)
        return {"instruction": instructions, "_instruction": np.ones(self.num_envs, dtype=np.bool_)}


class TinyFlowPolicy(nn.Module):
    """Act with an MLP on latent, time and a context vector of averaged image cells and counted characters.

    It reads `env_obs["image"]` (uint8) of any size. Latents are actions; what the env cannot run is clipped there.
    """

    def __init__(self, spec: FlowSpec, *, hidden: int = 64, cells: int = 2, letters: int = 16, seed: int = 0) -> None:
        """Draw the weights; images are averaged to cells x cells, bytes of an instruction counted in `letters` bins."""
        super().__init__()
        self.spec, self.cells, self.letters = spec, cells, letters
        width = spec.horizon * spec.latent_dim
        self.context = nn.Linear(3 * cells**2 + letters, hidden)
        self.into = nn.Linear(width + 2 * len(_TIME_FREQUENCIES) + 1, hidden)
        self.between = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)
        self.float()  # whatever torch's default is
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.context, self.into, self.between, self.out):
                bound = 1 / math.sqrt(layer.in_features)
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()

    def prepare(self, env_obs: Mapping[str, np.ndarray], instructions: Sequence[str]) -> Obs:
        """Return the images as they are, and counts of characters."""
        images = require_images("observation['image']", env_obs["image"])
        bins = [np.frombuffer(text.encode(), np.uint8) % self.letters for text in instructions]
        counts = np.stack([np.bincount(each, minlength=self.letters) for each in bins])
        return {"image": torch.from_numpy(np.ascontiguousarray(images)), "letters": torch.from_numpy(counts)}

    def encode(self, obs: Obs, *, grad: bool) -> TensorContext:
        """Return one vector per batch element."""
        device = self.out.weight.device
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            pixels = obs["image"].to(device).movedim(-1, 1).float() / 127.5 - 1
            cells = F.adaptive_avg_pool2d(pixels, self.cells).flatten(1)
            counts = obs["letters"].to(device).float() / 8
            return TensorContext(vector=F.silu(self.context(torch.cat([cells, counts], 1))))

    def velocity(self, ctx: TensorContext, x: Float[Tensor, "b h d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b h d"]:
        """Return v(x, t) in float32."""
        angles = t[:, None] * (math.pi / 2) * x.new_tensor(_TIME_FREQUENCIES)
        read = torch.cat([x.flatten(1), t[:, None], angles.sin(), angles.cos()], 1)
        hidden = F.silu(self.into(read) + ctx["vector"])
        return self.out(F.silu(self.between(hidden))).float().view_as(x)

    def decode(self, x0: Float[Tensor, "b h d"], obs: Obs) -> Float[Tensor, "b n a"]:
        """Return the executed actions and their real dimensions."""
        del obs
        return x0[:, : self.spec.exec_steps, : self.spec.action_dim]

    def sft_loss(
        self, obs: Obs, actions: Float[Tensor, "b h a"], *, generator: torch.Generator | None
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the velocity at one uniform time per batch element."""
        x0 = F.pad(actions.float(), (0, self.spec.latent_dim - actions.shape[2]))
        noise = torch.randn(x0.shape, generator=generator, dtype=torch.float32).to(x0.device)
        t = torch.rand(len(x0), generator=generator, dtype=torch.float32).to(x0.device)
        x = torch.lerp(x0, noise, t[:, None, None])
        found = self.velocity(self.encode(obs, grad=True), x, t)
        return F.mse_loss(found, noise - x0)


def tiny(env: VectorEnv) -> TinyFlowPolicy:
    """Make an untrained policy for an env: `prophrl train --policy benchmarks.toys:tiny`."""
    assert env.single_action_space.shape is not None
    actions, dimensions = env.single_action_space.shape
    return TinyFlowPolicy(FlowSpec(actions, dimensions, dimensions, actions, num_steps=4), hidden=128, cells=8)
