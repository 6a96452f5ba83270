"""Compare the success head on demand with the head that looks at every frame, chunk by chunk, in dreams of recordings.

    prophet collect --suite libero_object --episodes 200 --out outputs/recordings
    python -m benchmarks.speed.looks --json benchmarks/results/speed/looks.json

Every episode is dreamt from its first frame under its own actions, and scored after each chunk until the head that sees
every frame finds the task done: the frames that an env with `render="chunk"` shows it, the last frame of this chunk and
of the one before decoded already. For each `clearly_not` there is the part of all chunks whose score differs, and how
many frames of a chunk are decoded for the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from tqdm import tqdm

from benchmarks.speed.harness import recorded
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data import Episode, list_episodes, read_episode
from prophet_gym.estimates import wilson
from prophet_gym.evaluation._dreams import dream
from prophet_gym.rewards import SuccessHead
from prophet_gym.world_model import Footage, WorldModel

BATCH = 8


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    data: Path = Path("outputs/recordings")
    """A recording."""
    episodes: int = 200
    """At most so many."""
    clearly_not: tuple[float, ...] = (0.0, 0.1, 0.5, 0.9)
    """Parts of the threshold, see `SuccessHeadConfig`."""
    json: Path | None = None
    """Write the numbers to this file."""


def dreams(world_model: WorldModel, episodes: Sequence[Episode]) -> list[UInt8[np.ndarray, "t h w 3"]]:
    """Return the dream of each episode, its first frame included; the shorter ones go on with their last action."""
    chunks = -(-max(len(episode.actions) for episode in episodes) // world_model.chunk)
    actions = np.stack(
        [
            np.pad(episode.actions, ((0, chunks * world_model.chunk - len(episode.actions)), (0, 0)), mode="edge")
            for episode in episodes
        ]
    )
    first = np.stack([episode.frames()[:1] for episode in episodes])
    dreamt = dream(world_model, world_model.encode(torch.from_numpy(first)), actions, list(range(len(episodes))))
    return list(np.concatenate([first, dreamt.frames], axis=1))


def looks(head: SuccessHead, video: UInt8[torch.Tensor, "t h w 3"], decoded: set[int], text: str) -> tuple[bool, int]:
    """Return whether the head finds the task done on demand, and how many frames were decoded for it."""
    seen: set[int] = set()

    def look(wanted: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        seen.update(wanted[0])
        return [video[list(wanted[0])]]

    done = head.score_on_demand(Footage([len(video)], [decoded], look), [text]).success.item()
    return bool(done), len(seen - decoded)


@torch.no_grad()
def main(args: Args) -> None:
    checkpoint = Checkpoint.named("bundled")
    world_model, given = checkpoint.world_model(engine="auto"), checkpoint.reward_model()
    heads = {}
    for value in args.clearly_not:
        heads[value] = SuccessHead(replace(given.config, clearly_not=value)).eval()
        heads[value].load_state_dict(given.state_dict())
    with recorded(args.json) as found:
        episodes = sorted(map(read_episode, list_episodes(args.data)[: args.episodes]), key=lambda e: len(e.actions))
        chunks, done, counts = 0, 0, {value: np.zeros(3, int) for value in heads}  # missed, wrongly found, decoded
        for first in tqdm(range(0, len(episodes), BATCH)):
            batch = episodes[first : first + BATCH]
            for episode, video in zip(batch, dreams(world_model, batch), strict=True):
                for last in range(world_model.chunk, len(video), world_model.chunk):
                    begin = max(0, last + 1 - given.max_frames)
                    window = torch.from_numpy(video[begin : last + 1])
                    truth = bool(given.score([window], [episode.instruction]).success.item())
                    ends = {last - world_model.chunk - begin, last - begin}
                    for value, head in heads.items():
                        said, decoded = looks(head, window, ends, episode.instruction)
                        counts[value] += (truth and not said, said and not truth, decoded)
                    chunks, done = chunks + 1, done + truth
                    if truth:
                        break
        found |= {"episodes": len(episodes), "chunks": chunks, "done": done}
        found["clearly_not"] = {
            str(value): row(missed, wrong, decoded, chunks, done) for value, (missed, wrong, decoded) in counts.items()
        }
        print(found)


def row(missed: int, wrong: int, decoded: int, chunks: int, done: int) -> dict[str, Any]:
    """Return the counts of one head with the interval of the part of successes that it misses."""
    part = wilson(int(missed), done)
    counted = {"missed": int(missed), "wrong": int(wrong), "decoded_per_chunk": round(decoded / chunks, 2)}
    return counted | {"missed_at_most": round(part.high, 3)}


if __name__ == "__main__":
    main(tyro.cli(Args))
