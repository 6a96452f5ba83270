"""The Wan VAE behind uint8 frames: geometry, causality, and the published normalisation."""

import pytest
import torch

from prophet_gym.prophet._autoencoder import WanAutoencoder
from prophet_gym.prophet._presets import tiny_vae


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return tiny_vae().eval()


def video(frames, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, frames, 16, 24, 3), generator=g, dtype=torch.uint8)


def test_latents_are_normalised_with_the_published_numbers(vae):
    """The posterior's mean, less the channel's mean, over its standard deviation (numbers of the published config)."""
    frames = video(5)
    raw = vae._encode(frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1)[:, :16].detach()
    latents = vae.encode(frames)
    assert latents.shape == (1, 16, 2, 2, 3)
    for channel, mean, std in ((0, -0.7571, 2.8184), (5, 0.9653, 1.7708), (15, -0.2921, 1.9160)):
        torch.testing.assert_close(latents[:, channel], (raw[:, channel] - mean) / std, atol=1e-5, rtol=1e-5)


def test_decoding_takes_the_normalisation_back(vae):
    frames = video(5)
    raw = vae._encode(frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1)[:, :16].detach()
    expected = ((vae._decode(raw).sample + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 4, 1)
    decoded = vae.decode(vae.encode(frames))
    assert decoded.shape == frames.shape
    assert (decoded.int() - expected.int()).abs().max() <= 1


def test_a_latent_frame_knows_no_later_frame(vae):
    frames = video(5)
    latents = vae.encode(frames)
    torch.testing.assert_close(latents[:, :, :1], vae.encode(frames[:, :1]), atol=1e-5, rtol=1e-5)
    changed = vae.encode(torch.cat([frames[:, :1], video(4, seed=1)], dim=1))
    assert not torch.allclose(latents[:, :, 1], changed[:, :, 1])


def test_every_latent_of_a_history_depends_on_its_first_frame():
    """So the latents of a window that moves on cannot be kept for the next one."""
    torch.manual_seed(0)
    deep = WanAutoencoder(base_dim=4).eval()
    frames = video(57)
    other = torch.cat([255 - frames[:, :1], frames[:, 1:]], dim=1)
    apart = (deep.encode(other) - deep.encode(frames)).abs().amax(dim=(0, 1, 3, 4))
    assert (apart > 1e-3).all()


@pytest.mark.parametrize("frames", [video(4), video(3), video(0), video(5)[:, :, :12], video(5)[:, :, :, :20]])
def test_videos_that_would_lose_frames_or_pixels_are_refused(vae, frames):
    with pytest.raises(ValueError, match=r"must have 1 \+ 4n frames"):
        vae.encode(frames)
