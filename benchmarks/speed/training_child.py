"""Train one stage in the checkout of `PYTHONPATH`: what `training.py` starts, in this commit and in earlier ones.

Arguments: stage, steps, folder with `train` and `train.npz`, folder of the run, and 1 to count FLOP instead.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import prophet_gym  # isort: skip, before torch, whose threads it sets
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")


def now(stage: str, steps: int, folder: Path, out: Path) -> Any:
    """Train as the commands do by default."""
    from prophet_gym.data._latents import LatentEpisodes
    from prophet_gym.data._recording import list_episodes
    from prophet_gym.prophet import SmallProphet, small_transformer
    from prophet_gym.train._autoencoder import train_autoencoder, tune_decoder
    from prophet_gym.train._dynamics import Rehearsal, train_tracker, train_transformer
    from prophet_gym.train._fit import FitConfig
    from prophrl_algos._demonstrations import read_demonstrations
    from prophrl_algos.sft import SftConfig, sft
    from prophrl_algos.vla import SmallVLA

    if stage == "SmallVLA":
        policy: Any = SmallVLA()
        demonstrations = read_demonstrations(policy, [folder / "train"], modes=())
        policy.fit_actions(demonstrations.all_actions())
        sft(policy, demonstrations.draw, SftConfig(steps=steps), out, precision="auto")
        return policy
    bundled: Any = SmallProphet.from_pretrained("prophet_gym/checkpoints/libero_small")
    if stage in ("autoencoder", "decoder"):
        bundled.autoencoder.save_pretrained(out / "autoencoder")
        trained = train_autoencoder if stage == "autoencoder" else tune_decoder
        return trained(list_episodes(folder / "train"), out, steps=steps, device=CPU, precision="auto")
    data = LatentEpisodes.load(folder / "train.npz")
    if stage == "tracker":
        return train_tracker(data, bundled.config, out, steps=steps, device=CPU, precision="auto")
    torch.manual_seed(0)
    parts = small_transformer().train(), bundled.tracker, data, bundled.config, out
    return train_transformer(*parts, FitConfig(steps, 1e-3), Rehearsal(16, 4, 0.6), "auto")


def before(stage: str, steps: int, folder: Path, out: Path) -> Any:
    """Do the same with f4e30db."""
    from importlib import import_module

    def named(module: str, name: str) -> Any:
        return getattr(import_module(module), name)

    if stage == "SmallVLA":
        policy = named("prophrl_algos.vla.small", "SmallVLA")()
        demonstrations = import_module("prophrl_algos.cli.demonstrations")
        read = demonstrations.read_demonstrations(policy, [folder / "train"], modes=())
        policy.fit_actions(read.all_actions())
        config = named("prophrl_algos.sft", "SftConfig")(steps=steps)
        named("prophrl_algos.sft", "sft")(policy, demonstrations.drawer(policy, read), config, out)
        return policy
    bundled = named("prophet_gym.prophet.model", "Prophet").from_pretrained("prophet_gym/checkpoints/libero_small")
    if stage in ("autoencoder", "decoder"):
        bundled.autoencoder.save_pretrained(out / "autoencoder")
        trained = named("prophet_gym.train.autoencoder", "train_autoencoder" if stage != "decoder" else "tune_decoder")
        paths = named("prophet_gym.data.recording", "list_episodes")(folder / "train")
        return trained(paths, out, steps=steps, device=CPU)
    data = named("prophet_gym.data.clips", "LatentEpisodes").load(folder / "train.npz")
    camera = torch.tensor(bundled.config.camera)
    if stage == "tracker":
        return named("prophet_gym.train.dynamics", "train_tracker")(data, camera, out, steps=steps, device=CPU)
    torch.manual_seed(0)
    parts = named("prophet_gym.prophet.presets", "small_transformer")().train(), bundled.tracker, data, camera, out
    config = named("prophet_gym.train.loop", "LoopConfig")(steps=steps, learning_rate=1e-3)
    train = named("prophet_gym.train.dynamics", "train_transformer")
    return train(*parts, config, rows=16, single_until=0.6, chunks=4)


def main() -> None:
    """Train, and write step times, weights and, where they are counted, FLOP of the second step."""
    stage, steps, folder, out, counted = (
        sys.argv[1],
        int(sys.argv[2]),
        Path(sys.argv[3]),
        Path(sys.argv[4]),
        sys.argv[5],
    )
    out.mkdir(parents=True)
    counter, times, flop = FlopCounterMode(display=False), [(0.0, 0.0)], [0]

    def stepped(*_: Any) -> None:
        times.append((time.perf_counter(), time.process_time()))
        flop.append(counter.get_total_flops())

    register_optimizer_step_post_hook(stepped)
    run = before if (Path(prophet_gym.__file__).parent / "train" / "loop.py").exists() else now
    if counted == "1":
        with counter:
            run(stage, steps, folder, out)
        torch.save({"flop": flop[2] - flop[1]}, out / "found.pt")
        return
    weights = run(stage, steps, folder, out).state_dict()
    # The first steps prepare kernels and read what they need for the first time.
    lasted = [[end - begin for begin, end in pairwise(clock)] for clock in zip(*times[3:], strict=True)]
    torch.save(
        {"seconds": lasted[0], "cpu": lasted[1], "weights": {k: v.contiguous() for k, v in weights.items()}},
        out / "found.pt",
    )


if __name__ == "__main__":
    main()
