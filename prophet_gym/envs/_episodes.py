"""Batched episodes of action chunks: autoreset, masks, flags and infos, written once for every world."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from prophet_gym._checks import require_count, require_number, unknown_option, warn
from prophet_gym.envs._options import row_seeds
from prophet_gym.envs._plain import PlainSpec
from prophet_gym.envs._require import require_actions, require_open
from prophet_gym.envs._sub_env import Row, Usage, as_array
from prophet_gym.specs import CAMERAS, FIRST_CAMERA, STATE_NAMES, ActionSpec

if TYPE_CHECKING:
    from prophet_gym._io.pictures.viewer import Viewer

RENDER_MODES = ("rgb_array", "rgb_array_list", "human")
EVERY_FRAME = ("rgb_array_list", "human")
"""The render modes that need every frame."""
SHOWN = 4
"""Number of sub-environments that `human` shows."""
FPS = 20.0
"""Actions, and so frames, per second of LIBERO."""
START_FACTS = ("queue_index", "instruction", "suite", "task", "start", "split")
"""Entries of `info` that belong to the episode: they are the same at its every step."""
NOTHING_RUN = {"executed": 0, "scored": False, "success": False, "live": False, "approximate": False}
"""Give these entries of `info`, beside the episode's own, at a step that runs no action."""

Observation = dict[str, Any]
"""Arrays by name; tensors in the torch env."""
Info = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome of a step in one sub-environment."""

    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def ended(self) -> bool:
        """Return whether the episode ended in the step."""
        return self.terminated or self.truncated


class EpisodeVectorEnv(PlainSpec, VectorEnv):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Run the episodes of several sub-environments.

    A subclass says how episodes begin (`_plan`, `_begin`) and how live ones advance by one chunk (`_advance`).
    """

    _replaced: tuple[str, ...] = ("usage", "_queue", "_started")
    """Name what `reset` and `step` replace, beside the sub-environments."""

    def __init__(
        self,
        num_envs: int,
        action_space: gym.spaces.Box,
        frame_size: tuple[int, int],
        *,
        max_episode_steps: int | None,
        autoreset_mode: AutoresetMode | str,
        render_mode: str | None,
        fps: float = FPS,
        proprioception: bool = False,
        cameras: Sequence[str] = (FIRST_CAMERA,),
    ) -> None:
        super().__init__()
        self.num_envs = num_envs = require_count("num_envs", num_envs)
        if max_episode_steps is not None:
            max_episode_steps = require_count("max_episode_steps counts chunks and", max_episode_steps)
        if render_mode is not None and not (isinstance(render_mode, str) and render_mode in RENDER_MODES):
            raise unknown_option("render mode", render_mode, RENDER_MODES)
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            raise unknown_option("autoreset mode", autoreset_mode, [mode.value for mode in AutoresetMode]) from error
        self.max_episode_steps, self.render_mode = max_episode_steps, render_mode
        self.fps = require_number("fps", fps, above=0)
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            # One image a step, or one for every action: videos keep the pace of the scene in both.
            "render_fps": self.fps / action_space.shape[0] if render_mode == "rgb_array" else self.fps,
            "autoreset_mode": self.autoreset_mode,
        }
        self.cameras = tuple(cameras)
        seen = _observation_parts(frame_size, self.cameras, proprioception=proprioception)
        self.single_action_space, self.single_observation_space = action_space, gym.spaces.Dict(seen)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.usage = Usage()
        self._rows = [Row() for _ in range(num_envs)]
        self._viewer: Viewer | None = None
        # The episodes that wait for a free sub-environment: place in the queue, plan and seed of each.
        self._queue: deque[tuple[int, Any, int | None]] | None = None
        self._started = False

    @abstractmethod
    def _plan(self, options: Mapping[str, Any] | None) -> dict[int, Any]:
        """Return the sub-environments to reset, each with its checked plan; autoreset asks with `options=None`."""

    def _plan_queue(self, options: Mapping[str, Any] | None) -> list[Any] | None:
        """Return the plans of `options["queue"]`, checked; None where there is no queue."""
        del options

    @abstractmethod
    def _begin(self, plans: Mapping[int, Any]) -> None:
        """Start an episode in every sub-environment of `plans`: call each `Row.begin`."""

    @abstractmethod
    def _advance(self, live: Sequence[int], actions: np.ndarray) -> dict[int, Outcome]:
        """Run one chunk in the live ones: call each `Row.extend`; `actions` (num_envs, k, a) are checked."""

    @property
    def elapsed(self) -> tuple[int, ...]:
        """Return the number of chunks that each episode has run."""
        return tuple(row.elapsed for row in self._rows)

    @property
    def finished(self) -> bool:
        """Return whether every episode has ended and no other follows (autoreset is DISABLED or the queue empty)."""
        absorbing = self._queue is not None or self.autoreset_mode == AutoresetMode.DISABLED
        return self._started and absorbing and not self._queue and all(row.ended for row in self._rows)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """Return the generators of the sub-environments, from which all their randomness is drawn."""
        return tuple(self._row_random(row) for row in range(self.num_envs))

    @np_random.setter
    def np_random(self, value: Sequence[np.random.Generator]) -> None:
        if len(value) != self.num_envs or not all(isinstance(each, np.random.Generator) for each in value):
            raise ValueError(f"np_random needs one Generator for each of num_envs={self.num_envs}, got {value!r}")
        for row, generator in zip(self._rows, value, strict=True):
            row.np_random, row.seed = generator, -1

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """Return the seed of each generator; -1, as in Gymnasium, for one that the caller set."""
        for row in range(self.num_envs):
            self._row_random(row)
        return tuple(row.seed for row in self._rows)

    def check_reset(self, options: Mapping[str, Any] | None) -> None:
        """Raise what `reset(options=options)` would raise, and change nothing."""
        if self._plan_queue(options) is None:
            self._plan(options)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start episodes in all sub-environments, or in those of `options["reset_mask"]`.

        After an error every episode is as it was.

        Args:
            seed: Sub-environment i is seeded with `seed + i`, or with entry i of a sequence; entries of those outside
                the mask are ignored. With a queue the j-th episode is seeded with `seed + j`, or with entry j, so it
                is the same wherever it runs.
            options: See the class.

        Returns:
            The observation of all, and the info of those that were reset.
        """
        require_open(self, "reset")
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"options must be a dict or None, got {type(options).__name__}")
        queued = self._plan_queue(options)
        if queued is not None:
            seeds = row_seeds(seed, len(queued), "queued initial state, length")
            with self._whole():
                self.usage, self._started = Usage(), True
                self._queue = deque(zip(range(len(queued)), queued, seeds, strict=True))
                return self._begun(self._restart(range(self.num_envs)))
        plans = self._plan(options)
        if not self._started and len(plans) < self.num_envs:
            raise gym.error.ResetNeeded("the first reset must be of all sub-environments; leave out 'reset_mask'")
        seeds = row_seeds(seed, self.num_envs)
        with self._whole():
            self._seed({row: seeds[row] for row in plans})
            if len(plans) == self.num_envs:
                self.usage, self._queue, self._started = Usage(), None, True
            self._begin(plans)
            return self._begun(list(plans))

    def step(self, actions: ArrayLike) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Run one chunk in every sub-environment.

        After an error, even one of the world model or of the reward model, every episode is as it was, and the step
        can be taken again.

        Args:
            actions: (num_envs, k, a), finite and within the action space.

        Raises:
            InvalidActionError: The actions have another shape, are not finite or are out of bounds.
            ClosedEnvironmentError: The env was closed.
        """
        self._require_started("step")
        checked = require_actions(actions, self.action_space)
        with self._whole():
            found = self._step(checked)
        self._show()
        return found

    def _step(self, checked: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, Info]:
        # Ended episodes rest: `_advance` is not called on them, so they cost nothing.
        over = [row for row in range(self.num_envs) if self._rows[row].ended]
        live = [row for row in range(self.num_envs) if row not in over]
        self.usage = Usage(self.usage.slots + self.num_envs, self.usage.live + len(live))
        outcomes: dict[int, Outcome] = {}
        for row, outcome in (self._advance(live, checked) if live else {}).items():
            outcomes[row] = replace(outcome, info=NOTHING_RUN | outcome.info)
            self._rows[row].ended = outcome.ended
        # NEXT_STEP restarts those that ended before this step; SAME_STEP those that end in it, see `_collect`.
        again = self._restart(over) if self.autoreset_mode == AutoresetMode.NEXT_STEP else []
        outcomes |= {row: Outcome(self._rows[row].start_info()) for row in again}
        outcomes |= {row: Outcome(self._rows[row].start_info() | NOTHING_RUN) for row in over if row not in again}
        infos = self._collect(outcomes)
        ordered = [outcomes[row] for row in range(self.num_envs)]
        rewards = np.array([outcome.reward for outcome in ordered], dtype=np.float64)
        terminated = np.array([outcome.terminated for outcome in ordered], dtype=np.bool_)
        truncated = np.array([outcome.truncated for outcome in ordered], dtype=np.bool_)
        return self._observe(), rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return the last frame of each sub-environment, or all its frames since the last `render` or `reset`.

        None for `human`, where `reset` and `step` show every frame in the browser.
        """
        require_open(self, "render")
        if self.render_mode is None:
            warn(f"render does nothing without a render mode; pass render_mode= one of {RENDER_MODES}")
            return None
        self._require_started("render")
        if self.render_mode == "human":
            return None
        if self.render_mode == "rgb_array":
            return tuple(as_array(row.image) for row in self._rows)
        return self._unseen()

    def _unseen(self) -> tuple[list[np.ndarray], ...]:
        rendered = tuple([as_array(frame) for frame in row.unseen] for row in self._rows)
        for row in self._rows:
            row.show()
        return rendered

    def _show(self) -> None:
        """Show in the browser what is new, the first sub-environments side by side, each under its instruction."""
        if self.render_mode != "human":
            return
        from prophet_gym._io.pictures.viewer import Viewer

        self._viewer = self._viewer or Viewer(self.fps)
        videos = {}
        for place, (row, unseen) in enumerate(zip(self._rows[:SHOWN], self._unseen(), strict=False)):
            assert row.start is not None
            videos[f"{place}: {row.start.instruction}"] = unseen or [as_array(row.image)]
        self._viewer.show(videos)

    def close(self, **kwargs: Any) -> None:
        """Close the env, and the page of `human` once it has shown everything."""
        super().close(**kwargs)
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None

    def _require_started(self, call: str) -> None:
        require_open(self, call)
        if not self._started:
            raise gym.error.ResetNeeded(f"call reset before {call}")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Restore everything where an error comes from within: from a world or reward model, or an interrupt."""
        fields = {name: getattr(self, name) for name in self._replaced} | {"_queue": copy(self._queue)}
        rows = list(self._rows)
        put_back = [row.keep() for row in rows]
        try:
            yield
        except BaseException:  # an interrupt too: a notebook keeps using the env after it
            vars(self).update(fields)
            self._rows[:] = rows
            for each in put_back:
                each()
            raise

    def _restart(self, rows: Sequence[int]) -> list[int]:
        """Start the next episodes in these sub-environments; return those for which there was one."""
        if not rows:
            return []
        if self._queue is None:
            plans = self._plan(None)
            self._begin({row: plans[row] for row in rows})
            return list(rows)
        turns = {row: self._queue.popleft() for row in rows[: len(self._queue)]}
        self._seed({row: seed for row, (_, _, seed) in turns.items()})
        self._begin({row: plan for row, (_, plan, _) in turns.items()})
        for row, (index, _, _) in turns.items():
            self._rows[row].queue_index = index
        return list(turns)

    def _seed(self, seeds: Mapping[int, int | None]) -> None:
        # All generators are made before any is used: a seed that NumPy refuses then changes nothing.
        seeded = {row: seeding.np_random(seed) for row, seed in seeds.items() if seed is not None}
        for row, made in seeded.items():
            self._rows[row].np_random, self._rows[row].seed = made

    def _begun(self, rows: Sequence[int]) -> tuple[Observation, Info]:
        """Return what a reset of these sub-environments gives."""
        infos: dict[str, Any] = {}
        for row in rows:
            infos = self._add_info(infos, self._rows[row].start_info(), row)
        self._show()
        return self._observe(), infos

    def _at_horizon(self, row: int) -> bool:
        return self.max_episode_steps is not None and self._rows[row].elapsed >= self.max_episode_steps

    def _collect(self, outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
        """Return the infos of all; under SAME_STEP ended episodes restart here and leave their last step behind."""
        ended = [row for row in range(self.num_envs) if outcomes[row].ended]
        leaving = ended if self.autoreset_mode == AutoresetMode.SAME_STEP else []
        # The last observation must be read before the restart replaces it.
        final = {row: {name: seen[0] for name, seen in self._observation([row]).items()} for row in leaving}
        again = self._restart(leaving)
        infos: dict[str, Any] = {}
        for row in range(self.num_envs):
            info = outcomes[row].info
            if row in final:
                infos = self._add_info(infos, {"final_obs": final[row], "final_info": info}, row)
                info = self._rows[row].start_info() | ({} if row in again else NOTHING_RUN)
            infos = self._add_info(infos, info, row)
        return infos

    def _observe(self) -> Observation:
        return self._observation(range(self.num_envs))

    def _observation(self, rows: Sequence[int]) -> Observation:
        """Return fresh copies of what these sub-environments show."""
        return {"image": np.stack([as_array(self._rows[row].image) for row in rows])}

    def _row_random(self, row: int) -> np.random.Generator:
        own = self._rows[row]
        if own.np_random is None:
            own.np_random, own.seed = seeding.np_random()
        return own.np_random


def _observation_parts(
    frame_size: tuple[int, int], cameras: Sequence[str], *, proprioception: bool
) -> dict[str, gym.Space]:
    """Return the spaces of an observation, the same in every world."""
    seen: dict[str, gym.Space] = {
        CAMERAS[name]: gym.spaces.Box(0, 255, (*frame_size, 3), dtype=np.uint8) for name in cameras
    }
    if len(cameras) > 1:
        seen["state"] = gym.spaces.Box(-10.0, 10.0, (len(STATE_NAMES),), dtype=np.float32)  # metres and radians
    if proprioception:
        seen["gripper_position"] = gym.spaces.Box(-10.0, 10.0, (3,), dtype=np.float32)  # metres
    return seen


def chunk_box(spec: ActionSpec, steps: int) -> gym.spaces.Box:
    """Return the action space of chunks (steps, a) of a robot's actions."""
    low, high = (np.tile(np.asarray(bound, np.float32), (steps, 1)) for bound in (spec.low, spec.high))
    return gym.spaces.Box(low, high, dtype=np.float32)


def sub_env_info(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return the info of one sub-environment, without masks and without the entries that it does not have."""
    info: dict[str, Any] = {}
    for key, mask in infos.items():
        if not key.startswith("_") or key[1:] not in infos or not mask[row]:
            continue
        value = infos[key[1:]]
        entry = sub_env_info(value, row) if isinstance(value, Mapping) else value[row]
        info[key[1:]] = entry.item() if isinstance(entry, np.generic) else entry
    return info
