"""A flow policy of a few thousand weights that keeps the whole contract, for tests and first experiments."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym._checks import require_images
from prophrl_algos.flow import FlowSpec, Obs, TensorContext

_TIME_FREQUENCIES = (1.0, 2.0, 4.0)


class TinyFlowPolicy(nn.Module):
    """A policy of an MLP on latent, time and a context vector of averaged image cells and counted characters.

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
