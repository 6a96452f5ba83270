"""Episodes of a proof's policies, in LIBERO and in the dream, and what the dream's judge sees of those in LIBERO."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from proof_files import Place, read_policy
from proof_sizes import DREAM, Size

from prophet_gym.errors import SimulatorLostError
from prophet_gym.factory import load_reward_model
from prophet_gym.sims.libero import LiberoVectorEnv
from prophet_gym.world_model import RewardModel
from prophrl_algos.cli.common import make_env
from prophrl_algos.evaluate import evaluate, noise_seed, ode_schedule

P, R = ParamSpec("P"), TypeVar("R")
OPEN = np.tile(np.array([0, 0, 0, 0, 0, 0, -1], np.float32), (24, 1))
"""Commands after a success in LIBERO: the hand opens and rests while the judge looks on, as where it was trained."""


class Watched(VectorWrapper):
    """Judges every episode of an env by a reward model of the dream, beside what the env itself says.

    `seen` holds, for each episode in the order of `evaluate`, whether the judge called it a success at any time.
    """

    def __init__(self, env: VectorEnv, judge: RewardModel) -> None:
        super().__init__(env)
        self.judge = judge
        self.seen: list[bool] = []
        self._live: np.ndarray = np.zeros(self.num_envs, bool)
        self._rows: list[int] = []
        self._texts: list[str] = []
        self._last: list[np.ndarray] = []
        self._first = 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        self._rows = np.flatnonzero(mask).tolist()
        self._first = len(self.seen)
        self.seen += [False] * len(self._rows)
        self._live = mask.copy()
        self._texts = [str(text) for text in info["instruction"]]
        self._last = [np.asarray(image)[None] for image in observation["image"]]
        return observation, info

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        for place, row in enumerate(self._rows):
            if self._live[row]:
                films = [info["frames"][row]]
                if terminated[row] and isinstance(self.unwrapped, LiberoVectorEnv):
                    films = [films[0][: info["executed"][row]], *np.split(self.unwrapped.go_on(row, OPEN), 3)]
                self.seen[self._first + place] |= any([self._judge(row, film) for film in films])
        self._live &= ~(terminated | truncated)
        return observation, reward, terminated, truncated, info

    def _judge(self, row: int, frames: np.ndarray) -> bool:
        film = np.concatenate([self._last[row], frames])[-self.judge.max_frames :]
        verdict = self.judge.score([torch.from_numpy(film)], [self._texts[row]])
        self._last[row] = film
        return bool(verdict.valid[0] and verdict.reward[0] >= 1)


def official_episodes(
    place: Place, weights: Path, world: str, cells: Sequence[Mapping[str, int]], *, seed: int
) -> list[dict[str, Any]]:
    """Episodes in the order of the cells; in LIBERO the judge of the dream watches some of them, frame by frame."""
    found: dict[int, dict[str, Any]] = {}
    for watched, wanted in parts_of(place.size, world, cells).items():
        asked = [cells[index] for index in wanted]
        part = episodes_of(
            place, weights, world, "official", asked, seed=part_seed(seed, watched=watched), watched=watched
        )
        found |= dict(zip(wanted, part, strict=True))
    return [found[index] for index in range(len(cells))]


def parts_of(size: Size, world: str, cells: Sequence[Mapping[str, int]]) -> dict[bool, list[int]]:
    """Which episodes the judge watches: in LIBERO the first of each of the first states; and which it does not."""
    once = {(cell["task"], cell["start"]): index for index, cell in reversed(list(enumerate(cells)))}
    chosen = {index for (_, start), index in once.items() if start < size.watched_states and world != DREAM}
    return {watched: [i for i in range(len(cells)) if (i in chosen) == watched] for watched in (True, False)}


def part_seed(seed: int, *, watched: bool) -> int:
    return seed + 10_000 * watched


def seeds_of(size: Size, world: str, cells: Sequence[Mapping[str, int]], index: int, seed: int) -> tuple[int, int]:
    """The env's and the policy's seed of one of `official_episodes`, to see it once more."""
    for watched, part in parts_of(size, world, cells).items():
        if index in part:
            first, number = part_seed(seed, watched=watched), part.index(index)
            return first + number, noise_seed(first, number)
    raise IndexError(f"there are {len(cells)} episodes, no number {index}")


def train_cells(size: Size, world: str, tasks: Sequence[int], starts: Sequence[int] = ()) -> list[dict[str, int]]:
    """`train` starts that a proof chooses by: the dream's first ones, in LIBERO placements that no recording has."""
    first = 0 if world == DREAM else size.choose_first
    chosen = starts or range(size.choose_episodes)
    return [{"task": task, "start": first + start} for task in tasks for start in chosen]


def begun_again(episodes: Callable[P, R]) -> Callable[P, R]:
    """The same, begun once more, twice at most, where a process of the simulator ends by itself."""

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
    watched: bool = False,
    initial_noise: float = 1.0,
) -> list[dict[str, Any]]:
    """What the policy does without noise from these starts and, if watched, what the judge of the dream sees of it."""
    if not cells:
        return []
    size = place.size
    real = world.startswith("LIBERO-")
    options = {"workers": place.workers, "render": "step" if watched else "chunk"} if real else {}
    rows, dream = min(size.rows, len(cells)), "" if real else place.dream
    tasks = sorted({cell["task"] for cell in cells})
    env = make_env(world, rows, starts=starts, tasks=tasks, device=place.device, dream=dream, options=options)
    judge = load_reward_model(place.dream or "bundled", "success") if watched else None
    judged = None if judge is None else Watched(env, judge)
    policy = read_policy(place, weights)
    with closing(env):
        found = evaluate(policy, judged or env, list(cells), seed=seed, schedule=ode_schedule(policy, initial_noise))
    seen = [None] * len(cells) if judged is None else [int(each) for each in judged.seen]
    return [
        {"task": cell["task"], "start": cell["start"], "success": int(each.success and each.valid),
         "seen": saw, "chunks": each.chunks}
        for cell, each, saw in zip(cells, found.episodes, seen, strict=True)
    ]  # fmt: skip
