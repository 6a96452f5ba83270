"""Where the gripper is in a dream: read off the latents, then moved by the commands. Action frames are drawn there."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from prophet_gym.prophet._diffusers import ConfigMixin, LightModelMixin, register_to_config
from prophet_gym.prophet.autoencoder import ResidualBlock


class GripperTracker(LightModelMixin, ConfigMixin):
    """Two small networks: a reader (latents of a frame -> gripper) and a path (gripper, commands -> its next places).

    The gripper is four numbers: position in world metres and openness (1 open .. 0 closed). A controller lags its
    commands, so the path reads the commands of the chunk before too; it is trusted for one chunk only, then the reader
    looks again. What lies under the hand may stop it, and what is between the fingers keeps them open: a third network
    sees that in a window of the latents around the gripper, and corrects the path.

    Args:
        latent_channels: channels of one frame's latents.
        latent_size: height and width of the latents.
        chunk: commands per chunk.
        action_dim: numbers per command.
        hidden: width of the networks.
        reader_channels: channels of the reader's first convolution; the later ones have twice as many.
        window: samples across and down, half a cell apart, of what is seen around the gripper; 0 if nothing is.
        gripper_mean: mean of the four numbers over the training data.
        gripper_std: their standard deviation.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 4,
        latent_size: Sequence[int] = (16, 16),
        chunk: int = 8,
        action_dim: int = 7,
        hidden: int = 192,
        reader_channels: int = 32,
        window: int = 0,
        gripper_mean: Sequence[float] = (0.0, 0.0, 0.0, 0.5),  # noqa: ARG002 (read from the config)
        gripper_std: Sequence[float] = (1.0, 1.0, 1.0, 1.0),  # noqa: ARG002
    ) -> None:
        super().__init__()
        cells = (latent_size[0] // 2) * (latent_size[1] // 2)
        coarse = 2 * reader_channels
        self.reader = nn.Sequential(
            nn.Conv2d(latent_channels, reader_channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(reader_channels, coarse, 3, padding=1, stride=2),
            ResidualBlock(coarse),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(coarse * cells, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 4),
        )
        features = 4 + 2 * chunk * action_dim
        self.path = nn.Sequential(
            nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, chunk * 4)
        )
        self.path_skip = nn.Linear(features, chunk * 4)
        last = nn.Linear(hidden, chunk * 4)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        seen = features + latent_channels * window**2
        self.touch = (
            nn.Sequential(nn.Linear(seen, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)
            if window
            else None
        )

    def read(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 4"]:
        """Return the gripper seen in one frame's normalised latents."""
        mean, std = self._scale(latents)
        return self.reader(latents) * std + mean

    def follow(
        self,
        gripper: Float[Tensor, "b 4"],
        past_actions: Float[Tensor, "b k a"],
        actions: Float[Tensor, "b k a"],
        latents: Float[Tensor, "b c h w"],
        camera: Float[Tensor, "3 4"],
    ) -> Float[Tensor, "b k 4"]:
        """Return the gripper after each command.

        Args:
            gripper: where it is before the first command.
            past_actions: the commands of the chunk before.
            actions: the commands of this chunk.
            latents: the frame before the first command.
            camera: world to unit image.
        """
        mean, std = self._scale(gripper)
        features = torch.cat([(gripper - mean) / std, past_actions.flatten(1), actions.flatten(1)], dim=1)
        change = self.path(features) + self.path_skip(features)
        if self.touch is not None:
            around = window_around(latents, gripper[:, :3], camera, int(self.config["window"]))
            change = change + self.touch(torch.cat([features, around.flatten(1)], dim=1))
        change = change.unflatten(1, (-1, 4))
        moved = gripper[:, None] + change * std
        return torch.cat([moved[..., :3], moved[..., 3:].clamp(0, 1)], dim=-1)

    def read_frames(self, latents: Float[Tensor, "b n c h w"]) -> Float[Tensor, "b n 4"]:
        """Return the gripper seen in each of several frames."""
        return self.read(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    def correct(
        self, followed: Float[Tensor, "b n 4"], latents: Float[Tensor, "b n c h w"], weight: float
    ) -> Float[Tensor, "b n 4"]:
        """Pull a followed path towards what dreamed frames show.

        The path errs by millimetres a chunk, the reader by millimetres a frame; a small `weight` lets neither grow.

        Args:
            followed: where the commands led.
            latents: the same frames as dreamed.
            weight: weight of the reader, 0 to 1.
        """
        return (1 - weight) * followed + weight * self.read_frames(latents)

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.tensor(self.config["gripper_mean"], device=like.device, dtype=like.dtype),
            torch.tensor(self.config["gripper_std"], device=like.device, dtype=like.dtype),
        )


def window_around(
    latents: Float[Tensor, "b c h w"], places: Float[Tensor, "b 3"], camera: Float[Tensor, "3 4"], samples: int
) -> Float[Tensor, "b c s s"]:
    """Return latents at a square of samples, half a cell apart, around where a place in the world is seen.

    What lies outside the picture repeats its edge; a place behind the camera is as good as one in its plane.

    Args:
        latents: of one frame.
        places: world metres.
        camera: world to unit image.
        samples: across and down.
    """
    seen = F.pad(places, (0, 1), value=1.0) @ camera.to(places).T
    middle = 2 * seen[:, :2] / seen[:, 2:].clamp(min=1e-3) - 1
    steps = (torch.arange(samples, device=places.device) - (samples - 1) / 2) / 2
    down, across = torch.meshgrid(steps * 2 / latents.shape[-2], steps * 2 / latents.shape[-1], indexing="ij")
    grid = middle[:, None, None] + torch.stack([across, down], -1)
    return F.grid_sample(latents, grid.to(latents), padding_mode="border", align_corners=False)


def tracker_loss(
    tracker: GripperTracker,
    latents: Float[Tensor, "b c h w"],
    gripper: Float[Tensor, "b 4"],
    start: Float[Tensor, "b 4"],
    past_actions: Float[Tensor, "b k a"],
    actions: Float[Tensor, "b k a"],
    following: Float[Tensor, "b k 4"],
    camera: Float[Tensor, "3 4"],
) -> Float[Tensor, ""]:
    """Mean absolute error of both networks in standard deviations of the data.

    Args:
        tracker: the networks.
        latents: latents of the frame before the first command.
        gripper: the true gripper there.
        start: where the path starts: the true gripper, shaken as a reader would.
        past_actions: the chunk before.
        actions: the chunk.
        following: the true gripper after each command.
        camera: world to unit image.
    """
    std = torch.tensor(tracker.config["gripper_std"], device=gripper.device)
    read = F.l1_loss(tracker.read(latents) / std, gripper / std)
    path = F.l1_loss(tracker.follow(start, past_actions, actions, latents, camera) / std, following / std)
    return read + path
