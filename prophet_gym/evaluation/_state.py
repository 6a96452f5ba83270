"""How far the robot's state in a dream is from the recorded one, by the dream's age, and whether the model knows it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from prophet_gym._io.progress import progress
from prophet_gym.data._episode import Episode
from prophet_gym.estimates import RESAMPLES, Estimate, bootstrap
from prophet_gym.evaluation._dreams import begin_episodes
from prophet_gym.evaluation._report import as_json, interval, table
from prophet_gym.world_model import DecodesOnDemand, ShowsWrist

PARTS = {"position": ("mm", 1000.0), "rotation": ("degrees", 180 / np.pi), "fingers": ("mm", 1000.0)}
"""Parts of the state -> the unit that tables have, and how many of it are one metre or radian."""
COVERED = 0.9  # fraction of errors that a stated half-width holds
_LEAST = (0.001, 0.005, 0.0005)  # metres, radians, metres: no half-width is smaller
_NEIGHBOURS = 2  # ages on either side whose errors also say how wide an age's interval is


@dataclass(frozen=True)
class StateErrors:
    """Hold errors of dreams of recorded episodes: metres, radians and metres, NaN after the recording's end.

    `values[i, n]` are those of episode i after n + 1 chunks, `stated` the half-widths that the model gave there, NaN if
    it knows none.
    """

    values: Float[np.ndarray, "e n 3"]
    stated: Float[np.ndarray, "e n 3"]


@torch.no_grad()
def state_errors(
    world_model: Any, episodes: Sequence[Episode], chunks: int, *, rows: int = 16, seed: int = 0
) -> StateErrors:
    """Dream recorded episodes from their first frames, as an env begins, and compare the robot's state.

    Args:
        world_model: A world model of two cameras.
        episodes: Recorded episodes with both cameras.
        chunks: The most chunks that a dream lasts; it ends where the recording does.
        rows: Number of dreams at once.
        seed: Seed of the noise.

    Raises:
        ValueError: The model does not dream the state, or no episode has it for a whole chunk.
    """
    if not all(isinstance(world_model, kind) for kind in (ShowsWrist, DecodesOnDemand)):
        raise ValueError("the world model must dream the robot's state: train it with `--cameras agentview wrist`")
    chunk = world_model.chunk
    counts = [min(len(episode) // chunk, chunks) if _has_state(episode) else 0 for episode in episodes]
    if not any(counts):
        raise ValueError("no episode has both cameras and the robot's state for a chunk of actions: record them so")
    values, stated = (np.full((len(episodes), chunks, 3), np.nan) for _ in range(2))
    # Dreams of like length are together, the longest first, so that those that go on are the first of a batch.
    order = sorted((number for number, count in enumerate(counts) if count), key=lambda number: -counts[number])
    batches = [order[i : i + rows] for i in range(0, len(order), rows)]
    for batch in progress(batches, "state", unit="batch", passing=True):
        dreamt = _dreamt(world_model, [episodes[i] for i in batch], [counts[i] for i in batch], seed)
        for n, (error, width) in enumerate(dreamt):
            on = [number for number in batch if counts[number] > n]
            values[on, n] = error[: len(on)]
            if width is not None:
                stated[on, n] = width[: len(on)]
    return StateErrors(values, stated)


def _has_state(episode: Episode) -> bool:
    return episode.simulation is not None and episode.sim.robot_state is not None and len(episode.cameras) > 1


def _dreamt(
    world_model: Any, episodes: Sequence[Episode], counts: Sequence[int], seed: int
) -> Iterator[tuple[Float[np.ndarray, "b 3"], Float[Tensor, "b 3"] | None]]:
    """Yield errors and stated half-widths after every chunk of some dreams, the longest first."""
    chunk, longest = world_model.chunk, counts[0]
    state = begin_episodes(world_model, episodes)
    actions = np.zeros((len(episodes), longest * chunk, episodes[0].actions.shape[1]), np.float32)
    true = np.zeros((len(episodes), longest, 8))
    for row, (episode, count) in enumerate(zip(episodes, counts, strict=True)):
        actions[row, : count * chunk] = episode.actions[: count * chunk]
        true[row, :count] = np.asarray(episode.sim.robot_state)[chunk : count * chunk + 1 : chunk]
    generators = [torch.Generator().manual_seed(seed + number) for number in range(len(episodes))]
    for n, part in enumerate(torch.from_numpy(actions).split(chunk, dim=1)):
        state = world_model.advance(state, part, generators=generators)
        own = world_model.read_robot_state(state).double().cpu().numpy()
        yield compared(own, true[:, n]), world_model.read_state_error(state)


def compared(own: Float[np.ndarray, "b 8"], true: Float[np.ndarray, "b 8"]) -> Float[np.ndarray, "b 3"]:
    """Return how far states are apart: metres, radians, and metres of the finger joint that errs most."""
    turn = Rotation.from_rotvec(own[:, 3:6]).inv() * Rotation.from_rotvec(true[:, 3:6])
    parts = np.linalg.norm(own[:, :3] - true[:, :3], axis=1), turn.magnitude(), np.abs(own - true)[:, 6:].max(axis=1)
    return np.stack(parts, axis=1)


def half_widths(errors: StateErrors) -> tuple[tuple[float, ...], ...]:
    """Return for each age in chunks the half-widths that hold 90% of errors, with those of neighbouring ages.

    The quantile is that of split conformal prediction: of n errors the ceil(0.9 (n + 1))-th smallest. Ages that no
    recording reaches have those of the last one that does.
    """
    found: list[tuple[float, ...]] = []
    for age in range(errors.values.shape[1]):
        near = errors.values[:, max(0, age - _NEIGHBOURS) : age + _NEIGHBOURS + 1].reshape(-1, 3)
        near = near[~np.isnan(near).any(axis=1)]
        if not len(near):
            break
        rank = min(int(np.ceil(COVERED * (len(near) + 1))), len(near)) - 1
        widths = np.maximum(np.sort(near, axis=0)[rank], _LEAST)
        found.append(tuple(round(float(width), 5) for width in widths))
    return tuple(found)


def summarise_state(errors: StateErrors, chunk: int, horizons: Sequence[int]) -> dict[str, Any]:
    """Return for each horizon and part the median error, and how often it is within what the model stated."""
    report = {}
    for horizon in sorted(set(horizons)):
        age = horizon // chunk - 1
        if not 0 <= age < errors.values.shape[1] or np.isnan(errors.values[:, age]).all():
            continue
        parts = {}
        for number, (name, (unit, scale)) in enumerate(PARTS.items()):
            error, stated = errors.values[:, age, number], errors.stated[:, age, number]
            covered = np.where(np.isnan(error) | np.isnan(stated), np.nan, error <= stated)
            parts[name] = {
                "unit": unit,
                "median": as_json(_median(scale * error[~np.isnan(error)])),
                "half_width": None if np.isnan(stated).all() else round(scale * float(np.nanmedian(stated)), 3),
                "covered": as_json(bootstrap(covered)),
            }
        report[str(horizon)] = parts
    return report


def _median(values: Float[np.ndarray, " e"]) -> Estimate:
    drawn = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return Estimate(float(np.median(values)), float(low), float(high), len(values))


def state_table(report: Mapping[str, Any]) -> str:
    """Format `summarise_state`: a row for each horizon and part."""
    header = ["robot's state", "median error", "stated 90% half-width", "within it"]
    rows = [
        [
            f"{horizon} frames, {name}",
            f"{interval(part['median'], 1)} {part['unit']}",
            "-" if part["half_width"] is None else f"{part['half_width']:.1f} {part['unit']}",
            interval(part["covered"], 2),
        ]
        for horizon, parts in report.items()
        for name, part in parts.items()
    ]
    return table(header, rows)
