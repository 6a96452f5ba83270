"""Read where the object that an instruction names lies in a frame, to measure dreams with.

It reads frames, not latents, so it reads frames of a simulator and of any world model alike. Its own error on frames of
the simulator is the floor of what it can say about a dream.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym.rewards._classifier import hash_words, shrink
from prophet_gym.rewards._network_folder import load_network, save_network

FRAMES_AT_ONCE = 128


@dataclass(frozen=True)
class ObjectReaderConfig:
    """Configure an `ObjectReader`.

    Attributes:
        image_size: Height and width, in pixels, that frames are averaged down to.
        width: Channels of the first convolution; later ones are multiples of it.
        points: Number of places in the image that it looks for.
        words: Dimension of the hashed bag of words of the instruction.
        mean: Mean of the object's positions in the training data, metres.
        std: Their standard deviations.
    """

    image_size: int = 128
    width: int = 16
    points: int = 16
    words: int = 128
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


class ObjectReader(nn.Module):
    """Estimate the world position of the object that the instruction names, from one frame of a known camera.

    Heat maps over the image, chosen by the instruction, give points (their means) and how spread they are; a small
    network turns these into metres.

    Example:
        >>> reader = ObjectReader(ObjectReaderConfig(image_size=32))
        >>> reader.positions(torch.zeros(2, 128, 128, 3, dtype=torch.uint8), "pick up the milk").shape
        torch.Size([2, 3])
    """

    def __init__(self, config: ObjectReaderConfig | None = None) -> None:
        super().__init__()
        self.config = config or ObjectReaderConfig()
        width, points = self.config.width, self.config.points
        self.early = nn.Sequential(
            _block(3, width, stride=2), _block(width, 2 * width, stride=2), _block(2 * width, 3 * width)
        )
        self.task = nn.Linear(self.config.words, 6 * width)
        self.late = nn.Sequential(_block(3 * width, 3 * width, dilation=2), _block(3 * width, 3 * width, dilation=4))
        self.heat = nn.Conv2d(3 * width, points, 1)
        self.out = nn.Sequential(nn.Linear(4 * points, 128), nn.SiLU(), nn.Linear(128, 3))

    def forward(self, frames: UInt8[Tensor, "b h w 3"], words: Float[Tensor, "b d"]) -> Float[Tensor, "b 3"]:
        """Return positions in standard deviations of the training data."""
        dtype = self.heat.weight.dtype
        hidden, words = self.early(shrink(frames, self.config.image_size).to(dtype)), words.to(dtype)
        scale, shift = self.task(words)[:, :, None, None].chunk(2, 1)
        hidden = self.late(hidden * (1 + scale) + shift)
        return self.out(soft_points(self.heat(hidden)))

    @torch.no_grad()
    def positions(self, frames: UInt8[Tensor, "t h w 3"], instruction: str) -> Float[Tensor, "t 3"]:
        """Return the world position in each frame, metres."""
        device = self.heat.weight.device
        words = hash_words(instruction, self.config.words).to(device)
        parts = [self(part.to(device), words.expand(len(part), -1)).cpu() for part in frames.split(FRAMES_AT_ONCE)]
        mean, std = (torch.tensor(each, dtype=torch.float32) for each in (self.config.mean, self.config.std))
        return torch.cat(parts).float() * std + mean

    def save_pretrained(self, directory: Path | str) -> None:
        """Write config and weights into a folder, whole or not at all."""
        save_network(directory, self, self.config)

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> "ObjectReader":
        """Read config and weights.

        Raises:
            MissingWeightsError: If a file is missing.
            CheckpointError: If a file is damaged or the weights do not fit the config.
        """
        return load_network(directory, cls, ObjectReaderConfig, "object reader")


def soft_points(heat: Float[Tensor, "b p h w"]) -> Float[Tensor, "b p4"]:
    """Return the mean place (x, y in -1..1) and the spread (standard deviations) of each heat map's softmax."""
    _, _, height, width = heat.shape
    # Means of the softmax are differentiable, where the place of its largest value is not.
    chance = heat.flatten(2).softmax(dim=-1)
    down = torch.linspace(-1, 1, height).to(heat)[:, None].expand(height, width).flatten()
    across = torch.linspace(-1, 1, width).to(heat)[None].expand(height, width).flatten()
    places = torch.stack([across, down], dim=1)
    mean = chance @ places
    spread = (chance @ places.square() - mean.square()).clamp(min=1e-6).sqrt()
    return torch.cat([mean, spread], dim=-1).flatten(1)


def _block(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation),
        nn.GroupNorm(4, outputs),
        nn.SiLU(),
    )
