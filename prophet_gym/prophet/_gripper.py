"""Where the gripper is in a dream: read off the latents, then moved by the actions; action frames are drawn there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from prophet_gym.prophet._action_frames import draw_discs
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, ResidualBlock, stack_frames
from prophet_gym.prophet._diffusers import ConfigMixin, LightModelMixin, register_to_config
from prophet_gym.prophet._transformer import Conditions

GRIPPER_DIM = 4  # position in world metres and openness, 1 open .. 0 closed; further numbers may follow them
DISC_CHANNELS = 3  # of `draw_discs`


class GripperTracker(LightModelMixin, ConfigMixin):
    """Read the gripper off latents, and follow it through actions: two small networks, or three.

    The reader maps the latents of a frame to the gripper; the path maps the gripper and actions to its next places. A
    controller lags its actions, so the path reads those of the chunk before too; it is trusted for one chunk only, then
    the reader looks again. What lies under the hand may stop it, and what is between the fingers keeps them open: with
    a `window` (samples across and down, half a cell apart) a third network sees that, and corrects the path. Latents of
    several `views` lie one below the other; the first is that of the camera.
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
        views: int = 1,  # noqa: ARG002 (read from the config)
        gripper_mean: Sequence[float] = (0.0, 0.0, 0.0, 0.5),
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
            nn.Linear(hidden, len(gripper_mean)),
        )
        features, told = len(gripper_mean) + 2 * chunk * action_dim, chunk * len(gripper_mean)
        self.path = nn.Sequential(
            nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, told)
        )
        self.path_skip = nn.Linear(features, told)
        last = nn.Linear(hidden, told)
        # Silent at first, so that a tracker that sees begins with all that its base knows.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        seen = features + latent_channels * window**2
        touch = (nn.Linear(seen, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last) if window else None
        self.touch = nn.Sequential(*touch) if touch else None

    def read(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g"]:
        """Return the gripper seen in one frame's normalised latents."""
        mean, std = self.scale(latents)
        return self.reader(latents) * std + mean

    def follow(
        self,
        gripper: Float[Tensor, "b g"],
        past_actions: Float[Tensor, "b k a"],
        actions: Float[Tensor, "b k a"],
        latents: Float[Tensor, "b c h w"] | None,
        camera: Float[Tensor, "3 4"],
    ) -> Float[Tensor, "b k g"]:
        """Return the gripper after each action; gripper and latents given are those before the first one.

        Without latents nothing corrects the path.
        """
        mean, std = self.scale(gripper)
        features = torch.cat([(gripper - mean) / std, past_actions.flatten(1), actions.flatten(1)], dim=1)
        # The skip is linear, as a free arm nearly follows its actions; the network has only the rest to learn.
        change = self.path(features) + self.path_skip(features)
        if self.touch is not None and latents is not None:
            front = latents[..., : latents.shape[-2] // self.config["views"], :]
            around = window_around(front, gripper[:, :3], camera, int(self.config["window"]))
            change = change + self.touch(torch.cat([features, around.flatten(1)], dim=1))
        moved = gripper[:, None] + change.unflatten(1, (-1, len(std))) * std
        return torch.cat([moved[..., :3], moved[..., 3:4].clamp(0, 1), moved[..., 4:]], dim=-1)

    def read_frames(self, latents: Float[Tensor, "b n c h w"]) -> Float[Tensor, "b n g"]:
        """Return the gripper seen in each of several frames."""
        return self.read(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    def correct(
        self, followed: Float[Tensor, "b n g"], latents: Float[Tensor, "b n c h w"], weight: float
    ) -> Float[Tensor, "b n g"]:
        """Pull a followed path towards what dreamed frames show.

        The path errs by millimetres a chunk, the reader by millimetres a frame; a small `weight` of the reader lets
        neither grow.
        """
        return (1 - weight) * followed + weight * self.read_frames(latents)

    def scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the gripper in the training data, on the device of a tensor."""
        mean, std = (like.new_tensor(self.config[name]) for name in ("gripper_mean", "gripper_std"))
        return mean, std


class Untracked(nn.Module):
    """Stand in for the tracker of a model that tracks nothing: its gripper has no numbers."""

    def __init__(self, chunk: int, device: torch.device) -> None:
        super().__init__()
        self.config, self.device = {"chunk": chunk, "views": 1}, device

    def read_frames(self, latents: Float[Tensor, "b n c h w"]) -> Float[Tensor, "b n 0"]:
        """Return nothing for each of several frames."""
        return latents.new_zeros(*latents.shape[:2], 0)

    def correct(
        self, followed: Float[Tensor, "b n 0"], latents: Float[Tensor, "b n c h w"], weight: float
    ) -> Float[Tensor, "b n 0"]:
        """Return what was followed: nothing."""
        del latents, weight
        return followed


def window_around(
    latents: Float[Tensor, "b c h w"], places: Float[Tensor, "b 3"], camera: Float[Tensor, "3 4"], samples: int
) -> Float[Tensor, "b c s s"]:
    """Return latents at a square of samples, half a cell apart, around where a place in the world is seen.

    What lies outside the image repeats its edge; a place behind the camera is as good as one in its plane.
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
    gripper: Float[Tensor, "b g"],
    start: Float[Tensor, "b g"],
    past_actions: Float[Tensor, "b k a"],
    actions: Float[Tensor, "b k a"],
    following: Float[Tensor, "b k g"],
    camera: Float[Tensor, "3 4"],
) -> Float[Tensor, ""]:
    """Return the mean absolute errors of the networks, summed, in standard deviations of the data.

    The path begins at `start`: the true gripper with the error of a reader, which what is seen corrects. In a dream
    nothing does, since its hand is drawn where the path is; so the path must also be right by the actions alone, from
    the true gripper.
    """
    _, std = tracker.scale(gripper)
    read = F.l1_loss(tracker.read(latents) / std, gripper / std)
    told = past_actions, actions
    path = F.l1_loss(tracker.follow(start, *told, latents, camera) / std, following / std)
    alone = F.l1_loss(tracker.follow(gripper, *told, None, camera) / std, following / std)
    return read + path + alone


@dataclass(frozen=True)
class ChunkInputs(Conditions):
    """Add where the actions lead the gripper, and where the flow starts if not at the last of the four given frames."""

    path: Float[Tensor, "b k g"]
    source: Float[Tensor, "b c generated h w"] | None = None


@dataclass(frozen=True)
class ChunkStart:
    """Hold what a dream carries into a chunk, and the actions of that chunk.

    `gripper` is that of the last four frames of `past`, `past_actions` led to the last `k` of them. `first` is the
    frame that the dream began at, and `first_gripper` where the gripper was there.
    """

    past: Float[Tensor, "b n c h w"]
    gripper: Float[Tensor, "b 4 g"]
    past_actions: Float[Tensor, "b k a"]
    actions: Float[Tensor, "b k a"]
    first: Float[Tensor, "b c h w"]
    first_gripper: Float[Tensor, "b g"]


def chunk_inputs(tracker: GripperTracker, start: ChunkStart, camera: Float[Tensor, "3 4"]) -> ChunkInputs:
    """Assemble the inputs of one chunk; the last four frames of the past, with their gripper, are the given slot."""
    path, numbers = follow_chunk(tracker, start, camera)
    drawn = stack_frames(discs_of(path, camera, (start.past.shape[-2], start.past.shape[-1])))
    ahead = path[:, FRAMES_PER_LATENT:]
    return ChunkInputs(**given_and_history(start.past), actions=numbers, action_frames=drawn, path=ahead)


def follow_chunk(
    tracker: GripperTracker, start: ChunkStart, camera: Float[Tensor, "3 4"]
) -> tuple[Float[Tensor, "b f g"], Float[Tensor, "b f _"]]:
    """Return the gripper in the given slot and after each action, and beside it, normalised, the actions themselves."""
    ahead = tracker.follow(start.gripper[:, -1], start.past_actions, start.actions, start.past[:, -1], camera)
    path = torch.cat([start.gripper, ahead], dim=1)
    mean, std = tracker.scale(path)
    numbers = torch.cat([start.past_actions[:, -FRAMES_PER_LATENT:], start.actions], dim=1)
    return path, torch.cat([numbers, (path - mean) / std], dim=-1)


def discs_of(
    path: Float[Tensor, "b f g"], camera: Float[Tensor, "3 4"], size: tuple[int, int]
) -> Float[Tensor, "b f 3 h w"]:
    """Return `draw_discs` of the gripper on its path, as one camera sees it."""
    cameras = camera.to(path).expand(path.shape[0], -1, -1)
    return draw_discs(path[..., :3], path[..., 3], cameras, size)


def given_and_history(past: Float[Tensor, "b n c h w"]) -> dict[str, Any]:
    """Return the last four frames as the given slot, and those before, if there are any, as history."""
    history = past[:, :-FRAMES_PER_LATENT]
    given = stack_frames(past[:, -FRAMES_PER_LATENT:])
    return {"given": given, "history": stack_frames(history) if history.shape[1] else None}


def flow_source(
    inputs: ChunkInputs, noise: Float[Tensor, "b c t h w"], noise_scale: float
) -> Float[Tensor, "b c t h w"]:
    """Return where the small Prophet's flow starts: the last given frame in every generated slot, plus a little noise.

    Differences from the paper: Prophet's flow starts from pure noise. Starting at the last frame makes one network call
    a regression of the change, which is what few samples can learn, and more calls refine it.
    """
    if inputs.source is not None:
        return inputs.source + noise_scale * noise
    channels = inputs.given.shape[1] // FRAMES_PER_LATENT
    last = inputs.given[:, -channels:].repeat(1, FRAMES_PER_LATENT, noise.shape[2], 1, 1)
    return last + noise_scale * noise
