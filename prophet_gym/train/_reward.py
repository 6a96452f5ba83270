"""Train a reward model on recorded episodes: `prophet train-reward --data DIR --out DIR`.

`--backbone head` trains the small success head; `--backbone vlm` adapts a vision-language model by low-rank matrices,
with success and failure as its two answers, as the paper does for LIBERO.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
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
from prophet_gym.data._episode import LabelledVideo
from prophet_gym.data._recording import list_recordings, refuse_official
from prophet_gym.rewards import LikelihoodConfig, LikelihoodReward
from prophet_gym.rewards._classifier import SuccessHead, SuccessHeadConfig
from prophet_gym.rewards._vlm.local import DEFAULT_MODEL, LocalVlm, peft_is_behind
from prophet_gym.train import _success as success
from prophet_gym.train._fit import CosineConfig, fit
from prophet_gym.train._run_folder import run_lock
from prophet_gym.train._success import read_videos

_TARGETS = r".*(?<!visual)\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(gate_proj|up_proj|down_proj))"
"""Attention and MLP matrices of the language model; the vision encoder stays as it is."""
_MIN_CONSECUTIVE = 3  # frames that must show success in a row before a video counts as done


@dataclass(frozen=True)
class Args(Arguments):
    """Train a reward model on recordings."""

    data: tuple[Path, ...]  # Folders of recordings.
    out: OutFolder  # Folder for the reward model and its metrics.
    backbone: Literal["head", "vlm"] = "head"
    """`head` (a small network on single frames) or `vlm` (adapters of a vision-language model)."""
    dreams: tuple[Path, ...] = ()  # Recordings of dreams, labelled with the simulator's outcome of the same actions.
    minutes: Minutes = 60.0  # Time for the optimizer, reading not counted.
    steps: Count = 3000  # Most optimizer steps.
    batch_size: Items = 64  # Frames per step (head), videos per step (vlm).
    learning_rate: Positive | None = None  # Peak; the backbone's own choice if not given.
    held_out: Fraction = 0.2  # Share of the episodes that is never trained on; half of them help to pick the threshold.
    max_episodes: Count = 600  # Read at most so many episodes of each recording.
    without: tuple[str, ...] = ()  # Episodes to leave out, e.g. `task_03/episode_00007`.
    image_size: Items = 64  # Images are averaged down to this (head).
    model: str = DEFAULT_MODEL  # A Hub id or folder (vlm).
    lora_rank: CountOrNone = 16  # Of the adapters (vlm).
    stride: Count = 5  # The model is shown every so many frames (vlm).
    shown: Count = 16  # The most frames that the model is shown (vlm).
    device: Device = "cpu"  # Where the model is trained (vlm).
    dtype: str = "auto"  # `auto`, `float32`, `bfloat16` or `float16` (vlm).
    seed: Seed = 0  # Of weights and batches.


@dataclass(frozen=True)
class Clip:
    """Hold a video that ends where the task is done, or is not."""

    frames: torch.Tensor
    instruction: str
    done: bool


def main(args: Args) -> dict[str, Any]:
    """Train a reward model, choose its threshold, measure it on episodes that neither saw, and write it all."""
    for folder in (*args.data, *args.dreams):
        refuse_official(folder)
    with run_lock(args.out):
        reward_model, metrics = _train_head(args) if args.backbone == "head" else _train_vlm(args)
        reward_model.save_pretrained(args.out)
        atomic_write(args.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))
    return metrics


def _train_head(args: Args) -> tuple[SuccessHead, dict[str, Any]]:
    recorded, dreams = _split(args)
    groups = {"held_out": recorded} | ({"held_out_dreams": dreams} if args.dreams else {})
    for folders, parts in zip((args.data, args.dreams), groups.values(), strict=False):
        _require_parts(folders, parts)
    tune = read_videos(groups["held_out"]["tune"], size=args.image_size, all_frames=True)
    success.require_success([bool(video.success.any()) for video in tune])
    paths = [path for parts in groups.values() for path in parts["train"]]
    train = read_videos(paths, size=args.image_size, all_frames=False)
    schedule = CosineConfig(args.steps, args.learning_rate or 2e-3, minutes=args.minutes, seed=args.seed)
    config = SuccessHeadConfig(image_size=args.image_size)
    head = success.train_success_head(train, config, schedule, batch=args.batch_size)
    head = head.with_threshold(success.choose_threshold(head, tune))
    metrics: dict[str, Any] = {
        "train_episodes": len(train),
        "config": asdict(head.config),
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
    }
    for name, parts in groups.items():
        metrics[name] = success.evaluate(head, read_videos(parts["test"], size=args.image_size, all_frames=True))
    return head, metrics


def _train_vlm(args: Args) -> tuple[LikelihoodReward, dict[str, Any]]:
    parts, dreamt = _split(args)
    _require_parts(args.data, parts)
    groups = {name: read_videos(paths, size=None, all_frames=True) for name, paths in parts.items()}
    groups["train"] += read_videos(dreamt["train"], size=None, all_frames=True)
    tune = _ends(groups["tune"], args.stride)
    success.require_success([clip.done for clip in tune])
    model = LocalVlm.from_pretrained(args.model, device=args.device, dtype=args.dtype, batch=args.batch_size)
    add_adapters(model, args.lora_rank, args.seed)
    config = LikelihoodConfig(base=args.model, when="chunk", stride=args.stride, shown=args.shown)
    reward_model = LikelihoodReward(model, config)
    schedule = CosineConfig(
        args.steps, args.learning_rate or 1e-4, weight_decay=0.0, clip=1.0, minutes=args.minutes, seed=args.seed
    )
    draw = lambda generator: cut(generator.choice(groups["train"]), args.stride, generator)  # noqa: E731
    train_adapters(reward_model, draw, schedule, batch=args.batch_size)
    threshold = success.threshold_of(_likely(reward_model, tune)[[clip.done for clip in tune]])
    reward_model = LikelihoodReward(model, replace(config, threshold=threshold))
    metrics = {
        "train_episodes": len(groups["train"]),
        "parameters": sum(p.numel() for p in model.model.parameters() if p.requires_grad),
        "held_out": measure(reward_model, _ends(groups["test"], args.stride)),
    }
    return reward_model, metrics


def _split(args: Args) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Return the episodes of the recordings and those of the dreams by part."""
    every = list_recordings([*args.data, *args.dreams], most=args.max_episodes, without=args.without)
    recorded, dreams = every[: len(args.data)], every[len(args.data) :]
    return success.split(chain(*recorded), args.held_out), success.split(chain(*dreams), args.held_out)


def _require_parts(folders: Sequence[Path], parts: Mapping[str, list[Path]]) -> None:
    if not all(parts.values()):
        sizes = {part: len(paths) for part, paths in parts.items()}
        where = ", ".join(map(str, folders))
        raise ValueError(f"{where} has too few episodes to split: {sizes}; record more, or raise held_out")


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

    def loss(_model: object, _step: int, _generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
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
    return counts | success.quality(likely, labels, reward_model.config.threshold)


def _likely(reward_model: LikelihoodReward, clips: Sequence[Clip]) -> np.ndarray:
    output = reward_model.score([clip.frames for clip in clips], [clip.instruction for clip in clips])
    assert output.probability is not None
    return output.probability.double().numpy()


def _ends(videos: Sequence[LabelledVideo], stride: int) -> list[Clip]:
    """Cut each video at its end and at its middle."""
    return [clip_at(v, end, stride) for v in videos for end in (len(v.frames) - 1, len(v.frames) // 2)]
