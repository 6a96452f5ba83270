"""Train the small Prophet from recordings, on a CPU or a GPU: `python -m prophet_gym.train.small --data DIR --out DIR`.

Stages, each resumable: autoencoder, decoder, latents, tracker, transformer. The result is `OUT/checkpoint`. With
`--base` the transformer of a checkpoint is trained on, beside its autoencoder and tracker, from `OUT/latents.npz` only.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.networks import load_part, save_network
from prophet_gym.arguments import (
    Arguments,
    Count,
    CountOrNone,
    DeviceOrAuto,
    Fraction,
    Items,
    Minutes,
    NotNegative,
    OutFolder,
)
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data.episode import held_out
from prophet_gym.data.recording import list_recordings, name_of, read_episode
from prophet_gym.prophet import Prophet, SmallConfig, SmallProphet
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet._gripper import GripperTracker
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.prophet.presets import small_transformer
from prophet_gym.train.autoencoder import encode_episodes, train_autoencoder, tune_decoder
from prophet_gym.train.dynamics import tracker_errors, train_tracker, train_transformer
from prophet_gym.train.loop import LoopConfig, on_device, read_stage
from prophet_gym.train.result import write_checkpoint
from prophet_gym.train.run_folder import begin_run, counted, run_lock

Stage = Literal["all", "autoencoder", "decoder", "latents", "tracker", "transformer", "checkpoint"]


@dataclass(frozen=True)
class Args(Arguments):
    """Train the small Prophet.

    Attributes:
        data: folders that `prophet collect` or `prophrl record` wrote; not read where `base` and `OUT/latents.npz` are
            enough.
        out: folder for checkpoints, logs and the result.
        base: folder of the checkpoint whose transformer is trained on; its autoencoder, tracker, camera, settings,
            judge, object reader and starts are kept. Without it all begins anew.
        stage: one stage, or all.
        held_out: one episode in so many is kept for validation.
        autoencoder_steps: optimiser steps of 32 crops.
        decoder_steps: further ones of the decoder alone, the encoder and so the latents fixed.
        tracker_steps: optimiser steps of 128 windows.
        steps: optimiser steps of the transformer.
        minutes: wall-clock limit of the transformer's training, runs before this one counted.
        rows: chunks per step.
        learning_rate: peak rate of the transformer.
        chunks: mean length of the training dreams, in chunks.
        single_until: share of the steps before dreams begin.
        layers: blocks of the transformer, where it begins anew.
        width: width of the transformer, likewise.
        without: episodes to leave out, e.g. `task_03/episode_00007`.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    out: OutFolder
    data: tuple[Path, ...] = ()
    base: Path | None = None
    stage: Stage = "all"
    held_out: Count = 20
    autoencoder_steps: CountOrNone = 12_000
    decoder_steps: CountOrNone = 6_000
    tracker_steps: CountOrNone = 8_000
    steps: Count = 8_000
    minutes: Minutes = math.inf
    rows: Items = 16
    learning_rate: NotNegative = 1e-3
    chunks: Count = 4
    single_until: Fraction = 0.6
    layers: Items = 6
    width: Items = 192
    without: tuple[str, ...] = ()
    device: DeviceOrAuto = "auto"

    def torch_device(self) -> torch.device:
        """Return the device that `device` names."""
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device)


def main(args: Args) -> None:
    """Run the stages asked for.

    Raises:
        ValueError: no recordings where they are needed, a base that does not fit, or a folder of another run.
        RunInUseError: another process trains there.
    """
    with run_lock(args.out):
        _begin_run(args)
        _run(args)


def _run(args: Args) -> None:
    base = None if args.base is None else load_base(args.base)
    if base is not None:
        _keep(base, args.out)
    stages = {
        "autoencoder": lambda: train_autoencoder(
            _train(args), args.out, steps=args.autoencoder_steps, device=args.torch_device()
        ),
        "decoder": lambda: tune_decoder(_train(args), args.out, steps=args.decoder_steps, device=args.torch_device()),
        "latents": lambda: _latents(args),
        "tracker": lambda: _tracker(args, base),
        "transformer": lambda: _transformer(args, base),
        "checkpoint": lambda: _checkpoint(args, base),
    }
    for name in chosen_stages(args):
        stages[name]()


def _begin_run(args: Args) -> None:
    """Check that every stage to come goes on with what it was begun with, before anything is computed."""
    chosen = chosen_stages(args)
    recorded = {"data": args.data, "held_out": args.held_out, "episodes": counted(args.data)}
    network = {} if args.base is not None else {"layers": args.layers, "width": args.width}
    steps = {"rows": args.rows, "chunks": args.chunks, "single_until": args.single_until}
    asked: dict[str, dict[str, Any]] = {
        "autoencoder": recorded,
        "decoder": recorded,
        "latents": {**recorded, "base": args.base},
        "tracker": {"base": args.base},
        "transformer": {"base": args.base, **network, **steps, "learning_rate": args.learning_rate},
    }
    done = {stage: (args.out / f"{stage}.pt").exists() for stage in asked}
    # Latents may be made anew as long as nothing was trained on them; left as they are, they must be of this data.
    encoded = (args.out / "latents.npz").exists()
    done["latents"] = encoded and ("latents" not in chosen or done["tracker"] or done["transformer"])
    for stage, settings in asked.items():
        if stage in chosen or (stage == "latents" and encoded and args.data):
            begin_run(args.out, settings, begun=done[stage], stage=stage)


def chosen_stages(args: Args) -> tuple[Stage, ...]:
    """The stages to run: the one that is named, or all that a base leaves.

    Raises:
        ValueError: the autoencoder is to begin anew beside a base, whose transformer reads the latents of its own.
    """
    if args.base is not None and args.stage == "autoencoder":
        raise ValueError("with a base its autoencoder is kept: leave --base away, or name another stage")
    if args.stage != "all":
        return (args.stage,)
    if args.base is None:
        return ("autoencoder", "decoder", "latents", "tracker", "transformer", "checkpoint")
    encoded = (args.out / "latents.npz").exists()
    return ("transformer", "checkpoint") if encoded else ("latents", "transformer", "checkpoint")


def load_base(folder: Path) -> SmallProphet:
    """Load a checkpoint to train on.

    Raises:
        ValueError: it is not of the small Prophet.
    """
    base = Prophet.from_pretrained(folder)
    if not isinstance(base, SmallProphet):
        raise ValueError(f"the base must be a checkpoint of the small Prophet, and {folder} holds a full one")
    return base


def _keep(base: SmallProphet, out: Path) -> None:
    """Put the base's autoencoder and tracker where those of earlier stages lie."""
    for name in ("autoencoder", "tracker"):
        if not (out / name).exists():
            save_network(getattr(base, name), out / name)


def _episodes(args: Args) -> list[Path]:
    if not args.data:
        raise ValueError("this stage reads recordings: give --data, a folder that `prophet collect` wrote")
    return [path for paths in list_recordings(args.data, without=args.without) for path in paths]


def _train(args: Args) -> list[Path]:
    paths = [path for path in _episodes(args) if not held_out(name_of(path), 1 / args.held_out)]
    if not paths:
        raise ValueError(
            f"{', '.join(map(str, args.data))} has no episode to train on beside those held out (one in "
            f"{args.held_out}) and left out; record more with `prophet collect`"
        )
    return paths


def _latents(args: Args) -> None:
    autoencoder = on_device(load_part(FrameAutoencoder, args.out / "autoencoder").eval(), args.torch_device())
    encode_episodes(_train(args), autoencoder).save(args.out / "latents.npz")


def _tracker(args: Args, base: SmallProphet | None) -> None:
    data, camera = LatentEpisodes.load(args.out / "latents.npz"), torch.tensor(_config(args, base).camera)
    known = None if base is None else base.tracker
    tracker = train_tracker(data, camera, args.out, steps=args.tracker_steps, device=args.torch_device(), base=known)
    errors = tracker_errors(tracker, data, camera)
    atomic_write(args.out / "tracker_errors.json", json.dumps(errors, indent=2) + "\n")


def _transformer(args: Args, base: SmallProphet | None) -> None:
    config = _config(args, base)
    torch.manual_seed(0)
    average = train_transformer(
        on_device(_untrained(args, base), args.torch_device()).train().requires_grad_(requires_grad=True),
        load_part(GripperTracker, args.out / "tracker").eval(),
        LatentEpisodes.load(args.out / "latents.npz"),
        torch.tensor(config.camera),
        args.out,
        LoopConfig(steps=args.steps, learning_rate=args.learning_rate),
        rows=args.rows,
        single_until=args.single_until,
        chunks=args.chunks,
        noise_scale=config.noise_scale,
        minutes=args.minutes,
    )
    save_network(average, args.out / "transformer")


def _untrained(args: Args, base: SmallProphet | None) -> ProphetTransformer3DModel:
    """The transformer that training begins with."""
    return small_transformer(args.width, args.layers) if base is None else base.transformer


def _config(args: Args, base: SmallProphet | None) -> SmallConfig:
    """The base's, or that of the first recorded episode's scene."""
    if base is not None:
        assert isinstance(base.config, SmallConfig)
        return base.config
    recorded = read_episode(_episodes(args)[0])
    assert recorded.camera is not None
    camera = tuple(tuple(float(x) for x in row) for row in recorded.camera)
    return SmallConfig(camera=camera, suite=recorded.sim.suite, look=recorded.sim.look)


def _checkpoint(args: Args, base: SmallProphet | None) -> None:
    prophet = assemble(args, base)
    prophet.source = args.base
    write_checkpoint(prophet, args.out / "checkpoint", _train(args) if args.data else [])


def assemble(args: Args, base: SmallProphet | None = None) -> SmallProphet:
    """Put the parts of a training folder together, the transformer averaged as far as it has come.

    Args:
        args: of the training; `out`, and without a base `data`, `width` and `layers` count.
        base: that it went on from.
    """
    transformer = _untrained(args, base)
    transformer.load_state_dict(read_stage(args.out / "transformer.pt")["average"])
    return SmallProphet(
        on_device(transformer, torch.device("cpu")),
        load_part(FrameAutoencoder, args.out / "autoencoder").eval(),
        load_part(GripperTracker, args.out / "tracker").eval(),
        _config(args, base),
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
