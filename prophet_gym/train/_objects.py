"""Train an object reader from recordings: `prophet objects --data DIR --out DIR`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from prophet_gym._arguments import Arguments, Count, Device, Items, Minutes, OutFolder, Positive, Seed
from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.progress import progress
from prophet_gym.data._episode import held_out
from prophet_gym.data._recording import list_episodes, name_of, read_episode
from prophet_gym.rewards import ObjectReader, ObjectReaderConfig
from prophet_gym.rewards._classifier import hash_words
from prophet_gym.train._fit import CosineConfig, fit
from prophet_gym.train._run_folder import run_lock


@dataclass(frozen=True)
class Args(Arguments):
    """Train an object reader, which estimates the position of the object that an instruction names from one image."""

    data: Path  # Recording of `prophet collect`.
    out: OutFolder  # Folder for weights, config and metrics.json.
    minutes: Minutes = 15.0  # Maximum minutes of training.
    steps: Count = 6000  # Maximum number of optimizer steps.
    batch_size: Items = 32  # Number of images per step.
    image_size: Items = 128  # Height and width, in pixels, that images are scaled down to.
    learning_rate: Positive = 2e-3  # Peak learning rate, on a cosine schedule.
    stride: Count = 4  # Read every n-th frame.
    held_out: Count = 10  # Keep one episode in n for validation.
    without: tuple[str, ...] = ()  # Episodes to leave out, for example `task_03/episode_00007`.
    seed: Seed = 0  # Seed of weights and batches.
    device: Device = "cpu"  # Device to train on, for example `cpu` or `cuda`.


@dataclass(frozen=True)
class LabelledFrames:
    """Hold frames with their instructions and the true positions of the objects that these name, metres."""

    frames: UInt8[np.ndarray, "n h w 3"]
    episode: np.ndarray
    positions: Float[np.ndarray, "n 3"]
    instructions: tuple[str, ...]


def read_frames(paths: Sequence[Path], stride: int) -> LabelledFrames:
    """Read every `stride`-th frame of the episodes."""
    frames, owners, positions, instructions = [], [], [], []
    for number, path in enumerate(progress(paths, "reading", unit="episode")):
        episode = read_episode(path)
        if episode.target_positions is None:
            raise ValueError(f"{path}: the target {episode.sim.target!r} is no movable object; leave its task out")
        kept = slice(number % stride, None, stride)
        frames.append(episode.frames()[kept])
        positions.append(episode.target_positions[kept])
        owners.append(np.full(len(frames[-1]), number))
        instructions.append(episode.instruction)
    return LabelledFrames(
        np.concatenate(frames), np.concatenate(owners), np.concatenate(positions), tuple(instructions)
    )


def blurred(frames: UInt8[Tensor, "b h w 3"], generator: torch.Generator) -> UInt8[Tensor, "b h w 3"]:
    """Blur and brighten each image by a drawn amount, as a dream may."""
    images = frames.permute(0, 3, 1, 2).float()
    smooth = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    share, gain = torch.rand(2, len(frames), 1, 1, 1, generator=generator).to(images.device)
    mixed = torch.lerp(images, smooth, (1.6 * share - 0.6).clamp(min=0)) * (0.9 + 0.2 * gain)
    return mixed.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def train_object_reader(images: LabelledFrames, args: Args) -> ObjectReader:
    """Fit a reader by mean absolute error; the cosine follows steps or minutes, whichever is nearer its end."""
    # What never changes, such as the height of a table, must not be divided by zero.
    mean, std = images.positions.mean(0), images.positions.std(0).clip(min=1e-6)
    made = ObjectReaderConfig(image_size=args.image_size, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    device = torch.device(args.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        reader = ObjectReader(made).to(device)
    words = torch.stack([hash_words(text, reader.config.words) for text in images.instructions])
    targets = torch.from_numpy(((images.positions - mean) / std).astype(np.float32))
    generator = torch.Generator().manual_seed(args.seed)

    def loss(reader: ObjectReader, _step: int, _generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(targets), (args.batch_size,), generator=generator)
        frames = blurred(torch.from_numpy(images.frames[chosen.numpy()]).to(device), generator)
        given = words[torch.from_numpy(images.episode[chosen.numpy()])].to(device)
        return F.l1_loss(reader(frames, given), targets[chosen].to(device)), {}

    config = CosineConfig(args.steps, args.learning_rate, warmup=100, minutes=args.minutes)
    fit(reader, loss, config, name="object reader")
    return reader.eval()


def reading_error(reader: ObjectReader, images: LabelledFrames) -> dict[str, int | float]:
    """Return the distance between read and true positions, millimetres."""
    distances = []
    for number, instruction in enumerate(images.instructions):
        mine = images.episode == number
        read = reader.positions(torch.from_numpy(images.frames[mine]), instruction).numpy()
        distances.append(1000 * np.linalg.norm(read - images.positions[mine], axis=1))
    errors = np.concatenate(distances)
    found = {"mean": errors.mean(), "median": np.median(errors), "ninetieth_percentile": np.percentile(errors, 90)}
    return {"frames": len(errors), **{f"{name}_mm": round(float(error), 2) for name, error in found.items()}}


def main(args: Args) -> dict[str, Any]:
    """Train a reader, measure it on held-out episodes, and write both."""
    with run_lock(args.out):
        paths = list_episodes(args.data, without=args.without)
        left = [path for path in paths if held_out(name_of(path), 1 / args.held_out)]
        kept = [path for path in paths if path not in left]
        if not kept or not left:
            raise ValueError(
                f"{args.data} has {len(paths)} episodes, {len(left)} held out and {len(kept)} to train on, and needs "
                f"one of each: record more, or change --held-out {args.held_out}, which keeps one in so many"
            )
        reader = train_object_reader(read_frames(kept, args.stride), args)
        settings = {name: value for name, value in asdict(args).items() if name != "out"}
        metrics = {
            "train_episodes": len(kept),
            "held_out_episodes": len(left),
            "parameters": sum(parameter.numel() for parameter in reader.parameters()),
            "held_out": reading_error(reader, read_frames(left, args.stride)),
            "args": settings | {"data": args.data.name},
        }
        reader.save_pretrained(args.out)
        atomic_write(args.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))
    return metrics
