"""Read where the object that an instruction names lies in a frame, to measure dreams with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prophet_gym.rewards._classifier import conv_block, hash_words, shrink
from prophet_gym.rewards._network_folder import FrameNetwork


@dataclass(frozen=True)
class ObjectReaderConfig:
    """Configure an `ObjectReader`."""

    image_size: int = 128  # height and width, in pixels, that frames are averaged down to
    width: int = 16  # channels of the first convolution; later ones are multiples of it
    points: int = 16  # places in the image that it looks for
    words: int = 128  # dimension of the hashed bag of words of the instruction
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # of the object's positions in the training data, metres
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


class ObjectReader(FrameNetwork):
    """Estimate the world position of the object that the instruction names, from one frame of a known camera.

    Heat maps over the image, chosen by the instruction, give points (their means) and how spread they are; a small
    network turns these into metres. Its error on frames of the simulator is the floor of what it can say of a dream.
    """

    config_kind = ObjectReaderConfig
    title = "object reader"
    frames_at_once = 128

    def __init__(self, config: ObjectReaderConfig | None = None) -> None:
        super().__init__()
        self.config = config or ObjectReaderConfig()
        width, points = self.config.width, self.config.points
        self.early = nn.Sequential(
            conv_block(3, width, stride=2), conv_block(width, 2 * width, stride=2), conv_block(2 * width, 3 * width)
        )
        self.task = nn.Linear(self.config.words, 6 * width)
        self.late = nn.Sequential(*(conv_block(3 * width, 3 * width, dilation=dilation) for dilation in (2, 4)))
        self.heat = nn.Conv2d(3 * width, points, 1)
        self.out = nn.Sequential(nn.Linear(4 * points, 128), nn.SiLU(), nn.Linear(128, 3))

    def forward(self, frames: UInt8[Tensor, "b h w 3"], words: Float[Tensor, "b d"]) -> Float[Tensor, "b 3"]:
        """Return positions in standard deviations of the training data."""
        dtype = self.heat.weight.dtype
        scale, shift = self.task(words.to(dtype))[:, :, None, None].chunk(2, 1)
        hidden = self.late(self.early(shrink(frames, self.config.image_size).to(dtype)) * (1 + scale) + shift)
        return self.out(soft_points(self.heat(hidden)))

    def positions(self, frames: UInt8[Tensor, "t h w 3"], instruction: str) -> Float[Tensor, "t 3"]:
        """Return the world position in each frame, metres."""
        found = self.read(frames, hash_words(instruction, self.config.words))
        mean, std = (torch.tensor(each, dtype=torch.float32) for each in (self.config.mean, self.config.std))
        return found * std + mean


def soft_points(heat: Float[Tensor, "b p h w"]) -> Float[Tensor, "b p4"]:
    """Return the mean place (x, y in -1..1) and the spread (standard deviations) of each heat map's softmax."""
    # Means of the softmax are differentiable, where the place of its largest value is not.
    chance = heat.flatten(2).softmax(dim=-1)
    down, across = (torch.linspace(-1, 1, side).to(heat) for side in heat.shape[2:])
    places = torch.cartesian_prod(down, across).flip(1)
    mean = chance @ places
    spread = (chance @ places.square() - mean.square()).clamp(min=1e-6).sqrt()
    return torch.cat([mean, spread], dim=-1).flatten(1)
