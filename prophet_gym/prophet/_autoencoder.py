"""Frames to latents and back: the small autoencoder, and the published Wan 2.1 VAE, whose geometry it shares."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from prophet_gym.prophet._diffusers import AutoencoderKLWan, ConfigMixin, LightModelMixin, register_to_config

# Temporal compression of the Wan VAE; the small autoencoder stacks as many frames in channels.
FRAMES_PER_LATENT = 4
SPATIAL_COMPRESSION = 8
# Side in pixels of the cells that the first and the last convolution see.
_PATCH = 4
# No statistic of latents is larger.
_LARGEST = 4096


class ResidualBlock(nn.Module):
    """Apply two 3x3 convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return x plus its residual, same shape."""
        return x + self.conv_2(F.silu(self.conv_1(F.silu(x))))


class FrameAutoencoder(LightModelMixin, ConfigMixin):
    """Encode frames one by one, 8x8 pixels to a latent cell; four frames stack to the Wan VAE's 16 channels.

    `fine_channels` is the width at a quarter of the image's resolution, `coarse_channels` that at an eighth.

    Differences from the paper: the released Prophet uses the Wan 2.1 VAE, which takes seconds per chunk on a CPU.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 4,
        fine_channels: int = 48,
        coarse_channels: int = 96,
        latents_mean: Sequence[float] | None = None,  # noqa: ARG002 (read from the config)
        latents_std: Sequence[float] | None = None,  # noqa: ARG002
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(_PATCH),
            nn.Conv2d(3 * _PATCH**2, fine_channels, 3, padding=1),
            ResidualBlock(fine_channels),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine_channels, coarse_channels, 1),
            ResidualBlock(coarse_channels),
            nn.SiLU(),
            nn.Conv2d(coarse_channels, latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse_channels, 3, padding=1),
            ResidualBlock(coarse_channels),
            nn.SiLU(),
            nn.Conv2d(coarse_channels, 4 * fine_channels, 1),
            nn.PixelShuffle(2),
            ResidualBlock(fine_channels),
            nn.SiLU(),
            nn.Conv2d(fine_channels, 3 * _PATCH**2, 3, padding=1),
            nn.PixelShuffle(_PATCH),
        )
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def encode_raw(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
        """Return raw latents in (-3, 3) of pixels in [-1, 1]."""
        # Bounded, so that no frame has latents far from those that the decoder is trained on.
        return 3 * torch.tanh(self.encoder(pixels.contiguous(memory_format=torch.channels_last)) / 3)

    def decode_raw(self, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
        """Return pixels (not clamped) of raw latents."""
        return self.decoder(latents.contiguous(memory_format=torch.channels_last))

    def encode(self, frames: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n c y x"]:
        """Return normalised latents."""
        if frames.shape[1] % 8 or frames.shape[2] % 8:
            raise ValueError(f"frame height and width must be multiples of 8, got {tuple(frames.shape[1:3])}")
        mean, std = self._normalisation(frames.device)
        return (self.encode_raw(to_pixels(frames).to(self.dtype)) - mean) / std

    def decode(self, latents: Float[Tensor, "n c y x"]) -> UInt8[Tensor, "n h w 3"]:
        """Return frames of normalised latents."""
        mean, std = self._normalisation(latents.device)
        raw = (latents.to(self.dtype) * std + mean).contiguous(memory_format=torch.channels_last)
        # The last layer only moves pixels: on a CPU, bytes are moved faster than floats.
        cells = to_frames(self.decoder[:-1](raw))
        n, rows, columns, _ = cells.shape
        pixels = cells.view(n, rows, columns, 3, _PATCH, _PATCH).permute(0, 1, 4, 2, 5, 3)
        return pixels.reshape(n, rows * _PATCH, columns * _PATCH, 3)

    def _normalisation(self, device: torch.device) -> tuple[Tensor, Tensor]:
        channels = self.config["latent_channels"]
        numbers = [self.config["latents_mean"] or [0.0] * channels, self.config["latents_std"] or [1.0] * channels]
        mean, std = torch.tensor(numbers, device=device, dtype=self.dtype)[..., None, None]
        return mean, std


class WanAutoencoder(LightModelMixin, AutoencoderKLWan):
    """Encode videos with diffusers' Wan VAE: 1 + 4n uint8 frames become 1 + n normalised latent frames.

    It is causal: a latent frame depends on its own and earlier frames alone, the first one on the first frame. The
    published folder loads as it is; its config holds the mean and standard deviation of every latent channel.
    """

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b c s y x"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return normalised latents, the posterior's mean, in float32."""
        count, height, width = frames.shape[1:4]
        # The VAE itself would drop the newest frames of any other number.
        if count % FRAMES_PER_LATENT != 1 or height % SPATIAL_COMPRESSION or width % SPATIAL_COMPRESSION:
            raise ValueError(
                f"a video must have 1 + 4n frames whose height and width are multiples of {SPATIAL_COMPRESSION}, got "
                f"{count} frames of {(height, width)}"
            )
        pixels = to_pixels(frames.flatten(0, 1).to(self.device)).unflatten(0, frames.shape[:2])
        posterior = super().encode(pixels.transpose(1, 2).to(self.dtype), return_dict=False)[0]
        mean, std = self._normalisation()
        # The mode, not a sample: the same frames give the same state, whatever the generators.
        return (posterior.mode().float() - mean) / std

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c s y x"]) -> UInt8[Tensor, "b t h w 3"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the frames of normalised latents."""
        mean, std = self._normalisation()
        raw = latents.to(self.device, torch.float32) * std + mean
        pixels = super().decode(raw.to(self.dtype), return_dict=False)[0].transpose(1, 2)
        return to_frames(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])

    def normalisation_fits(self) -> bool:
        """Return whether the config has a mean and a standard deviation for every latent channel."""
        return statistics_fit(self.config["latents_mean"], self.config["latents_std"], self.config["z_dim"])

    def _normalisation(self) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor([self.config["latents_mean"], self.config["latents_std"]], device=self.device)
        mean, std = numbers[..., None, None, None]
        return mean, std


def to_pixels(frames: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Map uint8 images to [-1, 1], channels first."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_frames(pixels: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n h w c"]:
    """Map [-1, 1] to uint8 images, channels last."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def stack_frames(latents: Float[Tensor, "b n c h w"]) -> Float[Tensor, "b c4 t h w"]:
    """Stack each four consecutive per-frame latents in channels: `n = 4 t` frames to `t` latent frames."""
    return latents.unflatten(1, (-1, FRAMES_PER_LATENT)).flatten(2, 3).transpose(1, 2)


def unstack_frames(latents: Float[Tensor, "b c4 t h w"]) -> Float[Tensor, "b n c h w"]:
    """Undo `stack_frames`."""
    return latents.transpose(1, 2).unflatten(2, (FRAMES_PER_LATENT, -1)).flatten(1, 2)


def keep_background(
    decoded: UInt8[Tensor, "b k h w 3"],
    reference: UInt8[Tensor, "b h w 3"],
    reference_decoded: UInt8[Tensor, "b h w 3"],
    threshold: float,
    softness: float,
    window: int,
) -> UInt8[Tensor, "b k h w 3"]:
    """Show the real initial frame wherever the decoded image has not changed since it.

    A small autoencoder blurs the background; the initial frame (`reference`) holds it sharp. The change of a pixel is
    the absolute difference between the decoded frame and the decoded initial frame, averaged over a box of `window`
    pixels, odd. Where it is `threshold` grey levels, real and decoded pixel mix half and half.
    """
    b, k, h, w, _ = decoded.shape
    old, real = reference_decoded[:, None], reference[:, None].float()
    # Bytes as far as they reach: this is memory-bound on a CPU.
    red, green, blue = (torch.maximum(decoded, old) - torch.minimum(decoded, old)).short().unbind(-1)
    change = (red + green + blue).flatten(0, 1)[:, None].float() / 3
    change = F.avg_pool2d(change, window, 1, window // 2, count_include_pad=False)
    moved = torch.sigmoid((change - threshold) / softness).view(b, k, h, w, 1)
    mixed = (decoded.float() - real).mul_(moved).add_(real)
    return mixed.round_().clamp_(0, 255).to(torch.uint8)


def statistics_fit(mean: Any, std: Any, count: int) -> bool:
    """Return whether a mean and a deviation of a network's config are finite numbers, one for each of `count`."""
    if not all(isinstance(numbers, list | tuple) and len(numbers) == count for numbers in (mean, std)):
        return False
    numbers = [*mean, *std]
    plain = all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= _LARGEST for n in numbers)
    return plain and min(std) > 0
