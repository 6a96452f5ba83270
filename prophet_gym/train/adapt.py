"""Adapt a Prophet to another scene from few recordings: `prophet adapt --data DIR --out DIR`.

The transformer learns through low-rank adapters; the gripper tracker, which is small and knows one scene, is made anew;
the decoder is trained on. Every stage resumes; the result is `OUT/checkpoint`, the adapters alone `OUT/lora`.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro

from prophet_gym._io.lora import add_lora, merge_lora, save_lora
from prophet_gym._io.networks import save_network
from prophet_gym.arguments import Arguments, Count, CountOrNone, Device, Fraction, Items, OutFolder, Positive
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data.episode import held_out
from prophet_gym.data.recording import list_episodes, name_of, read_episode
from prophet_gym.prophet import SmallConfig, SmallProphet
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet.presets import small_transformer
from prophet_gym.train.autoencoder import encode_episodes, tune_decoder
from prophet_gym.train.dynamics import train_tracker, train_transformer
from prophet_gym.train.loop import LoopConfig, on_device
from prophet_gym.train.result import write_checkpoint
from prophet_gym.train.run_folder import begin_run, counted, run_lock
from prophet_gym.train.small import load_base

BUNDLED = Path(__file__).parents[1] / "checkpoints" / "libero_small"


@dataclass(frozen=True)
class Args(Arguments):
    """Adapt a checkpoint to the scene of a recording.

    Attributes:
        data: folder that `prophet collect` wrote.
        out: folder for training states and the result.
        base: folder of the checkpoint to begin with; the bundled one if not given.
        lora_rank: rank of the adapters; 0 trains a new transformer of the same size instead, for comparison.
        episodes: use at most so many.
        steps: optimiser steps of the transformer.
        rows: chunks per step.
        learning_rate: peak rate of the transformer.
        chunks: mean length of the training dreams, in chunks.
        single_until: share of the steps before dreams begin.
        tracker_steps: optimiser steps of the tracker.
        decoder_steps: optimiser steps of the decoder.
        held_out: one episode in so many is kept from training.
        without: episodes to leave out, e.g. `task_03/episode_00007`.
        device: cpu or cuda.
    """

    data: Path
    out: OutFolder
    base: Path = BUNDLED
    lora_rank: CountOrNone = 16
    episodes: Items = 200
    steps: Count = 600
    rows: Items = 16
    learning_rate: Positive = 1e-3
    chunks: Count = 2
    single_until: Fraction = 0.7
    tracker_steps: CountOrNone = 2000
    decoder_steps: CountOrNone = 1500
    held_out: Count = 10
    without: tuple[str, ...] = ()
    device: Device = "cpu"


MAY_CHANGE = ("out", "device", "steps", "tracker_steps", "decoder_steps")
"""Arguments that a run may be gone on with otherwise."""


def main(args: Args) -> None:
    """Run all stages; those that are done already are skipped.

    Raises:
        ValueError: no recordings, or a folder of another run.
        RunInUseError: another process trains there.
    """
    with run_lock(args.out):
        settings = {**asdict(args), "episodes of data": counted([args.data])}
        begin_run(args.out, settings, begun=(args.out / "latents.npz").exists(), free=MAY_CHANGE)
        _run(args)


def _run(args: Args) -> None:
    listed = list_episodes(args.data, without=args.without)[: args.episodes]
    paths = [path for path in listed if not held_out(name_of(path), 1 / args.held_out)]
    if not paths:
        raise ValueError(
            f"{args.data} has no episode to train on; record some with `prophet collect --out {args.data}`"
        )
    device = torch.device(args.device)
    base = load_base(args.base)
    assert isinstance(base.config, SmallConfig)
    assert isinstance(base.autoencoder, FrameAutoencoder)
    recorded = read_episode(paths[0])

    latents = args.out / "latents.npz"
    if not latents.exists():
        encode_episodes(paths, on_device(base.autoencoder, device)).save(latents)
    data = LatentEpisodes.load(latents)
    if not (args.out / "autoencoder").exists():
        save_network(base.autoencoder, args.out / "autoencoder")
    autoencoder = tune_decoder(paths, args.out, steps=args.decoder_steps, device=device)
    seen_by = torch.from_numpy(recorded.camera).float()
    tracker = train_tracker(data, seen_by, args.out, steps=args.tracker_steps, device=device)

    transformer = base.transformer
    if args.lora_rank:
        add_lora(transformer, args.lora_rank)
    else:
        config = transformer.config
        width = config["num_attention_heads"] * config["attention_head_dim"]
        torch.manual_seed(0)
        transformer = small_transformer(width, config["num_layers"], config["attention_head_dim"])
    average = train_transformer(
        on_device(transformer, device),
        tracker,
        data,
        seen_by,
        args.out,
        LoopConfig(steps=args.steps, learning_rate=args.learning_rate, warmup=50, ema=0.99),
        rows=args.rows,
        single_until=args.single_until,
        chunks=args.chunks,
        noise_scale=base.config.noise_scale,
    )
    if args.lora_rank:
        save_lora(average, args.out / "lora")
        merge_lora(average)
    assert recorded.camera is not None
    camera = tuple(tuple(float(x) for x in row) for row in recorded.camera)
    config = replace(base.config, camera=camera, suite=recorded.sim.suite, look=recorded.sim.look)
    prophet = SmallProphet(average, autoencoder, tracker, config).to("cpu")
    if (base.config.suite, base.config.look) == (config.suite, config.look):
        prophet.source = base.source  # the same scene, so its starts and its success head are true of it
    write_checkpoint(prophet, args.out / "checkpoint", paths)


if __name__ == "__main__":
    main(tyro.cli(Args))
