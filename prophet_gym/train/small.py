"""Train the small Prophet from recordings, on a CPU or a GPU: `python -m prophet_gym.train.small --data DIR --out DIR`.

Stages, each resumable: autoencoder, decoder, latents, tracker, transformer. The result is `OUT/checkpoint`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from prophet_gym.data.clips import LatentEpisodes
from prophet_gym.data.recording import is_held_out, list_episodes, read_episode
from prophet_gym.prophet.autoencoder import FrameAutoencoder
from prophet_gym.prophet.gripper import GripperTracker
from prophet_gym.prophet.model import Prophet, ProphetConfig
from prophet_gym.prophet.presets import small_transformer
from prophet_gym.train.autoencoder import encode_episodes, train_autoencoder, tune_decoder
from prophet_gym.train.dynamics import tracker_errors, train_tracker, train_transformer
from prophet_gym.train.loop import LoopConfig, on_device

Stage = Literal["all", "autoencoder", "decoder", "latents", "tracker", "transformer", "checkpoint"]


@dataclass(frozen=True)
class Args:
    """Train the small Prophet.

    Attributes:
        data: folder that `prophet collect` wrote.
        out: folder for checkpoints, logs and the result.
        stage: one stage, or all.
        held_out: one episode in so many is kept for validation.
        autoencoder_steps: optimiser steps of 32 crops.
        decoder_steps: further ones of the decoder alone, the encoder and so the latents fixed.
        tracker_steps: optimiser steps of 128 windows.
        steps: optimiser steps of the transformer.
        rows: chunks per step.
        learning_rate: peak rate of the transformer.
        chunks: length of the training dreams, in chunks.
        single_until: share of the steps before dreams begin.
        layers: blocks of the transformer.
        width: width of the transformer.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    data: Path
    out: Path
    stage: Stage = "all"
    held_out: int = 20
    autoencoder_steps: int = 12_000
    decoder_steps: int = 6_000
    tracker_steps: int = 8_000
    steps: int = 8_000
    rows: int = 16
    learning_rate: float = 1e-3
    chunks: int = 4
    single_until: float = 0.6
    layers: int = 6
    width: int = 192
    device: str = "auto"

    def torch_device(self) -> torch.device:
        """Return the device that `device` names."""
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device)


def main(args: Args) -> None:
    """Run the stages asked for."""
    paths = list_episodes(args.data)
    train = [path for path in paths if not is_held_out(path, args.held_out)]
    stages = {
        "autoencoder": lambda: train_autoencoder(
            train, args.out, steps=args.autoencoder_steps, device=args.torch_device()
        ),
        "decoder": lambda: tune_decoder(train, args.out, steps=args.decoder_steps, device=args.torch_device()),
        "latents": lambda: _latents(train, args),
        "tracker": lambda: _tracker(args),
        "transformer": lambda: _transformer(args, paths),
        "checkpoint": lambda: assemble(args, paths[0]).save_pretrained(args.out / "checkpoint"),
    }
    for name, run in stages.items():
        if args.stage in ("all", name):
            run()


def _latents(train: list[Path], args: Args) -> None:
    autoencoder = on_device(FrameAutoencoder.from_pretrained(args.out / "autoencoder"), args.torch_device())
    encode_episodes(train, autoencoder).save(args.out / "latents.npz")


def _tracker(args: Args) -> None:
    data = LatentEpisodes.load(args.out / "latents.npz")
    tracker = train_tracker(data, args.out, steps=args.tracker_steps, device=args.torch_device())
    errors = tracker_errors(tracker, data)
    (args.out / "tracker_errors.json").write_text(json.dumps(errors, indent=2) + "\n")


def _transformer(args: Args, paths: list[Path]) -> None:
    camera = torch.from_numpy(read_episode(paths[0]).camera).float()
    torch.manual_seed(0)
    average = train_transformer(
        on_device(small_transformer(args.width, args.layers), args.torch_device()),
        GripperTracker.from_pretrained(args.out / "tracker"),
        LatentEpisodes.load(args.out / "latents.npz"),
        camera,
        args.out,
        LoopConfig(steps=args.steps, learning_rate=args.learning_rate),
        rows=args.rows,
        single_until=args.single_until,
        chunks=args.chunks,
    )
    average.save_pretrained(args.out / "transformer")


def assemble(args: Args, episode: Path) -> Prophet:
    """Put the parts of a training folder together, the transformer averaged as far as it has come.

    Args:
        args: of the training; `out`, `width` and `layers` count.
        episode: a recorded one, for camera, suite and look.
    """
    recorded = read_episode(episode)
    camera = tuple(tuple(float(x) for x in row) for row in recorded.camera)
    transformer = small_transformer(args.width, args.layers)
    transformer.load_state_dict(
        torch.load(args.out / "transformer.pt", weights_only=True, map_location="cpu")["average"]
    )
    return Prophet(
        transformer,
        FrameAutoencoder.from_pretrained(args.out / "autoencoder"),
        GripperTracker.from_pretrained(args.out / "tracker"),
        ProphetConfig(camera=camera, suite=recorded.suite, look=recorded.look),
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
