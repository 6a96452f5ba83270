"""Recorded episodes for behaviour cloning: prepared once, drawn in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym._checks import unknown_option
from prophet_gym._io.progress import progress
from prophet_gym.specs import CAMERAS, FIRST_CAMERA
from prophrl_algos.flow import FlowPolicy, Obs, cat_obs, device_of, select_obs

if TYPE_CHECKING:
    from prophet_gym.data._episode import Episode


@dataclass(frozen=True)
class Demonstrations:
    """Hold what a policy sees before every action of some episodes, one after the other, and each episode's actions.

    The `horizon` is the policy's; actions are given on `device`.
    """

    obs: Obs
    actions: Sequence[Float[np.ndarray, "_ a"]]
    horizon: int
    device: str | torch.device = "cpu"

    @property
    def steps(self) -> int:
        """Return the number of actions in all episodes."""
        return sum(map(len, self.actions))

    def draw(self, rows: int, generator: torch.Generator) -> tuple[Obs, Float[Tensor, "b h a"]]:
        """Draw observations and the next `horizon` actions of each; past an episode's end the last one is repeated."""
        drawn = torch.randint(self.steps, (rows,), generator=generator)
        ends, picks = np.cumsum([len(actions) for actions in self.actions]), drawn.numpy()
        last = ends[np.searchsorted(ends, picks, side="right")] - 1
        chunks = np.minimum(picks[:, None] + np.arange(self.horizon), last[:, None])
        return select_obs(self.obs, drawn), self.all_actions()[torch.from_numpy(chunks)].to(self.device)

    def all_actions(self) -> Float[Tensor, "n a"]:
        """Return the actions of all episodes."""
        return torch.from_numpy(np.concatenate(self.actions).astype(np.float32))


def read_demonstrations(
    policy: FlowPolicy,
    folders: Sequence[Path],
    *,
    tasks: Sequence[int] = (),
    modes: Sequence[str] = ("expert",),
    failing: Sequence[str] = (),
    without: Sequence[str] = (),
    cameras: Sequence[str] = (FIRST_CAMERA,),
) -> Demonstrations:
    """Read the successful episodes of recordings, and failures where they are asked for; decode and prepare each once.

    No `tasks` means all, no `modes` the successes of every script; `failing` are scripts whose failures are read too.
    With both `cameras` a policy also sees the wrist camera's frames and the robot's state, which must be recorded.
    `obs["points"]` says where the gripper and the target are, for policies whose `sft_loss` reads it, where the
    recording knows its camera.
    """
    from prophet_gym.data._recording import list_recordings, read_episode

    listed = [list_recordings(folders, task=task, without=without) for task in tasks or (None,)]
    episodes = [read_episode(path) for number in range(len(folders)) for of_task in listed for path in of_task[number]]
    present = {episode.sim.mode for episode in episodes}
    if unknown := [mode for mode in (*modes, *failing) if episodes and mode not in present]:
        raise unknown_option("mode in the recording", unknown[0], present)
    wanted = set(modes) or present
    chosen = [e for e in episodes if e.sim.mode in failing or (e.sim.success[-1] and e.sim.mode in wanted)]
    if not chosen:
        raise ValueError(
            f"{', '.join(map(str, folders))} holds no episode to clone: of {len(episodes)} recorded in tasks "
            f"{list(tasks) or 'all'}, none of the modes {list(modes) or 'any'} succeeds; record some with "
            "`prophet collect`"
        )
    obs = []
    for episode in progress(chosen, "decode", unit="episode"):
        shown: dict[str, np.ndarray] = {CAMERAS[name]: episode.frames(camera=name)[:-1] for name in cameras}
        if len(cameras) > 1 and episode.sim.robot_state is not None:
            shown["state"] = episode.sim.robot_state[:-1]
        seen = policy.prepare(shown, [episode.instruction] * len(episode))
        obs.append({**seen, **({} if episode.camera is None else {"points": points_of(episode)})})
    return Demonstrations(cat_obs(obs), [each.actions for each in chosen], policy.spec.horizon, device_of(policy))


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
