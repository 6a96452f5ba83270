"""Episodes of the policies, in LIBERO and in the dream, and how the dream's reward model scores those in LIBERO."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

from experiments.reinforce_in_dream.files import Place, read_policy
from experiments.reinforce_in_dream.protocol import DREAM, Size
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.errors import SimulatorLostError
from prophet_gym.sims.env import SimulatorVectorEnv
from prophet_gym.world_model import RewardModel
from prophrl_algos._named import make_env
from prophrl_algos.evaluate import evaluate, noise_seed

P, R = ParamSpec("P"), TypeVar("R")
OPEN = np.tile(np.array([0, 0, 0, 0, 0, 0, -1], np.float32), (24, 1))
"""Actions after a success in LIBERO: the gripper opens and rests while it is scored, as where the head was trained."""


class Scored(VectorWrapper):
    """Score every episode of an env by a reward model of the dream, beside what the env itself says.

    `rewarded` holds, for each episode in the order of `evaluate`, whether the reward model called it a success at any
    time.
    """

    def __init__(self, env: VectorEnv, reward_model: RewardModel) -> None:
        super().__init__(env)
        self.reward_model = reward_model
        self.rewarded: list[bool] = []
        self._live: np.ndarray = np.zeros(self.num_envs, bool)
        self._rows: list[int] = []
        self._texts: list[str] = []
        self._last: list[np.ndarray] = []
        self._first = 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; those that are reset are scored again."""
        observation, info = self.env.reset(seed=seed, options=options)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        self._rows = np.flatnonzero(mask).tolist()
        self._first = len(self.rewarded)
        self.rewarded += [False] * len(self._rows)
        self._live = mask.copy()
        self._texts = [str(text) for text in info["instruction"]]
        self._last = [np.asarray(image)[None] for image in observation["image"]]
        return observation, info

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step, and score every episode that has not ended."""
        observation, reward, terminated, truncated, info = self.env.step(actions)
        for place, row in enumerate(self._rows):
            if self._live[row]:
                videos = [info["frames"][row]]
                if terminated[row] and isinstance(self.unwrapped, SimulatorVectorEnv):
                    videos = [videos[0][: info["executed"][row]], *np.split(self.unwrapped.go_on(row, OPEN), 3)]
                self.rewarded[self._first + place] |= any([self._score(row, video) for video in videos])
        self._live &= ~(terminated | truncated)
        return observation, reward, terminated, truncated, info

    def _score(self, row: int, frames: np.ndarray) -> bool:
        video = np.concatenate([self._last[row], frames])[-self.reward_model.max_frames :]
        scored = self.reward_model.score([torch.from_numpy(video)], [self._texts[row]])
        self._last[row] = video
        return bool(scored.scored[0] and scored.reward[0] >= 1)


def official_episodes(
    place: Place, weights: Path, world: str, cells: Sequence[Mapping[str, int]], *, seed: int
) -> list[dict[str, Any]]:
    """Run episodes in the order of the cells; in LIBERO the dream's reward model scores some, frame by frame."""
    found: dict[int, dict[str, Any]] = {}
    for scored, wanted in parts_of(place.size, world, cells).items():
        asked = [cells[index] for index in wanted]
        part = episodes_of(place, weights, world, "official", asked, seed=part_seed(seed, scored=scored), scored=scored)
        found |= dict(zip(wanted, part, strict=True))
    return [found[index] for index in range(len(cells))]


def parts_of(size: Size, world: str, cells: Sequence[Mapping[str, int]]) -> dict[bool, list[int]]:
    """Return which episodes are scored, in LIBERO the first of each of the first states, and which are not."""
    once = {(cell["task"], cell["start"]): index for index, cell in reversed(list(enumerate(cells)))}
    chosen = {index for (_, start), index in once.items() if start < size.scored_states and world != DREAM}
    return {scored: [i for i in range(len(cells)) if (i in chosen) == scored] for scored in (True, False)}


def part_seed(seed: int, *, scored: bool) -> int:
    """Return the seed of the scored episodes or of the others."""
    return seed + 10_000 * scored


def seeds_of(size: Size, world: str, cells: Sequence[Mapping[str, int]], index: int, seed: int) -> tuple[int, int]:
    """Return the env's and the policy's seed of one of `official_episodes`, to film it.

    Raises:
        IndexError: There are fewer episodes.
    """
    for scored, part in parts_of(size, world, cells).items():
        if index in part:
            first, number = part_seed(seed, scored=scored), part.index(index)
            return first + number, noise_seed(first, number)
    raise IndexError(f"there are {len(cells)} episodes, no number {index}")


def train_cells(size: Size, world: str, tasks: Sequence[int]) -> list[dict[str, int]]:
    """Return the `train` initial states that settings are chosen by.

    They are the dream's first ones; in LIBERO they are placements that no recording has.
    """
    first = 0 if world == DREAM else size.choose_first
    return [{"task": task, "start": first + start} for task in tasks for start in range(size.choose_episodes)]


def begun_again(episodes: Callable[P, R]) -> Callable[P, R]:
    """Begin episodes again, twice at most, where a process of the simulator ends by itself."""

    @wraps(episodes)
    def attempt(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(2):
            try:
                return episodes(*args, **kwargs)
            except SimulatorLostError as error:
                print(f"{error}; its episodes are begun once more", flush=True)
        return episodes(*args, **kwargs)

    return attempt


@begun_again
def episodes_of(
    place: Place,
    weights: Path,
    world: str,
    starts: str,
    cells: Sequence[Mapping[str, int]],
    *,
    seed: int,
    scored: bool = False,
) -> list[dict[str, Any]]:
    """Run the policy without noise from these initial states and, if asked, score it by the dream's reward model."""
    if not cells:
        return []
    size, simulated = place.size, world.startswith("LIBERO-")
    options = {"render": "step" if scored else "chunk"} | ({"workers": place.workers} if simulated else {})
    num_envs, dream = min(size.num_envs, len(cells)), "" if simulated else place.dream
    tasks = sorted({cell["task"] for cell in cells})
    env = make_env(world, num_envs, starts=starts, tasks=tasks, device=place.device, world_model=dream, options=options)
    reward_model = Checkpoint.named(place.dream or "bundled").reward_model("success") if scored else None
    scoring = None if reward_model is None else Scored(env, reward_model)
    policy = read_policy(place, weights)
    with closing(env):
        found = evaluate(policy, scoring or env, list(cells), seed=seed)
    rewarded = [None] * len(cells) if scoring is None else [int(each) for each in scoring.rewarded]
    return [
        {"task": cell["task"], "start": cell["start"], "success": int(each.success and each.scored),
         "rewarded": scored_as, "chunks": each.chunks}
        for cell, each, scored_as in zip(cells, found.episodes, rewarded, strict=True)
    ]  # fmt: skip
