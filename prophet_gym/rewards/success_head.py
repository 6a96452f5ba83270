"""A first judge: a small convolutional network that says of a frame whether the task is done.

It reads frames, not latents, so it judges real and dreamt pictures alike and needs no world model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from zlib import crc32

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from prophet_gym.errors import CheckpointError, require_count, require_number
from prophet_gym.rewards._videos import require_videos
from prophet_gym.rewards.folder import load_network, save_network
from prophet_gym.world_model import RewardOutput

FRAMES_AT_ONCE = 256
GROUPS = 4
"""Of the normalisation, which divide the channels."""
LARGEST_IMAGE = 1024


@dataclass(frozen=True)
class SuccessHeadConfig:
    """What a success head is.

    Attributes:
        image_size: Frames are averaged down to this height and width.
        width: Channels of the first convolution, a multiple of 4; later ones are multiples of it.
        words: Length of the hashed bag of words.
        threshold: A frame counts as done from this probability on.
        min_consecutive: Consecutive frames that must count as done.
        max_frames: Frames judged after each chunk: the chunk and `min_consecutive - 1` before it.

    Raises:
        ValueError: A value is not what it must be.
    """

    image_size: int = 64
    width: int = 16
    words: int = 128
    threshold: float = 0.5
    min_consecutive: int = 3
    max_frames: int = 10

    def __post_init__(self) -> None:
        if require_count("image_size", self.image_size) > LARGEST_IMAGE:
            raise ValueError(f"image_size must be at most {LARGEST_IMAGE}, got {self.image_size}")
        if require_count("width", self.width) % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS}, got {self.width}")
        require_count("words", self.words)
        require_count("min_consecutive", self.min_consecutive)
        if require_number("threshold, in 0..1,", self.threshold, least=0) > 1:
            raise ValueError(f"threshold must be in 0..1, got {self.threshold}")
        if require_count("max_frames", self.max_frames) < self.min_consecutive:
            raise ValueError(f"max_frames must be at least hold, got {self.max_frames} and {self.min_consecutive}")


def hash_words(instruction: str, size: int) -> Float[Tensor, " d"]:
    """A fixed bag of words: each word adds +1 or -1 at a place that its CRC-32 picks; scaled to length 1."""
    bag = torch.zeros(size, dtype=torch.float32)
    for word in instruction.lower().split():
        code = crc32(word.strip(".,;:!?\"'").encode())
        bag[code % size] += 1.0 if code >> 31 else -1.0
    return F.normalize(bag, dim=0)


def has_consecutive(above: Bool[Tensor, " t"], frames: int) -> bool:
    """Whether at least `frames` consecutive entries are True."""
    if len(above) < frames:
        return False
    return bool(above.unfold(0, frames, 1).all(dim=1).any())


def best_consecutive(probabilities: Float[Tensor, " t"], frames: int) -> float:
    """The largest probability that `frames` consecutive ones reach; 0.0 where there are fewer."""
    if len(probabilities) < frames:
        return 0.0
    return float(probabilities.unfold(0, frames, 1).amin(1).max())


class SuccessHead(nn.Module):
    """Success probability of single frames, and a RewardModel: reward 1.0 when success is held.

    Example:
        >>> head = SuccessHead(SuccessHeadConfig(min_consecutive=2))
        >>> output = head.score([torch.zeros(4, 128, 128, 3, dtype=torch.uint8)], ["put the soup in the basket"])
        >>> output.scored.tolist()
        [True]
    """

    when: Literal["chunk", "end"] = "chunk"
    stride = 1

    def __init__(self, config: SuccessHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config or SuccessHeadConfig()
        self.max_frames = self.config.max_frames
        width = self.config.width
        self.early = nn.Sequential(
            _block(5, width, stride=2), _block(width, 2 * width, stride=2), _block(2 * width, 3 * width, stride=2)
        )
        self.task = nn.Linear(self.config.words, 6 * width)
        self.late = nn.Sequential(_block(3 * width, 4 * width, stride=1), _block(4 * width, 4 * width, stride=1))
        self.out = nn.Linear(8 * width, 1)

    def forward(self, frames: UInt8[Tensor, "b h w 3"], words: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Success logits."""
        weight = self.out.weight
        images, words = shrink(frames, self.config.image_size).to(weight.dtype), words.to(weight.dtype)
        rows, _, height, width = images.shape
        down = torch.linspace(-1, 1, height).to(images).view(1, 1, height, 1).expand(rows, 1, height, width)
        across = torch.linspace(-1, 1, width).to(images).view(1, 1, 1, width).expand(rows, 1, height, width)
        hidden = self.early(torch.cat([images, down, across], 1))
        scale, shift = self.task(words)[:, :, None, None].chunk(2, 1)
        hidden = self.late(hidden * (1 + scale) + shift)
        return self.out(torch.cat([hidden.mean((2, 3)), hidden.amax((2, 3))], 1))[:, 0]

    @torch.no_grad()
    def probabilities(self, frames: UInt8[Tensor, "t h w 3"], instruction: str) -> Float[Tensor, " t"]:
        """Success probability of each frame.

        Raises:
            CheckpointError: The weights are damaged: the network computes numbers that are not finite.
        """
        device = self.out.weight.device
        words = hash_words(instruction, self.config.words).to(device)
        parts = [self(part.to(device), words.expand(len(part), -1)) for part in frames.split(FRAMES_AT_ONCE)]
        logits = torch.cat(parts).float().cpu()
        if not torch.isfinite(logits).all():
            # a NaN is below every threshold: it would be a failure, and be learnt from
            raise CheckpointError(
                "the success head computes numbers that are not finite, so its weights are damaged; load them again, "
                "or train it again with `prophet train-reward`"
            )
        return torch.sigmoid(logits)

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Return 1.0 for each video in which enough consecutive frames reach the threshold; an empty one is unscored.

        Raises:
            ValueError: A video is not uint8 `(frames, h, w, 3)`.
            CheckpointError: The weights are damaged.
        """
        require_videos(videos, instructions)
        sure = [
            best_consecutive(self.probabilities(video, text), self.config.min_consecutive) if len(video) else 0.0
            for video, text in zip(videos, instructions, strict=True)
        ]
        likely = torch.tensor(sure, dtype=torch.float32)
        scored = torch.tensor([len(video) > 0 for video in videos], dtype=torch.bool)
        done = torch.tensor([value >= self.config.threshold for value in sure], dtype=torch.bool)
        return RewardOutput((scored & done).float(), scored, probability=likely)

    def with_threshold(self, threshold: float) -> "SuccessHead":
        """The same weights with another threshold."""
        head = SuccessHead(replace(self.config, threshold=threshold))
        head.load_state_dict(self.state_dict())
        return head.eval()

    def save_pretrained(self, directory: Path | str) -> None:
        """Write config and weights."""
        save_network(directory, self, self.config)

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> "SuccessHead":
        """Read config and weights.

        Raises:
            MissingWeightsError: If a file is missing.
            CheckpointError: If a file is damaged or the weights do not fit the config.
        """
        return load_network(directory, cls, SuccessHeadConfig, "success head")


def shrink(frames: UInt8[Tensor, "b h w 3"], size: int) -> Float[Tensor, "b 3 s s"]:
    """Frames averaged down to `size` and scaled to [-1, 1]."""
    images = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    return images if images.shape[2:] == (size, size) else F.interpolate(images, (size, size), mode="area")


def _block(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
        nn.GroupNorm(GROUPS, outputs),
        nn.SiLU(),
    )
