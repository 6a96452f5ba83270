"""How well single recorded frames show where the gripper is: the eyes of the judge of `benchmarks/reach.py`.

    python benchmarks/reach_judge.py --json benchmarks/results/reach_judge.json

Every 8th frame of the held-out episodes of `prophet evaluate` (recorded first if need be), each on its own; the truth
is the simulator's gripper, projected.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.cli.evaluate import Args as EvaluateArgs
from prophet_gym.cli.evaluate import record_official
from prophet_gym.cli.report import as_json, machine, write_json
from prophet_gym.data.recording import Episode, list_episodes, read_episode
from prophet_gym.estimates import bootstrap
from prophet_gym.prophet.action_frames import project
from prophet_gym.prophet.model import Prophet

STRIDE = 8


@dataclass(frozen=True)
class Args:
    """Compare what is seen with what is true.

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


def places(world: Prophet, episode: Episode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seen and true places in the picture (pixels), and their distance in space (millimetres)."""
    seen = world.see_gripper(torch.from_numpy(episode.frames()[::STRIDE].copy()))
    true = torch.from_numpy(episode.gripper_position[::STRIDE])
    camera = torch.from_numpy(episode.camera.astype(np.float32))
    pixels = torch.tensor([world.frame_size[1], world.frame_size[0]])
    found, real = ((project(points, camera)[:, :2] * pixels).numpy() for points in (seen, true))
    return found, real, 1000 * (seen - true).norm(dim=1).numpy()


def compare(episodes: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Correlations and errors over all frames; the interval of the mean error is over episodes."""
    found, real, millimetres = (np.concatenate(part) for part in zip(*episodes, strict=True))
    errors = np.linalg.norm(found - real, axis=1)
    means = np.array([np.linalg.norm(seen - true, axis=1).mean() for seen, true, _ in episodes])
    return {
        "episodes": len(episodes),
        "frames": len(errors),
        "mean_px": as_json(bootstrap(means)),
        **{f"px_{share}": float(np.quantile(errors, share / 100)) for share in (50, 90, 99)},
        **{f"mm_{share}": float(np.quantile(millimetres, share / 100)) for share in (50, 90, 99)},
        "correlation_right": float(np.corrcoef(found[:, 0], real[:, 0])[0, 1]),
        "correlation_down": float(np.corrcoef(found[:, 1], real[:, 1])[0, 1]),
    }


def main(args: Args) -> None:
    world = Checkpoint.named(args.checkpoint).world_model()
    assert isinstance(world, Prophet)
    held_out = EvaluateArgs(checkpoint=args.checkpoint, episodes=args.episodes)
    paths = record_official(held_out) if args.data is None else list_episodes(args.data, evaluating=True)
    report = compare([places(world, read_episode(path)) for path in paths])
    for name, value in report.items():
        print(f"{name}: {value}")
    write_json(args.json, report | {"stride": STRIDE, "machine": machine()})


if __name__ == "__main__":
    main(tyro.cli(Args))
