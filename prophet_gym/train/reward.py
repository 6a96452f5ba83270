"""Train a judge on recorded episodes: `prophet train-reward --data DIR --out DIR`.

`--backbone head` trains the small success head; `--backbone vlm` adapts a vision-language model by low-rank matrices,
with success and failure as its two answers, as the paper does for LIBERO.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch.nn import functional as F
from tqdm import tqdm

from prophet_gym._io.atomic import atomic_write
from prophet_gym.arguments import (
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
from prophet_gym.data.recording import list_recordings, refuse_official
from prophet_gym.rewards import LikelihoodConfig, LikelihoodReward
from prophet_gym.rewards._vlm.local import DEFAULT_MODEL, LocalVlm, peft_is_behind
from prophet_gym.train import success
from prophet_gym.train.run_folder import run_lock
from prophet_gym.train.success import METRICS_NAME, LabelledVideo, precision_recall, read_videos, split_of

TARGETS = r".*(?<!visual)\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(gate_proj|up_proj|down_proj))"
"""Attention and MLP matrices of the language model; the picture encoder stays as it is."""
MIN_CONSECUTIVE = 3


@dataclass(frozen=True)
class Args(Arguments):
    """Train a judge on a recording.

    Attributes:
        data: Folders of recordings.
        out: Folder for the judge and its metrics.
        backbone: `head` (a small network on single frames) or `vlm` (adapters of a vision-language model).
        dreams: Recordings of dreams, labelled with the simulator's outcome of the same actions.
        minutes: Time for the optimizer, reading not counted.
        steps: Most optimizer steps.
        batch: Frames per step (head), videos per step (vlm).
        learning_rate: Peak; the backbone's own choice if not given.
        held_out: Share of the episodes that is never trained on; half of them help to pick the threshold.
        max_episodes: Read at most so many episodes of each recording.
        without: Episodes to leave out, e.g. `task_03/episode_00007`.
        image_size: Pictures are averaged down to this (head).
        model: A Hub id or folder (vlm).
        lora_rank: Of the adapters (vlm).
        stride: The model is shown every so many frames (vlm).
        shown: The most frames that the model is shown (vlm).
        device: Where the model is trained (vlm).
        dtype: `auto`, `float32`, `bfloat16` or `float16` (vlm).
        seed: Of weights and batches.
    """

    data: tuple[Path, ...]
    out: OutFolder
    backbone: Literal["head", "vlm"] = "head"
    dreams: tuple[Path, ...] = ()
    minutes: Minutes = 60.0
    steps: Count = 3000
    batch: Items = 64
    learning_rate: Positive | None = None
    held_out: Fraction = 0.2
    max_episodes: Count = 600
    without: tuple[str, ...] = ()
    image_size: Items = 64
    model: str = DEFAULT_MODEL
    lora_rank: CountOrNone = 16
    stride: Count = 5
    shown: Count = 16
    device: Device = "cpu"
    dtype: str = "auto"
    seed: Seed = 0


@dataclass(frozen=True)
class Clip:
    """A video that ends where the task is done, or is not."""

    frames: torch.Tensor
    instruction: str
    done: bool


def main(args: Args) -> dict[str, Any]:
    """Run the command."""
    for folder in (*args.data, *args.dreams):
        refuse_official(folder)
    if args.backbone == "head":
        rate: dict[str, Any] = {} if args.learning_rate is None else {"learning_rate": args.learning_rate}
        names = (
            "data", "out", "dreams", "minutes", "steps", "batch", "held_out", "max_episodes", "image_size", "seed",
            "without",
        )  # fmt: skip
        given: dict[str, Any] = rate | {name: getattr(args, name) for name in names}
        with run_lock(args.out):
            return success.main(success.Args(**given))
    with run_lock(args.out):
        return _train_vlm(args)


def _train_vlm(args: Args) -> dict[str, Any]:
    groups = {name: _videos(args, name) for name in ("train", "tune", "test")}
    if not all(groups.values()):
        sizes = {name: len(group) for name, group in groups.items()}
        where = ", ".join(map(str, args.data))
        raise ValueError(f"{where} has too few episodes to split: {sizes}; record more, or raise held_out")
    tune = _ends(groups["tune"], args.stride)
    success.require_success([clip.done for clip in tune])
    model = LocalVlm.from_pretrained(args.model, device=args.device, dtype=args.dtype, batch=args.batch)
    add_adapters(model, args.lora_rank, args.seed)
    config = LikelihoodConfig(base=args.model, when="chunk", stride=args.stride, shown=args.shown)
    reward_model = LikelihoodReward(model, config)
    fit(
        reward_model,
        lambda generator: cut(generator.choice(groups["train"]), args.stride, generator),
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate or 1e-4,
        seed=args.seed,
        minutes=args.minutes,
    )
    reward_model = with_threshold(reward_model, tune)
    metrics = {
        "train_episodes": len(groups["train"]),
        "parameters": sum(p.numel() for p in model.model.parameters() if p.requires_grad),
        "held_out": measure(reward_model, _ends(groups["test"], args.stride)),
    }
    reward_model.save_pretrained(args.out)
    atomic_write(args.out / METRICS_NAME, json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))
    return metrics


def add_adapters(model: LocalVlm, rank: int, seed: int = 0) -> None:
    """Put trainable low-rank matrices into the language model and freeze the rest; the first output is unchanged.

    Raises:
        ValueError: The rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"the rank of an adapter must be at least 1, got {rank}")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=TARGETS)
    network: Any = model.model
    with torch.random.fork_rng(devices=[]), peft_is_behind():
        torch.manual_seed(seed)
        model.model = get_peft_model(network, config)


def fit(
    reward_model: LikelihoodReward,
    draw: Callable[[random.Random], Clip],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int = 0,
    minutes: float = float("inf"),
) -> None:
    """Train whatever requires gradients in a judge's model: cross-entropy between the two answers.

    Half of each batch ends in success, half does not.

    Args:
        reward_model: Trained in place.
        draw: Gives clips; asked until both kinds are there.
        steps: Most optimizer steps.
        batch: Clips per step, at least 2.
        learning_rate: Peak of a cosine schedule.
        seed: Of the clips.
        minutes: Most time.

    Raises:
        ValueError: The clips are all of one kind.
    """
    generator = random.Random(seed)
    parameters = [p for p in reward_model.model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    reward_model.model.model.train()
    began = time.monotonic()
    bar = tqdm(range(steps), desc="adapters", mininterval=1.0)
    for step in bar:
        passed = max(step / steps, (time.monotonic() - began) / (60 * minutes))
        if passed >= 1:
            break
        optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + np.cos(np.pi * passed))
        clips = _balanced(draw, generator, batch)
        odds = reward_model.log_odds([clip.frames for clip in clips], [clip.instruction for clip in clips])
        loss = F.binary_cross_entropy_with_logits(odds, torch.tensor([float(c.done) for c in clips]).to(odds))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        bar.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
    reward_model.model.model.eval()


def _balanced(draw: Callable[[random.Random], Clip], generator: random.Random, batch: int) -> list[Clip]:
    kinds: dict[bool, list[Clip]] = {True: [], False: []}
    share = max(1, batch // 2)
    for _ in range(200 * share):
        clip = draw(generator)
        if len(kinds[clip.done]) < share:
            kinds[clip.done].append(clip)
        if all(len(clips) == share for clips in kinds.values()):
            return kinds[True] + kinds[False]
    raise ValueError(
        f"need videos that end in success and in failure, got {len(kinds[True])} and {len(kinds[False])} of each "
        f"{share} wanted"
    )


def cut(video: LabelledVideo, stride: int, generator: random.Random) -> Clip:
    """A video up to a moment, thinned by `stride`; done where success was held for the last three frames."""
    return clip_at(video, generator.randrange(1, len(video.frames)), stride)


def clip_at(video: LabelledVideo, end: int, stride: int) -> Clip:
    """The video up to frame `end`: every stride-th frame and the last, as an env shows it to a judge."""
    places = sorted({*range(0, end + 1, stride), end})
    done = bool(video.success[max(0, end + 1 - MIN_CONSECUTIVE) : end + 1].all())
    return Clip(torch.from_numpy(video.frames[places]), video.instruction, done)


def with_threshold(reward_model: LikelihoodReward, clips: Sequence[Clip], recall: float = 0.95) -> LikelihoodReward:
    """The same judge with the highest threshold that finds this share of the successful clips."""
    likely = _likely(reward_model, clips)
    chosen = success.threshold_of(likely[[clip.done for clip in clips]], recall)
    return LikelihoodReward(
        reward_model.model, replace(reward_model.config, threshold=chosen), prompt=reward_model.prompt
    )


def measure(reward_model: LikelihoodReward, clips: Sequence[Clip]) -> dict[str, int | float]:
    """AUROC, precision and recall over clips."""
    likely, labels = _likely(reward_model, clips), np.array([clip.done for clip in clips])
    precision, recall = precision_recall(likely >= reward_model.config.threshold, labels)
    return {
        "clips": len(clips),
        "successful_clips": int(labels.sum()),
        "auroc": success.auroc(likely, labels),
        "precision": precision,
        "recall": recall,
    }


def _likely(reward_model: LikelihoodReward, clips: Sequence[Clip]) -> np.ndarray:
    output = reward_model.score([clip.frames for clip in clips], [clip.instruction for clip in clips])
    assert output.probability is not None
    return output.probability.double().numpy()


def _ends(videos: Sequence[LabelledVideo], stride: int) -> list[Clip]:
    """Each video to its end and to its middle."""
    return [clip_at(v, end, stride) for v in videos for end in (len(v.frames) - 1, len(v.frames) // 2)]


def _videos(args: Args, group: str) -> list[LabelledVideo]:
    every = list_recordings([*args.data, *args.dreams], most=args.max_episodes, without=args.without)
    used = every if group == "train" else every[: len(args.data)]
    mine = [
        path for paths in used for path in paths if split_of(f"{path.parent.name}/{path.stem}", args.held_out) == group
    ]
    return read_videos(mine, size=None, all_frames=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
