"""Where a hand closes in LIBERO, and where a dream's tracker believes that it does.

    python benchmarks/proof_closing.py --recordings policy outputs/policy_clone experts outputs/demonstrations_cpu \
        --trackers bundled prophet_gym/checkpoints/libero_small refreshed outputs/proof_dream \
        --json benchmarks/results/proof_closing.json

A closing is a command to close after one to open; it grasps if the target then rises by 2 cm within 40 frames. A
tracker follows the commands of an episode from the true first place, chunk by chunk and with the true frames around the
hand, as a dream does but for its pictures, up to the episode's first closing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from prophet_gym.cli.report import machine, table, write_json
from prophet_gym.data.clips import HOLD, LatentEpisodes
from prophet_gym.data.recording import Episode, list_episodes, read_episode
from prophet_gym.prophet.gripper import GripperTracker
from prophet_gym.train.autoencoder import encode_episodes
from prophet_gym.train.small import load_base

CHUNK, RISE, WITHIN = 8, 0.02, 40
AXES = ("depth", "across", "height")


@dataclass(frozen=True)
class Args:
    """Measure."""

    recordings: dict[str, Path]
    """Name -> what `prophet collect` or `prophrl record` wrote."""
    trackers: dict[str, Path]
    """Name -> a checkpoint of the small Prophet."""
    episodes: int = 40
    """The last ones of each recording, at most."""
    json: Path | None = None


def closings(episode: Episode) -> list[int]:
    """The frames whose command closes an open hand."""
    closed = episode.actions[:, 6] > 0
    return (np.flatnonzero(closed[1:] & ~closed[:-1]) + 1).tolist()


def target_of(episode: Episode) -> Float[np.ndarray, "f 3"]:
    """The path of what is to be grasped.

    Raises:
        ValueError: it is a fixture.
    """
    path = episode.target_positions
    if path is None:
        raise ValueError(f"only an object can be grasped, and {episode.target} of the recording is a fixture")
    return path


def grasps(episode: Episode, frame: int) -> bool:
    """Whether the target rises after a closing."""
    height = target_of(episode)[:, 2]
    return bool(height[frame : frame + WITHIN].max() > height[frame] + RISE)


def missed_by(episode: Episode, frame: int) -> Float[np.ndarray, "3"]:
    """Hand minus target, metres: depth (away from the robot), across and height."""
    return (episode.gripper_position - target_of(episode))[frame]


@torch.no_grad()
def strayed(
    tracker: GripperTracker, camera: Float[Tensor, "3 4"], data: LatentEpisodes, index: int, frame: int
) -> Float[np.ndarray, "3"]:
    """Followed minus true place of the hand after the command of a frame, metres."""
    first = int(data.starts[index])
    hand, before = torch.from_numpy(data.gripper[first : first + 1]), torch.tensor(HOLD).expand(1, CHUNK, -1)
    for chunk in range(frame // CHUNK + 1):
        at = first + CHUNK * chunk
        commands = torch.from_numpy(data.commands[at : at + CHUNK])[None]
        seen = torch.from_numpy(data.latents[at : at + 1].astype(np.float32))
        path = tracker.follow(hand, before, commands, seen, camera)[0]
        hand, before = path[-1:], commands
    return (path[frame % CHUNK].numpy() - data.gripper[first + frame + 1])[:3]


def measure(folder: Path, trackers: dict[str, Path], count: int) -> dict[str, Any]:
    """The closings of a recording, and how far each tracker strays up to the first of an episode."""
    paths = list_episodes(folder, evaluating=True)[-count:]
    episodes = [read_episode(path) for path in paths]
    found: dict[str, Any] = {"episodes": len(episodes), "closings": {}, "strayed": {}}
    for name, wanted in {"grasps": True, "misses": False}.items():
        off = [missed_by(e, at) for e in episodes for at in closings(e) if grasps(e, at) is wanted]
        found["closings"][name] = {"count": len(off)} | spread(off)
    firsts = [
        (i, ends[0]) for i, e in enumerate(episodes) if (ends := closings(e)) and ends[0] + CHUNK < len(e.actions)
    ]
    for name, checkpoint in trackers.items():
        base = load_base(checkpoint)
        data = encode_episodes(paths, base.networks["autoencoder"])
        camera, tracker = torch.tensor(base.config.camera), base.networks["tracker"]
        found["strayed"][name] = spread([strayed(tracker, camera, data, index, frame) for index, frame in firsts])
    return found


def spread(differences: Sequence[Float[np.ndarray, "3"]]) -> dict[str, float]:
    """The median size along each axis, in millimetres, and the correlation of depth with height."""
    if not differences:
        return {}
    table = 1000 * np.stack(differences).astype(np.float64)
    sizes = dict(zip(AXES, np.median(np.abs(table), axis=0).round(1).tolist(), strict=True))
    together = np.corrcoef(table[:, 0], table[:, 2])[0, 1] if (table.std(0)[[0, 2]] > 0).all() else 0.0
    return sizes | {"correlation": round(float(together), 2)}


def main(args: Args) -> None:
    found = {name: measure(folder, args.trackers, args.episodes) for name, folder in args.recordings.items()}
    write_json(args.json, {"machine": machine(), "recordings": found})
    rows = [
        [name, what, *(str(sizes.get(key, "")) for key in (*AXES, "correlation"))]
        for name, each in found.items()
        for what, sizes in {**each["closings"], **each["strayed"]}.items()
    ]
    print(
        table(
            ["recording", "hand to target, or tracker to hand", *(f"{axis}, mm" for axis in AXES), "correlation"], rows
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
