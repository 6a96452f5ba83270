"""Train a reward model on recorded episodes: `prophet train-reward --data DIR --out DIR`.

`--backbone head` trains the small success head; `--backbone vlm` adapts a vision-language model by low-rank matrices,
with success and failure as its two answers, as the paper does for LIBERO.
"""

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import mannwhitneyu
from torch import Tensor
from torch.nn import functional as F

from prophet_gym._arguments import (
    Arguments,
    Count,
    CountOrNone,
    Device,
    Fraction,
    Items,
    Minutes,
    OutFolder,
    Positive,
    Seed,
)
from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.progress import progress
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data._episode import Episode, LabelledVideo, held_out
from prophet_gym.data._recording import name_of, opened, refuse_official
from prophet_gym.data._stacked import is_lerobot
from prophet_gym.rewards import LikelihoodConfig, LikelihoodReward
from prophet_gym.rewards._classifier import SuccessHead, SuccessHeadConfig, best_consecutive, hash_words, shrink
from prophet_gym.rewards._vlm.local import DEFAULT_MODEL, LocalVlm, peft_is_behind
from prophet_gym.train._fit import CosineConfig, fit
from prophet_gym.train._robot import read_recorded, shape_of
from prophet_gym.train._run_folder import run_lock

_TARGETS = r".*(?<!visual)\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(gate_proj|up_proj|down_proj))"
"""Attention and MLP matrices of the language model; the vision encoder stays as it is."""
Recorded = Path | Episode
"""An episode, or the file of one."""
_RECALL = 0.95
"""A policy in training looks for what is rewarded wrongly, so what this recall leaves open goes to precision."""
_MIN_CONSECUTIVE = 3  # frames that must show success in a row before a video counts as done


@dataclass(frozen=True)
class Args(Arguments):
    """Train a reward model on recordings: a success head, or adapters (LoRA) of a vision-language model."""

    data: tuple[Path, ...]
    """Recordings of `prophet collect` or `prophrl record`, or LeRobot data sets that say when a task is done, as
    `lerobot:FOLDER`."""
    out: OutFolder  # Folder for the reward model and its metrics.
    backbone: Literal["head", "vlm"] = "head"
    """`head` (a small network on single frames) or `vlm` (adapters of a vision-language model)."""
    dreams: tuple[Path, ...] = ()  # Recordings of dreams, labelled with the simulator's outcome of the same actions.
    minutes: Minutes = 60.0  # Maximum minutes of training; reading is not counted.
    steps: Count = 3000  # Maximum number of optimizer steps.
    batch_size: Items = 64  # Number of frames (head) or videos (vlm) per step.
    learning_rate: Positive | None = None  # Peak learning rate; the backbone's own by default.
    held_out: Fraction = 0.2  # Fraction of the episodes kept for validation; half of them choose the threshold.
    max_episodes: Count = 600  # Maximum number of episodes to read of each recording.
    without: tuple[str, ...] = ()  # Episodes to leave out, for example `task_03/episode_00007`.
    image_size: Items = 64  # Height and width, in pixels, that images are scaled down to (head).
    model: str = DEFAULT_MODEL  # Vision-language model: a Hub repository or a folder (vlm).
    lora_rank: CountOrNone = 16  # Rank of the LoRA adapters (vlm).
    world_model: str | None = None
    """Checkpoint whose cameras, at whose size, to read of LeRobot data sets, by default the first camera of each;
    episodes that its training kept out are kept from this one too."""
    stride: Count = 5  # Show the model every n-th frame (vlm).
    shown: Count = 16  # Maximum number of frames to show the model (vlm).
    device: Device = "cpu"  # Device to train on the model (vlm).
    dtype: str = "auto"  # Precision of the model: `auto`, `float32`, `bfloat16` or `float16` (vlm).
    seed: Seed = 0  # Seed of weights and batches.


@dataclass(frozen=True)
class Clip:
    """Hold a video that ends where the task is done, or is not."""

    frames: Tensor
    instruction: str
    done: bool


def main(args: Args) -> dict[str, Any]:
    """Train a reward model, choose its threshold, measure it on episodes that neither saw, and write it all."""
    for folder in (*args.data, *args.dreams):
        if not is_lerobot(folder):
            refuse_official(folder)
    with run_lock(args.out):
        reward_model, metrics = _train_head(args) if args.backbone == "head" else _train_vlm(args)
        reward_model.save_pretrained(args.out)
        atomic_write(args.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))
    print(f'wrote {args.out}\n  prophet calibrate --reward {args.out}\n  gym.make(..., reward="{args.out}")')
    return metrics


def _train_head(args: Args) -> tuple[SuccessHead, dict[str, Any]]:
    recorded, dreams = _split(args)
    groups = {"held_out": recorded} | ({"held_out_dreams": dreams} if args.dreams else {})
    for folders, parts in zip((args.data, args.dreams), groups.values(), strict=False):
        _require_parts(args, folders, parts)
    tune = read_videos(groups["held_out"]["tune"], size=args.image_size, all_frames=True)
    require_success([bool(video.success.any()) for video in tune], args.held_out)
    paths = [path for parts in groups.values() for path in parts["train"]]
    train = read_videos(paths, size=args.image_size, all_frames=False)
    schedule = CosineConfig(args.steps, args.learning_rate or 2e-3, minutes=args.minutes, seed=args.seed)
    config = SuccessHeadConfig(image_size=args.image_size)
    head = train_success_head(train, config, schedule, batch=args.batch_size)
    head = head.with_threshold(choose_threshold(head, tune))
    metrics: dict[str, Any] = {
        "train_episodes": len(train),
        "config": asdict(head.config),
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
    }
    for name, parts in groups.items():
        metrics[name] = evaluate(head, read_videos(parts["test"], size=args.image_size, all_frames=True))
    return head, metrics


def _train_vlm(args: Args) -> tuple[LikelihoodReward, dict[str, Any]]:
    parts, dreamt = _split(args)
    _require_parts(args, args.data, parts)
    groups = {name: read_videos(paths, size=None, all_frames=True) for name, paths in parts.items()}
    groups["train"] += read_videos(dreamt["train"], size=None, all_frames=True)
    tune = _ends(groups["tune"], args.stride)
    require_success([clip.done for clip in tune], args.held_out)
    model = LocalVlm.from_pretrained(args.model, device=args.device, dtype=args.dtype, batch=args.batch_size)
    add_adapters(model, args.lora_rank, args.seed)
    config = LikelihoodConfig(base=args.model, when="chunk", stride=args.stride, shown=args.shown)
    reward_model = LikelihoodReward(model, config)
    schedule = CosineConfig(
        args.steps, args.learning_rate or 1e-4, weight_decay=0.0, clip=1.0, minutes=args.minutes, seed=args.seed
    )
    draw = lambda generator: cut(generator.choice(groups["train"]), args.stride, generator)  # noqa: E731
    train_adapters(reward_model, draw, schedule, batch=args.batch_size)
    threshold = threshold_of(_likely(reward_model, tune)[[clip.done for clip in tune]])
    reward_model = LikelihoodReward(model, replace(config, threshold=threshold))
    metrics = {
        "train_episodes": len(groups["train"]),
        "parameters": sum(p.numel() for p in model.model.parameters() if p.requires_grad),
        "held_out": measure(reward_model, _ends(groups["test"], args.stride)),
    }
    return reward_model, metrics


def _split(args: Args) -> tuple[dict[str, list[Recorded]], dict[str, list[Recorded]]]:
    """Return the episodes of the recordings and those of the dreams by part."""
    shape = ((), None) if args.world_model is None else shape_of(Checkpoint.named(args.world_model))
    every, kept = read_recorded([*args.data, *args.dreams], args.max_episodes, args.without, shape), _kept(args)
    recorded, dreams = every[: len(args.data)], every[len(args.data) :]
    return split(chain(*recorded), args.held_out, kept), split(chain(*dreams), args.held_out, kept)


def _kept(args: Args) -> float:
    """Return the share of episodes that the training of the world model kept out."""
    told = None if args.world_model is None else Checkpoint.named(args.world_model).config.get("held_out")
    return 0.0 if told is None else 1 / told


def _require_parts(args: Args, folders: Sequence[Path], parts: Mapping[str, list[Recorded]]) -> None:
    if all(parts.values()):
        return
    every, kept = [*chain(*parts.values())], _kept(args)
    sizes = ", ".join(f"{len(found)} {part}" for part, found in parts.items())
    # Checksums of names sort them, so a share is tried; and with so many, 19 times of 20, no part is empty.
    enough = next((n / 20 for n in range(1, 20) if all(split(every, n / 20, kept).values())), None)
    usual = math.ceil(math.log(0.05) / math.log(1 - (args.held_out or 0.2) / 2))
    raise ValueError(
        f"{', '.join(map(str, folders))} has too few episodes to split: by their names, --held-out {args.held_out:g} "
        f"makes {sizes} of {len(every)}, and each part needs one. "
        + (f"Give --held-out {enough:g}, or" if enough else "No --held-out can do it:")
        + f" record more, about {max(3, usual)} in all"
    )


def add_adapters(model: LocalVlm, rank: int, seed: int = 0) -> None:
    """Put trainable low-rank matrices into the language model and freeze the rest; the first output is unchanged."""
    if rank < 1:
        raise ValueError(f"the rank of an adapter must be at least 1, got {rank}")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_TARGETS)
    network: Any = model.model
    with torch.random.fork_rng(devices=[]), peft_is_behind():
        torch.manual_seed(seed)
        model.model = get_peft_model(network, config)


def train_adapters(
    reward_model: LikelihoodReward, draw: Callable[[random.Random], Clip], schedule: CosineConfig, *, batch: int
) -> None:
    """Train whatever requires gradients in a reward model's network: cross-entropy between the two answers.

    Half of each batch ends in success, half does not; clips are drawn until both kinds are there.
    """
    generator, network = random.Random(schedule.seed), reward_model.model.model

    def loss(_model: object, _step: int, _generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        clips = _balanced(draw, generator, batch)
        odds = reward_model.log_odds([clip.frames for clip in clips], [clip.instruction for clip in clips])
        labels = torch.tensor([float(clip.done) for clip in clips]).to(odds)
        return F.binary_cross_entropy_with_logits(odds, labels), {}

    network.train()
    fit(network, loss, schedule, name="adapters")
    network.eval()


def _balanced(draw: Callable[[random.Random], Clip], generator: random.Random, batch: int) -> list[Clip]:
    kinds: dict[bool, list[Clip]] = {True: [], False: []}
    share = max(1, batch // 2)
    # Rejection keeps the recording's own mix within each kind; the limit ends it where one kind is missing.
    for _ in range(200 * share):
        clip = draw(generator)
        if len(kinds[clip.done]) < share:
            kinds[clip.done].append(clip)
        if all(len(clips) == share for clips in kinds.values()):
            return kinds[True] + kinds[False]
    found = f"{len(kinds[True])} and {len(kinds[False])} of each {share} wanted"
    raise ValueError(f"need videos that end in success and in failure, got {found}")


def cut(video: LabelledVideo, stride: int, generator: random.Random) -> Clip:
    """Cut a video at a drawn moment and thin it by `stride`; done means that its last three frames succeed."""
    return clip_at(video, generator.randrange(1, len(video.frames)), stride)


def clip_at(video: LabelledVideo, end: int, stride: int) -> Clip:
    """Return the video up to frame `end`: every stride-th frame and the last, as an env shows it to a reward model."""
    places = sorted({*range(0, end + 1, stride), end})
    done = bool(video.success[max(0, end + 1 - _MIN_CONSECUTIVE) : end + 1].all())
    return Clip(torch.from_numpy(video.frames[places]), video.instruction, done)


def measure(reward_model: LikelihoodReward, clips: Sequence[Clip]) -> dict[str, int | float]:
    """Return AUROC, precision and recall over clips."""
    likely, labels = _likely(reward_model, clips), np.array([clip.done for clip in clips])
    counts = {"clips": len(clips), "successful_clips": int(labels.sum())}
    return counts | quality(likely, labels, reward_model.config.threshold)


def _likely(reward_model: LikelihoodReward, clips: Sequence[Clip]) -> np.ndarray:
    output = reward_model.score([clip.frames for clip in clips], [clip.instruction for clip in clips])
    assert output.probability is not None
    return output.probability.double().numpy()


def _ends(videos: Sequence[LabelledVideo], stride: int) -> list[Clip]:
    """Cut each video at its end and at its middle."""
    return [clip_at(v, end, stride) for v in videos for end in (len(v.frames) - 1, len(v.frames) // 2)]


def split(recorded: Iterable[Recorded], share: float, kept: float = 0.0) -> dict[str, list[Recorded]]:
    """Sort episodes into `train`, `tune` and `test`: half of what is held out tests, half tunes.

    An episode and its dream, which have one name, fall into the same part. `kept` is the share that a world model's
    training kept out: `prophet calibrate` measures on it, so none of it trains.
    """
    parts: dict[str, list[Recorded]] = {"train": [], "tune": [], "test": []}
    for each in recorded:
        name = name_of(each)
        part = "test" if held_out(name, share / 2) else "tune" if held_out(name, share) else "train"
        parts["test" if part == "train" and held_out(name, kept) else part].append(each)
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


def require_success(done: Sequence[bool], share: float) -> None:
    """Raise ValueError unless something that chooses the threshold is successful; asked before the training."""
    if not any(done):
        raise ValueError(
            f"no success among the {len(done)} held-out videos that choose the threshold: record more episodes that "
            f"succeed, or give --held-out above {share:g}"
        )


def threshold_of(successes: Float[np.ndarray, " n"]) -> float:
    """Return the highest threshold that finds 95% of the successes, given their predicted probabilities."""
    # The small number makes (1 - 0.95) * 20 one miss, not 0.999 of one.
    missed = int((1 - _RECALL) * len(successes) + 1e-9)
    return float(np.sort(successes)[missed])


def read_videos(recorded: Sequence[Recorded], *, size: int | None, all_frames: bool) -> list[LabelledVideo]:
    """Read episodes; with `size`, frames are averaged down, and without `all_frames` they are thinned."""
    videos = []
    for each in progress(recorded, "reading", unit="episode"):
        episode = opened(each)
        keep = list(range(len(episode) + 1)) if all_frames else thin(episode.done)
        frames = torch.from_numpy(episode.frames()[keep])
        if size is not None:
            frames = shrink(frames, size).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        videos.append(LabelledVideo(frames.contiguous().numpy(), episode.done[keep], episode.instruction))
    return videos
