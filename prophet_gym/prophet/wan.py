"""Frames <-> latents with the published Wan 2.1 VAE: the full Prophet's autoencoder."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym.prophet._diffusers import AutoencoderKLWan, LightModelMixin
from prophet_gym.prophet.autoencoder import FRAMES_PER_LATENT, to_frames, to_pixels
from prophet_gym.prophet.recipe import statistics_fit

SPATIAL_COMPRESSION = 8


class WanAutoencoder(LightModelMixin, AutoencoderKLWan):
    """diffusers' Wan VAE between uint8 videos and normalised latents: 1 + 4n frames become 1 + n latent frames.

    It is causal: a latent frame depends on its own and earlier frames alone, the first one on the first frame. The
    published folder loads as it is; its config holds the mean and standard deviation of every latent channel.

    Example:
        >>> import torch
        >>> autoencoder = WanAutoencoder(base_dim=4, num_res_blocks=1, dim_mult=[1, 1, 1, 1])
        >>> frames = torch.zeros(1, 5, 16, 16, 3, dtype=torch.uint8)
        >>> latents = autoencoder.encode(frames)
        >>> latents.shape, autoencoder.decode(latents).shape
        (torch.Size([1, 16, 2, 2, 2]), torch.Size([1, 5, 16, 16, 3]))
    """

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b c s y x"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return normalised latents, the posterior's mean, in float32.

        Raises:
            ValueError: not 1 + 4n frames (the VAE itself would drop the newest), or sides that 8 does not divide.
        """
        count, height, width = frames.shape[1:4]
        if count % FRAMES_PER_LATENT != 1 or height % SPATIAL_COMPRESSION or width % SPATIAL_COMPRESSION:
            raise ValueError(
                f"a video must have 1 + 4n frames whose height and width are multiples of {SPATIAL_COMPRESSION}, got "
                f"{count} frames of {(height, width)}"
            )
        pixels = to_pixels(frames.flatten(0, 1).to(self.device)).unflatten(0, frames.shape[:2])
        posterior = super().encode(pixels.transpose(1, 2).to(self.dtype), return_dict=False)[0]
        mean, std = self._normalisation()
        return (posterior.mode().float() - mean) / std

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c s y x"]) -> UInt8[Tensor, "b t h w 3"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the frames of normalised latents."""
        mean, std = self._normalisation()
        raw = latents.to(self.device, torch.float32) * std + mean
        pixels = super().decode(raw.to(self.dtype), return_dict=False)[0].transpose(1, 2)
        return to_frames(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])

    def normalisation_fits(self) -> bool:
        """Whether the config has a mean and a standard deviation for every latent channel."""
        return statistics_fit(self.config["latents_mean"], self.config["latents_std"], self.config["z_dim"])

    def _normalisation(self) -> tuple[Tensor, Tensor]:
        device = self.device
        mean, std = (
            torch.tensor(self.config[name], device=device)[:, None, None, None]
            for name in ("latents_mean", "latents_std")
        )
        return mean, std
