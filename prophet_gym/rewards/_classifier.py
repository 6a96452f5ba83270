"""Classify frames (not latents: those of a simulator too) as done or not done, for a sparse and a dense reward."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal
from zlib import crc32

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from prophet_gym._checks import require_count, require_number
from prophet_gym.errors import CheckpointError
from prophet_gym.rewards._network_folder import FrameNetwork
from prophet_gym.rewards._videos import require_videos
from prophet_gym.world_model import Footage, RewardOutput

GROUPS = 4
"""Groups of the normalisation, which divide the channels."""
LARGEST_IMAGE = 1024


@dataclass(frozen=True)
class SuccessHeadConfig:
    """Configure a `SuccessHead`."""

    image_size: int = 64  # height and width, in pixels, that frames are averaged down to
    width: int = 16  # channels of the first convolution, a multiple of 4; later ones are multiples of it
    words: int = 128  # dimension of the hashed bag of words of the instruction
    threshold: float = 0.5  # probability from which on a frame counts as done
    min_consecutive: int = 3  # frames in a row that must count as done
    max_frames: int = 10  # scored after each chunk: the chunk and the `min_consecutive - 1` frames before it
    # On demand, frames between two that stay below this part of the threshold count as not done, unseen; 0 sees all.
    clearly_not: float = 0.5

    def __post_init__(self) -> None:
        for name in ("image_size", "width", "words", "min_consecutive"):
            require_count(name, getattr(self, name))
        require_count("max_frames", self.max_frames, self.min_consecutive)
        if self.image_size > LARGEST_IMAGE:
            raise ValueError(f"image_size must be at most {LARGEST_IMAGE}, got {self.image_size}")
        if self.width % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS}, got {self.width}")
        for name in ("threshold", "clearly_not"):
            if require_number(f"{name}, in 0..1,", getattr(self, name), least=0) > 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")


def hash_words(instruction: str, size: int) -> Float[Tensor, " d"]:
    """Encode an instruction as a hashed bag of words of length 1: each word adds +1 or -1 where its CRC-32 points."""
    bag = torch.zeros(size, dtype=torch.float32)
    for word in instruction.lower().split():
        # crc32, since Python's own hash of a text differs from process to process
        code = crc32(word.strip(".,;:!?\"'").encode())
        bag[code % size] += 1.0 if code >> 31 else -1.0
    return F.normalize(bag, dim=0)


def consecutive_probability(probabilities: Float[Tensor, " t"], min_consecutive: int) -> Float[Tensor, " t"]:
    """Return, for each frame, the smallest of the last `min_consecutive` probabilities; of fewer at the beginning."""
    first = probabilities.new_full((min_consecutive - 1,), float("inf"))
    return torch.cat([first, probabilities]).unfold(0, min_consecutive, 1).amin(1)


def best_consecutive(probabilities: Float[Tensor, " t"], min_consecutive: int) -> float:
    """Return the largest probability that `min_consecutive` consecutive frames reach; 0.0 for a shorter video."""
    if len(probabilities) < min_consecutive:
        return 0.0
    return float(consecutive_probability(probabilities, min_consecutive)[min_consecutive - 1 :].max())


def has_run(counted: Mapping[int, bool], run: int) -> bool:
    """Return whether `run` consecutive frames are known to count as done."""
    return any(all(counted.get(first + i, False) for i in range(run)) for first in counted)


def next_frames(length: int, run: int, counted: Mapping[int, bool], free: Collection[int]) -> list[int]:
    """Return the frames to look at next to find out whether `run` consecutive ones count as done; none if it is known.

    One frame that does not count rules out every run that it is part of, so frames are chosen as if none of them did:
    the last one of the first run that is still possible, and so on.

    Args:
        length: Frames of the video.
        run: Frames in a row.
        counted: The frames that were looked at, and whether each counts.
        free: Frames to look at in any case, since they cost nothing.

    Example:
        >>> next_frames(10, 3, {}, free=[1])
        [1, 4, 7]
        >>> next_frames(10, 3, {1: False, 4: False, 7: True}, free=[])
        [6, 9]
    """
    if has_run(counted, run):
        return []
    wanted = {frame for frame in free if frame not in counted}
    for first in range(length - run + 1):
        frames = range(first, first + run)
        if not any(frame in wanted or counted.get(frame) is False for frame in frames):
            wanted.add(max(frame for frame in frames if frame not in counted))
    return sorted(wanted)


def between(frames: Sequence[int], chosen: Sequence[bool]) -> list[int]:
    """Return the numbers between neighbours of ascending `frames` that are both chosen.

    Example:
        >>> between([1, 4, 9], [True, True, False])
        [2, 3]
    """
    pairs = pairwise(zip(frames, chosen, strict=True))
    return [number for (first, a), (last, b) in pairs if a and b for number in range(first + 1, last)]


class SuccessHead(FrameNetwork):
    """Estimate from single frames the probability that the task is done; as a RewardModel, give 1.0 once it is.

    A task is done when the probability of `min_consecutive` consecutive frames reaches the threshold.

    Example:
        >>> head = SuccessHead(SuccessHeadConfig(min_consecutive=2))
        >>> output = head.score([torch.zeros(4, 128, 128, 3, dtype=torch.uint8)], ["put the soup in the basket"])
        >>> output.scored.tolist()
        [True]
    """

    config_kind = SuccessHeadConfig
    title = "success head"
    frames_at_once = 256
    when: Literal["chunk", "end"] = "chunk"
    stride = 1

    def __init__(self, config: SuccessHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config or SuccessHeadConfig()
        self.max_frames = self.config.max_frames
        width = self.config.width
        widths = (5, width, 2 * width, 3 * width)
        self.early = nn.Sequential(*(conv_block(*pair, stride=2) for pair in pairwise(widths)))
        self.task = nn.Linear(self.config.words, 6 * width)
        self.late = nn.Sequential(conv_block(3 * width, 4 * width), conv_block(4 * width, 4 * width))
        self.out = nn.Linear(8 * width, 1)

    def forward(self, frames: UInt8[Tensor, "b h w 3"], words: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Return success logits of frames, given the encoded instruction of each."""
        weight = self.out.weight
        images, words = shrink(frames, self.config.image_size).to(weight.dtype), words.to(weight.dtype)
        count, _, height, width = images.shape
        # Two channels say where a pixel is: whether a task is done depends on places, which convolutions do not see.
        down = torch.linspace(-1, 1, height).to(images).view(1, 1, height, 1).expand(count, 1, height, width)
        across = torch.linspace(-1, 1, width).to(images).view(1, 1, 1, width).expand(count, 1, height, width)
        scale, shift = self.task(words)[:, :, None, None].chunk(2, 1)
        hidden = self.late(self.early(torch.cat([images, down, across], 1)) * (1 + scale) + shift)
        return self.out(torch.cat([hidden.mean((2, 3)), hidden.amax((2, 3))], 1))[:, 0]

    def probabilities(self, frames: UInt8[Tensor, "t h w 3"], instruction: str) -> Float[Tensor, " t"]:
        """Return the success probability of each frame, on the CPU.

        Raises:
            CheckpointError: The weights are damaged: the network's outputs are not finite.
        """
        return self._probabilities(frames, hash_words(instruction, self.config.words))

    def _probabilities(self, frames: UInt8[Tensor, "t h w 3"], words: Float[Tensor, "*t d"]) -> Float[Tensor, " t"]:
        logits = self.read(frames, words)
        if not torch.isfinite(logits).all():
            # NaN is below every threshold: it would count as a failure, and a policy would learn from it.
            raise CheckpointError(
                "the success head computes numbers that are not finite, so it is damaged; train it again"
            )
        return torch.sigmoid(logits)

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Return 1.0 for each video in which enough consecutive frames reach the threshold; skip an empty one.

        Raises:
            ValueError: A video is not uint8 `(frames, h, w, 3)`.
            CheckpointError: The weights are damaged.
        """
        require_videos(videos, instructions)
        best = [
            best_consecutive(self.probabilities(video, text), self.config.min_consecutive) if len(video) else 0.0
            for video, text in zip(videos, instructions, strict=True)
        ]
        # compared in float64: float32 rounds a threshold just above a probability down to it
        sure = torch.tensor(best, dtype=torch.float64)
        scored = torch.tensor([len(video) > 0 for video in videos], dtype=torch.bool)
        return RewardOutput((scored & (sure >= self.config.threshold)).float(), scored, probability=sure.float())

    def score_on_demand(self, footage: Footage, instructions: Sequence[str]) -> RewardOutput:
        """Score as `score` does, from few frames; the probability is left out.

        Scores the frames that are decoded already first. Frames between two of these that are clearly not done count as
        not done too, so that a task that is done and undone in between is missed. Of the other frames it decodes about
        one in `min_consecutive`.
        """
        run, words = self.config.min_consecutive, [hash_words(text, self.config.words) for text in instructions]
        low = self.config.clearly_not * self.config.threshold
        counted: list[dict[int, bool]] = [{} for _ in words]
        wanted = [sorted(decoded) if low else [] for decoded in footage.decoded]
        while True:
            chosen = [video for video, numbers in enumerate(wanted) for _ in numbers]
            if chosen:
                frames = torch.cat(list(footage.look(wanted)))
                # compared in float64, as `score` does
                each = self._probabilities(frames, torch.stack([words[video] for video in chosen])).double()
                found = each.split([len(numbers) for numbers in wanted])
                for known, numbers, sure in zip(counted, wanted, found, strict=True):
                    known |= dict(zip(numbers, (sure >= self.config.threshold).tolist(), strict=True))
                    known |= dict.fromkeys(between(numbers, (sure < low).tolist()), False)
            videos = zip(footage.lengths, counted, footage.decoded, strict=True)
            wanted = [next_frames(length, run, known, decoded) for length, known, decoded in videos]
            if not any(wanted):
                break
        done = [has_run(known, run) for known in counted]
        return RewardOutput(torch.tensor(done).float(), torch.tensor([length > 0 for length in footage.lengths]))

    def with_threshold(self, threshold: float) -> "SuccessHead":
        """Return a head of the same weights with another threshold."""
        head = SuccessHead(replace(self.config, threshold=threshold))
        head.load_state_dict(self.state_dict())
        return head.eval()


class RelativeReward:
    """Reward a chunk with the change of the success probability, p_t - p_{t-1}; end the episode when the head says so.

    p_t is the smallest success probability of the last `min_consecutive` frames, so a single odd frame earns nothing.
    Over an episode the rewards add up to p at its end minus p at its start.
    """

    when: Literal["chunk", "end"] = "chunk"
    stride = 1

    def __init__(self, head: SuccessHead, *, chunk: int = 8) -> None:
        """Wrap a head that scores after every `chunk` frames, those of one env step."""
        self.head = head
        self.chunk = require_count("chunk", chunk)
        self.max_frames = self.chunk + head.config.min_consecutive

    def score(self, videos: Sequence[UInt8[Tensor, "_ h w 3"]], instructions: Sequence[str]) -> RewardOutput:
        """Score each video by its last chunk and the frames before it; skip one without frames."""
        require_videos(videos, instructions)
        each = [self._score(video, text) for video, text in zip(videos, instructions, strict=True)]
        # in float64, since the gain is a difference of two probabilities
        gains, likely, done, scored = torch.tensor(each, dtype=torch.float64).reshape(-1, 4).unbind(1)
        return RewardOutput(gains.float(), scored.bool(), done.bool(), likely.float())

    def _score(self, video: UInt8[Tensor, "_ h w 3"], instruction: str) -> tuple[float, float, bool, bool]:
        if not len(video):
            return 0.0, 0.0, False, False
        min_consecutive, threshold = self.head.config.min_consecutive, self.head.config.threshold
        sure = consecutive_probability(self.head.probabilities(video, instruction), min_consecutive)
        now, before = float(sure[-1]), float(sure[max(0, len(sure) - 1 - self.chunk)])
        return now - before, now, bool((sure[min_consecutive - 1 :][-self.chunk :] >= threshold).any()), True


def shrink(frames: UInt8[Tensor, "b h w 3"], size: int) -> Float[Tensor, "b 3 s s"]:
    """Average frames down to `size` pixels a side and scale them to [-1, 1]."""
    images = frames.permute(0, 3, 1, 2).float() / 127.5 - 1
    return images if images.shape[2:] == (size, size) else F.interpolate(images, (size, size), mode="area")


def conv_block(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Build a 3x3 convolution with its normalization and activation."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, outputs), nn.SiLU())
