"""Train the success head on recorded episodes: `prophet train-reward --data DIR --out DIR`."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from prophet_gym._io.atomic import atomic_write
from prophet_gym.arguments import Arguments, Count, Fraction, Items, Minutes, OutFolder, Positive, Seed
from prophet_gym.data.recording import list_recordings, read_episode
from prophet_gym.rewards._classifier import SuccessHead, SuccessHeadConfig, hash_words, shrink

METRICS_NAME = "metrics.json"


@dataclass(frozen=True)
class LabelledVideo:
    """Frames with the simulator's verdict on each."""

    frames: UInt8[np.ndarray, "t h w 3"]
    success: Bool[np.ndarray, " t"]
    instruction: str


@dataclass(frozen=True)
class Args(Arguments):
    """Train a success head on a recording.

    Attributes:
        data: Folders of recordings.
        out: Folder for weights, config and metrics.
        dreams: Recordings of dreams (`prophet redream`) to train on as well; recorded episodes choose the threshold.
        minutes: Time for the optimizer, reading not counted.
        steps: Most optimizer steps.
        batch: Frames per step.
        learning_rate: Peak of a cosine schedule.
        held_out: Share of the episodes that is never trained on; half of them help to pick the threshold.
        recall: Share of the successful episodes that the threshold must find.
        max_episodes: Read at most so many episodes of each recording.
        without: Episodes to leave out, e.g. `task_03/episode_00007`.
        image_size: Pictures are averaged down to this.
        width: Channels of the first convolution.
        seed: Seed of weights and batches.
    """

    data: tuple[Path, ...]
    out: OutFolder
    dreams: tuple[Path, ...] = ()
    minutes: Minutes = 60.0
    steps: Count = 3000
    batch: Items = 64
    learning_rate: Positive = 2e-3
    held_out: Fraction = 0.2
    recall: Fraction = 0.95
    max_episodes: Count = 600
    without: tuple[str, ...] = ()
    image_size: Items = 64
    width: Items = 16
    seed: Seed = 0


def split_of(name: str, held_out: float) -> str:
    """`train`, `tune` or `test` by the name of an episode, the same on every machine."""
    place = crc32(name.encode()) / 2**32
    if place < held_out / 2:
        return "test"
    return "tune" if place < held_out else "train"


def split(paths: Sequence[Path], held_out: float) -> dict[str, list[Path]]:
    """Episodes by part; an episode and its dream, which have one name, fall into the same."""
    parts: dict[str, list[Path]] = {"train": [], "tune": [], "test": []}
    for path in paths:
        parts[split_of(f"{path.parent.name}/{path.stem}", held_out)].append(path)
    return parts


def thin(success: Bool[np.ndarray, " t"], stride: int = 4, margin: int = 12) -> list[int]:
    """Frames worth training on: every stride-th, and all within `margin` of a change of the label."""
    changes = np.flatnonzero(success[1:] != success[:-1])
    near = {int(change + offset) for change in changes for offset in range(-margin, margin + 1)}
    return [frame for frame in range(len(success)) if frame % stride == 0 or frame in near]


def augment(images: Float[Tensor, "b 3 s s"], generator: torch.Generator) -> Float[Tensor, "b 3 s s"]:
    """Each picture shifted by up to 3 pixels, brighter or darker by up to 15%, and sometimes blurred."""
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
    videos: Sequence[LabelledVideo],
    config: SuccessHeadConfig,
    *,
    steps: int,
    batch: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    seconds: float = float("inf"),
) -> SuccessHead:
    """Fit a head to labelled videos; half of each batch is success, half is not, tasks as they come.

    Stops after `steps` or `seconds`, with the learning rate's cosine following whichever is nearer its end.

    Raises:
        ValueError: If no frame shows success, or every frame does.
    """
    labels = torch.from_numpy(np.concatenate([video.success for video in videos]))
    if not labels.any() or labels.all():
        raise ValueError(f"need frames of success and of failure, got {int(labels.sum())} of {len(labels)} successes")
    frames = torch.from_numpy(np.concatenate([video.frames for video in videos]))
    words = torch.cat([hash_words(v.instruction, config.words).expand(len(v.success), -1) for v in videos])
    pools = (labels.nonzero()[:, 0], (~labels).nonzero()[:, 0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = SuccessHead(config)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=1e-2)
    began = time.monotonic()
    bar = tqdm(range(steps), desc="success head", mininterval=1.0)
    for step in bar:
        progress = max(step / steps, (time.monotonic() - began) / seconds)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + np.cos(np.pi * progress))
        chosen = torch.cat([pool[torch.randint(len(pool), (batch // 2,), generator=generator)] for pool in pools])
        images = augment(shrink(frames[chosen], config.image_size), generator)
        as_frames = images.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        loss = F.binary_cross_entropy_with_logits(head(as_frames, words[chosen]), labels[chosen].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
    return head.eval()


def auroc(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: how often a success scores above a failure, ties counting half."""
    positives, negatives = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(positives) or not len(negatives):
        return float("nan")
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float(below.mean() / 2 / len(negatives))


def precision_recall(predicted: Bool[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Precision and recall, 0.0 where nothing was predicted or nothing was there to find."""
    hits = float((predicted & labels).sum())
    return hits / max(1.0, float(predicted.sum())), hits / max(1.0, float(labels.sum()))


def evaluate(head: SuccessHead, videos: Sequence[LabelledVideo]) -> dict[str, int | float]:
    """AUROC, precision and recall by frame and by episode (an episode scores its best held frame run)."""
    scores = [head.probabilities(torch.from_numpy(v.frames), v.instruction).numpy() for v in videos]
    frames, labels = np.concatenate(scores), np.concatenate([v.success for v in videos])
    episodes = np.array([v.success.any() for v in videos])
    best = np.array([_best_consecutive(score, head.config.min_consecutive) for score in scores])
    threshold = head.config.threshold
    called = best >= threshold
    frame_precision, frame_recall = precision_recall(frames >= threshold, labels)
    precision, recall = precision_recall(called, episodes)
    return {
        "episodes": len(videos),
        "successful_episodes": int(episodes.sum()),
        "frames": len(frames),
        "frame_auroc": auroc(frames, labels),
        "frame_precision": frame_precision,
        "frame_recall": frame_recall,
        "episode_auroc": auroc(best, episodes),
        "episode_precision": precision,
        "episode_recall": recall,
    }


def choose_threshold(head: SuccessHead, videos: Sequence[LabelledVideo], recall: float = 0.95) -> float:
    """The highest threshold that still finds this share of the successful episodes."""
    require_success([bool(video.success.any()) for video in videos])
    scores = [head.probabilities(torch.from_numpy(v.frames), v.instruction).numpy() for v in videos if v.success.any()]
    return threshold_of(np.array([_best_consecutive(score, head.config.min_consecutive) for score in scores]), recall)


def require_success(done: Sequence[bool]) -> None:
    """ValueError unless something that chooses the threshold is successful; asked before the training."""
    if not any(done):
        raise ValueError(
            f"no success among the {len(done)} held-out videos that choose the threshold: "
            "record more, or raise held_out"
        )


def threshold_of(successes: Float[np.ndarray, " n"], recall: float) -> float:
    """The highest threshold that finds this share of the successes, given how likely a judge says each is.

    A policy in training looks for what is rewarded wrongly, so what recall leaves open goes to precision.

    Raises:
        ValueError: `recall` is not in (0, 1].

    Example:
        >>> threshold_of(np.array([0.2, 0.9, 0.8, 0.7]), 0.75)
        0.7
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1, got {recall}")
    missed = int((1 - recall) * len(successes) + 1e-9)
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


def main(args: Args) -> dict[str, object]:
    """Read, train, choose a threshold, evaluate on episodes that neither saw, write."""
    recordings = {"held_out": args.data} | ({"held_out_dreams": args.dreams} if args.dreams else {})
    every = list_recordings([*args.data, *args.dreams], most=args.max_episodes, without=args.without)
    listed = {"held_out": every[: len(args.data)], "held_out_dreams": every[len(args.data) :]}
    groups = {name: split([path for paths in listed[name] for path in paths], args.held_out) for name in recordings}
    for name, parts in groups.items():
        if not all(parts.values()):
            sizes = {part: len(paths) for part, paths in parts.items()}
            where = ", ".join(map(str, recordings[name]))
            raise ValueError(f"{where} has too few episodes to split: {sizes}; add some, or raise held_out")

    tune = read_videos(groups["held_out"]["tune"], size=args.image_size, all_frames=True)
    require_success([bool(video.success.any()) for video in tune])
    paths = [path for parts in groups.values() for path in parts["train"]]
    train = read_videos(paths, size=args.image_size, all_frames=False)
    head = train_success_head(
        train,
        SuccessHeadConfig(image_size=args.image_size, width=args.width),
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        seed=args.seed,
        seconds=60 * args.minutes,
    )
    head = head.with_threshold(choose_threshold(head, tune, args.recall))
    metrics: dict[str, object] = {
        "train_episodes": len(train),
        "config": asdict(head.config),
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
    }
    for name, parts in groups.items():
        metrics[name] = evaluate(head, read_videos(parts["test"], size=args.image_size, all_frames=True))
    head.save_pretrained(args.out)
    atomic_write(args.out / METRICS_NAME, json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))
    return metrics


def _best_consecutive(scores: np.ndarray, min_consecutive: int) -> float:
    if len(scores) < min_consecutive:
        return 0.0
    return float(np.lib.stride_tricks.sliding_window_view(scores, min_consecutive).min(axis=1).max())


if __name__ == "__main__":
    main(tyro.cli(Args))
