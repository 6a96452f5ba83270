"""The success head: which frames it learns from, how they are varied, its threshold and its scores."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from prophet_gym.data._episode import LabelledVideo, held_out
from prophet_gym.data._recording import name_of, read_episode
from prophet_gym.rewards._classifier import SuccessHead, SuccessHeadConfig, best_consecutive, hash_words, shrink
from prophet_gym.train._fit import CosineConfig, fit

_RECALL = 0.95
"""A policy in training looks for what is rewarded wrongly, so what this recall leaves open goes to precision."""


def split(paths: Iterable[Path], share: float) -> dict[str, list[Path]]:
    """Sort episodes into `train`, `tune` and `test`: half of what is held out tests, half tunes.

    An episode and its dream, which have one name, fall into the same part.
    """
    parts: dict[str, list[Path]] = {"train": [], "tune": [], "test": []}
    for path in paths:
        kept = "tune" if held_out(name_of(path), share) else "train"
        parts["test" if held_out(name_of(path), share / 2) else kept].append(path)
    return parts


def thin(success: Bool[np.ndarray, " t"], stride: int = 4, margin: int = 12) -> list[int]:
    """List the frames worth training on: every stride-th, and all within `margin` of a change of the label."""
    changes = np.flatnonzero(success[1:] != success[:-1])
    near = {int(change + offset) for change in changes for offset in range(-margin, margin + 1)}
    return [frame for frame in range(len(success)) if frame % stride == 0 or frame in near]


def augment(images: Float[Tensor, "b 3 s s"], generator: torch.Generator) -> Float[Tensor, "b 3 s s"]:
    """Shift each image by up to 3 pixels, make it brighter or darker by up to 15%, and sometimes blur it."""
    rows, _, height, width = images.shape
    shifts = torch.randint(-3, 4, (rows, 2), generator=generator)
    down = (torch.arange(height) + shifts[:, :1]).clamp(0, height - 1)
    across = (torch.arange(width) + shifts[:, 1:]).clamp(0, width - 1)
    index = torch.arange(rows)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[index, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)
    gain = 1 + 0.15 * (2 * torch.rand(rows, 1, 1, 1, generator=generator) - 1)
    blurred = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = torch.rand(rows, 1, 1, 1, generator=generator).mul(2).sub(1).clamp(min=0)
    return ((moved + blur * (blurred - moved) + 1) * gain - 1).clamp(-1, 1)


def train_success_head(
    videos: Sequence[LabelledVideo], config: SuccessHeadConfig, schedule: CosineConfig, *, batch: int = 64
) -> SuccessHead:
    """Fit a head to labelled videos; half of each batch is success, half is not, tasks as they come."""
    labels = torch.from_numpy(np.concatenate([video.success for video in videos]))
    if not labels.any() or labels.all():
        raise ValueError(f"need frames of success and of failure, got {int(labels.sum())} of {len(labels)} successes")
    frames = torch.from_numpy(np.concatenate([video.frames for video in videos]))
    words = torch.cat([hash_words(v.instruction, config.words).expand(len(v.success), -1) for v in videos])
    pools = (labels.nonzero()[:, 0], (~labels).nonzero()[:, 0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        head = SuccessHead(config)
    generator = torch.Generator().manual_seed(schedule.seed)

    def loss(head: SuccessHead, _step: int, _generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.cat([pool[torch.randint(len(pool), (batch // 2,), generator=generator)] for pool in pools])
        # The head reads frames as an env gives them, so what was varied is rounded to bytes again.
        images = augment(shrink(frames[chosen], config.image_size), generator)
        as_frames = images.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return F.binary_cross_entropy_with_logits(head(as_frames, words[chosen]), labels[chosen].float()), {}

    fit(head, loss, schedule, name="success head")
    return head.eval()


def auroc(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Return the area under the ROC curve: how often a success scores above a failure, ties counting half."""
    if labels.all() or not labels.any():
        return float("nan")
    above = mannwhitneyu(scores[labels], scores[~labels], method="asymptotic").statistic
    return float(above / labels.sum() / (~labels).sum())


def quality(
    scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], threshold: float, prefix: str = ""
) -> dict[str, float]:
    """Return AUROC, and precision and recall at a threshold: 0.0 where nothing is predicted or there to find."""
    predicted = scores >= threshold
    hits = float((predicted & labels).sum())
    precision, recall = (hits / max(1.0, float(found.sum())) for found in (predicted, labels))
    return {f"{prefix}auroc": auroc(scores, labels), f"{prefix}precision": precision, f"{prefix}recall": recall}


def evaluate(head: SuccessHead, videos: Sequence[LabelledVideo]) -> dict[str, int | float]:
    """Return AUROC, precision and recall by frame and by episode, which scores as its best run of frames."""
    scores, best = _scored(head, videos)
    frames, labels = np.concatenate(scores), np.concatenate([v.success for v in videos])
    episodes = np.array([v.success.any() for v in videos])
    return {
        "episodes": len(videos),
        "successful_episodes": int(episodes.sum()),
        "frames": len(frames),
        **quality(frames, labels, head.config.threshold, "frame_"),
        **quality(best, episodes, head.config.threshold, "episode_"),
    }


def choose_threshold(head: SuccessHead, videos: Sequence[LabelledVideo]) -> float:
    """Return the highest threshold that still finds 95% of the successful episodes."""
    return threshold_of(_scored(head, [video for video in videos if video.success.any()])[1])


def _scored(head: SuccessHead, videos: Sequence[LabelledVideo]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return each frame's probability of each video, and that of the video's best run of frames."""
    scores = [head.probabilities(torch.from_numpy(video.frames), video.instruction) for video in videos]
    best = [best_consecutive(score, head.config.min_consecutive) for score in scores]
    return [score.numpy() for score in scores], np.array(best)


def require_success(done: Sequence[bool]) -> None:
    """Raise ValueError unless something that chooses the threshold is successful; asked before the training."""
    if not any(done):
        found = f"no success among the {len(done)} held-out videos that choose the threshold"
        raise ValueError(f"{found}: record more, or raise held_out")


def threshold_of(successes: Float[np.ndarray, " n"]) -> float:
    """Return the highest threshold that finds 95% of the successes, given their predicted probabilities."""
    # The small number makes (1 - 0.95) * 20 one miss, not 0.999 of one.
    missed = int((1 - _RECALL) * len(successes) + 1e-9)
    return float(np.sort(successes)[missed])


def read_videos(paths: Sequence[Path], *, size: int | None, all_frames: bool) -> list[LabelledVideo]:
    """Read episodes; with `size`, frames are averaged down, and without `all_frames` they are thinned."""
    videos = []
    for path in tqdm(paths, desc="reading", mininterval=1.0):
        episode = read_episode(path)
        keep = list(range(len(episode) + 1)) if all_frames else thin(episode.sim.success)
        frames = torch.from_numpy(episode.frames()[keep])
        if size is not None:
            frames = shrink(frames, size).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        videos.append(LabelledVideo(frames.contiguous().numpy(), episode.sim.success[keep], episode.instruction))
    return videos
