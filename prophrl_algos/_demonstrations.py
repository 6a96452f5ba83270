"""Recorded episodes for behaviour cloning: prepared once, drawn in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from prophet_gym._checks import unknown_option
from prophrl_algos.flow import FlowPolicy, Obs, cat_obs, device_of, select_obs
from prophrl_algos.sft import DrawBatch

if TYPE_CHECKING:
    from prophet_gym.data._episode import Episode


@runtime_checkable
class FitsActions(Protocol):
    """A policy that scales its latents by the demonstrated actions."""

    def fit_actions(self, actions: Float[Tensor, "n a"]) -> None:
        """Set the scale before any training."""


@runtime_checkable
class LearnsWhere(Protocol):
    """A policy whose `sft_loss` reads `obs["points"]`: where in the image the gripper and the target are."""

    learns_where: bool


@runtime_checkable
class SeesTwins(Protocol):
    """A policy whose `sft_loss` reads `obs["twin"]`: the image of the same moment in a dream."""

    sees_twins: bool


@dataclass(frozen=True)
class Demonstrations:
    """Hold what a policy sees before every action of some episodes, one after the other, and each episode's actions."""

    obs: Obs
    actions: Sequence[Float[np.ndarray, "_ a"]]

    @property
    def steps(self) -> int:
        """Return the number of actions in all episodes."""
        return sum(map(len, self.actions))

    def draw(self, rows: int, horizon: int, generator: torch.Generator) -> tuple[Obs, Float[Tensor, "b h a"]]:
        """Draw observations and the next `horizon` actions of each; past an episode's end the last one is repeated."""
        drawn = torch.randint(self.steps, (rows,), generator=generator)
        ends, picks = np.cumsum([len(actions) for actions in self.actions]), drawn.numpy()
        last = ends[np.searchsorted(ends, picks, side="right")] - 1
        chunks = np.minimum(picks[:, None] + np.arange(horizon), last[:, None])
        return select_obs(self.obs, drawn), self.all_actions()[torch.from_numpy(chunks)]

    def all_actions(self) -> Float[Tensor, "n a"]:
        """Return the actions of all episodes."""
        return torch.from_numpy(np.concatenate(self.actions).astype(np.float32))


def read_demonstrations(
    policy: FlowPolicy,
    folders: Sequence[Path],
    *,
    dreams: Sequence[Path] = (),
    tasks: Sequence[int] = (),
    modes: Sequence[str] = ("expert",),
    failing: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Demonstrations:
    """Read the successful episodes of recordings, and failures where they are asked for; decode and prepare each once.

    `dreams` are those of each recording (`prophet redream`), in the same order; their images become `obs["twin"]`. No
    `tasks` means all, no `modes` the successes of every script; `failing` are scripts whose failures are read too.
    """
    from prophet_gym.data._recording import list_recordings, read_episode, refuse_official

    _require_dreams(policy, folders, dreams)
    listed = [list_recordings(folders, task=task, without=without) for task in tasks or (None,)]
    paths = [
        (path, dream and dream / path.relative_to(folder))
        for number, (folder, dream) in enumerate(zip_longest(folders, dreams))
        for of_task in listed
        for path in of_task[number]
    ]
    for _, twin in paths:
        if twin is not None and not twin.is_file():
            raise FileNotFoundError(
                f"{twin} is missing: each episode of a recording must have its dream; make them with `prophet redream "
                f"--data RECORDING --out {twin.parents[1]} --episodes N` for all N of them"
            )
    for folder in dreams:
        refuse_official(folder)
    episodes = [(read_episode(path), twin) for path, twin in paths]
    chosen = _of_modes(episodes, modes, failing)
    if not chosen:
        raise ValueError(
            f"{', '.join(map(str, folders))} holds no episode to clone: of {len(episodes)} recorded in tasks "
            f"{list(tasks) or 'all'}, none of the modes {list(modes) or 'any'} succeeds; record some with "
            "`prophet collect`"
        )
    obs, actions = [], []
    for episode, twin in tqdm(chosen, desc="decode", unit="episode", mininterval=5):
        # A dream ends with the last whole chunk.
        dreamt = None if twin is None else read_episode(twin)
        steps = len(episode.actions if dreamt is None else dreamt.actions)
        seen = dict(_prepared(policy, episode, steps))
        if isinstance(policy, LearnsWhere):
            seen["points"] = points_of(episode)[:steps]
        if dreamt is not None:
            seen["twin"] = _prepared(policy, dreamt, steps)["image"]
        obs.append(seen)
        actions.append(episode.actions[:steps])
    return Demonstrations(cat_obs(obs), actions)


def _require_dreams(policy: FlowPolicy, folders: Sequence[Path], dreams: Sequence[Path]) -> None:
    """Raise ValueError if the dreams do not match the recordings, or the policy cannot use them."""
    if dreams and len(dreams) != len(folders):
        raise ValueError(
            f"there must be one folder of dreams for each recording, got {len(dreams)} for {len(folders)}: make them "
            "with `prophet redream`"
        )
    if dreams and not isinstance(policy, SeesTwins):
        raise ValueError(
            f"{type(policy).__name__} cannot be shown the same moment in two worlds; leave out the dreams, or give "
            "them as further recordings"
        )


def _of_modes(
    episodes: Sequence[tuple["Episode", Path | None]], modes: Sequence[str], failing: Sequence[str]
) -> list[tuple["Episode", Path | None]]:
    """Return the successful episodes of `modes` (any if empty), and all episodes of `failing`."""
    present = {episode.sim.mode for episode, _ in episodes}
    for mode in (*modes, *failing):
        if episodes and mode not in present:
            raise unknown_option("mode in the recording", mode, present)
    return [
        (each, twin)
        for each, twin in episodes
        if each.sim.mode in failing or (each.sim.success[-1] and (not modes or each.sim.mode in modes))
    ]


def _prepared(policy: FlowPolicy, episode: "Episode", steps: int) -> Obs:
    """Return what the policy sees before each of the first `steps` actions."""
    frames: UInt8[np.ndarray, "t h w 3"] = episode.frames()[:steps]
    return policy.prepare({"image": frames}, [episode.instruction] * steps)


def points_of(episode: "Episode") -> Float[Tensor, "t 2 2"]:
    """Return how far across and down the image the gripper and the target are before each action, -1 to 1.

    NaN for a fixture, which has no place of its own, and for what lies behind the camera.
    """
    assert episode.camera is not None
    gripper, target = episode.gripper_position, episode.target_positions
    places = np.stack([gripper, np.full_like(gripper, np.nan) if target is None else target], 1)[:-1]
    seen = np.concatenate([places, np.ones_like(places[..., :1])], -1) @ episode.camera.T
    depth = np.where(seen[..., 2:] > 0, seen[..., 2:], np.nan)
    return torch.from_numpy(2 * seen[..., :2] / depth - 1).float()


def drawer(policy: FlowPolicy, demonstrations: Demonstrations) -> DrawBatch:
    """Return a function that draws batches for `sft`, with the actions on the policy's device."""

    def draw(rows: int, generator: torch.Generator) -> tuple[Obs, Float[Tensor, "b h a"]]:
        obs, actions = demonstrations.draw(rows, policy.spec.horizon, generator)
        return obs, actions.to(device_of(policy))

    return draw
