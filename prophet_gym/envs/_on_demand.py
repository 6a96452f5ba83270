"""Decode frames of dreams where somebody looks: the policy at the latest, the reward model where it wants."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from prophet_gym._batches import select_batch
from prophet_gym._checks import require_known
from prophet_gym.envs._sub_env import Row
from prophet_gym.world_model import DecodesOnDemand, Footage, RewardModel, ScoresOnDemand, State

RENDERS = ("step", "chunk")
Look = Callable[[Mapping[int, Sequence[int]]], None]


def require_render(render: str, render_mode: str | None) -> str:
    """Return which frames are decoded; ValueError where others are shown."""
    require_known("render", render, RENDERS)
    if render == "chunk" and render_mode in ("rgb_array_list", "human"):
        raise ValueError(f"render_mode={render_mode!r} shows every frame: it needs render='step'")
    return render


def as_choosing(model: RewardModel | None, decoder: DecodesOnDemand | None) -> ScoresOnDemand | None:
    """Return a reward model that says itself which frames it looks at, if all that it may ask for can be decoded."""
    if decoder is None or not isinstance(model, ScoresOnDemand) or model.when != "chunk":
        return None
    return model if model.stride * model.max_frames <= decoder.decodable else None


def look(
    decoder: DecodesOnDemand, state: State, rows: Sequence[Row], wanted: Mapping[int, Sequence[int]], keep: Any
) -> None:
    """Decode these frames of sub-environments, given by their number in the episode, unless they are kept."""
    missing = [(row, n) for row, numbers in wanted.items() for n in dict.fromkeys(numbers) if n not in rows[row].kept]
    if missing:
        ages = torch.tensor([rows[row].frames - 1 - number for row, number in missing])
        frames = keep(decoder.decode(select_batch(state, [row for row, _ in missing]), ages))
        for (row, number), frame in zip(missing, frames, strict=True):
            rows[row].kept[number] = frame


def footage(rows: Sequence[Row], asked: Sequence[int], look: Look) -> Footage:
    """Return the videos of sub-environments for a reward model that chooses what it looks at."""
    videos = [rows[row].video for row in asked]
    none = torch.zeros((0, *rows[asked[0]].image.shape), dtype=torch.uint8)

    def show(wanted: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        numbers = [[video[place] for place in places] for video, places in zip(videos, wanted, strict=True)]
        look(dict(zip(asked, numbers, strict=True)))
        chosen = zip(asked, numbers, strict=True)
        return [torch.as_tensor(rows[row].take(each)) if each else none.to(_device(rows[row])) for row, each in chosen]

    decoded = [
        [place for place, number in enumerate(video) if number in rows[row].kept]
        for row, video in zip(asked, videos, strict=True)
    ]
    return Footage([len(video) for video in videos], decoded, show)


def _device(row: Row) -> torch.device:
    return row.image.device if isinstance(row.image, torch.Tensor) else torch.device("cpu")
