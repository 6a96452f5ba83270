"""Measure how well single recorded frames show where the gripper is, which the reward of reaching relies on.

    python -m experiments.reach_with_ppo.gripper_error --json experiments/reach_with_ppo/results/gripper_error.json

It reads every 8th frame of the held-out episodes of `prophet evaluate` (recorded first if need be), each on its own;
the truth is the simulator's gripper, projected.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data import Episode, list_episodes, read_episode
from prophet_gym.estimates import bootstrap
from prophet_gym.evaluation._official import record_official
from prophet_gym.evaluation._report import as_json, machine, write_json
from prophet_gym.prophet import SmallProphet
from prophet_gym.prophet._action_frames import project

STRIDE = 8


@dataclass(frozen=True)
class Args:
    """Compare where the gripper seems to be with where it is.

    Attributes:
        data: a recording that the checkpoint has not seen; the held-out episodes of `prophet evaluate` if not given.
        checkpoint: `bundled`, or a folder.
        episodes: how many of the latter.
        json: the report.
    """

    data: Path | None = None
    checkpoint: str = "bundled"
    episodes: int = 40
    json: Path | None = None


def places(world: SmallProphet, episode: Episode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return seen and true positions in the image (pixels), and their distance in space (millimeters)."""
    seen = world.see_gripper(torch.from_numpy(episode.frames()[::STRIDE].copy()))
    true = torch.from_numpy(episode.gripper_position[::STRIDE])
    camera = torch.from_numpy(episode.camera.astype(np.float32))
    pixels = torch.tensor([world.frame_size[1], world.frame_size[0]])
    found, truth = ((project(points, camera)[:, :2] * pixels).numpy() for points in (seen, true))
    return found, truth, 1000 * (seen - true).norm(dim=1).numpy()


def compare(episodes: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Return correlations and errors over all frames; the interval of the mean error is over episodes."""
    found, truth, millimeters = (np.concatenate(part) for part in zip(*episodes, strict=True))
    errors = np.linalg.norm(found - truth, axis=1)
    means = np.array([np.linalg.norm(seen - true, axis=1).mean() for seen, true, _ in episodes])
    return {
        "episodes": len(episodes),
        "frames": len(errors),
        "mean_px": as_json(bootstrap(means)),
        **{f"px_{share}": float(np.quantile(errors, share / 100)) for share in (50, 90, 99)},
        **{f"mm_{share}": float(np.quantile(millimeters, share / 100)) for share in (50, 90, 99)},
        "correlation_right": float(np.corrcoef(found[:, 0], truth[:, 0])[0, 1]),
        "correlation_down": float(np.corrcoef(found[:, 1], truth[:, 1])[0, 1]),
    }


def main(args: Args) -> None:
    """Run the command."""
    checkpoint = Checkpoint.named(args.checkpoint)
    world = checkpoint.world_model()
    assert isinstance(world, SmallProphet)
    paths = (
        record_official(checkpoint, args.episodes) if args.data is None else list_episodes(args.data, evaluating=True)
    )
    report = compare([places(world, read_episode(path)) for path in paths])
    for name, value in report.items():
        print(f"{name}: {value}")
    write_json(args.json, report | {"stride": STRIDE, "machine": machine()})


if __name__ == "__main__":
    main(tyro.cli(Args))
