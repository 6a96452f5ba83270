"""Batched episodes of action chunks: autoreset, masks, flags and infos, written once for every world."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from prophet_gym._checks import require_count, require_number, unknown_option
from prophet_gym.envs._options import row_seeds
from prophet_gym.envs._plain import plain_spec
from prophet_gym.envs._require import require_actions, require_open
from prophet_gym.envs._sub_env import Row, Turn, Usage, as_array
from prophet_gym.specs import ActionSpec

RENDER_MODES = ("rgb_array", "rgb_array_list")
FPS = 20.0
"""Actions, and so frames, per second of LIBERO."""
GRIPPER_SPACE = gym.spaces.Box(-10.0, 10.0, (3,), dtype=np.float32)
"""Positions of a gripper in metres."""
START_FACTS = ("queue_index", "instruction", "suite", "task", "start", "split")
"""Entries of `info` that belong to the episode: they are the same at its every step."""
NOTHING_RUN = {"executed": 0, "scored": False, "success": False, "live": False, "approximate": False}
"""What `info` says, beside the episode's own entries, of a step at which no action was run."""

Observation = dict[str, Any]
"""Arrays by name; tensors in the torch env."""


@dataclass(frozen=True)
class Outcome:
    """What one step did to one sub-environment."""

    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


class EpisodeVectorEnv(VectorEnv):
    """Run the episodes of several sub-environments.

    A subclass says how episodes begin (`_plan`, `_begin`) and how live ones advance by one chunk (`_advance`).

    Attributes:
        fps: Actions, and so frames, per second of the scene.
        usage: How much of the batch was put to use since the last reset of all sub-environments.
    """

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
    ) -> None:
        super().__init__()
        num_envs = require_count("num_envs", num_envs)
        if max_episode_steps is not None:
            max_episode_steps = require_count("max_episode_steps counts chunks and", max_episode_steps)
        if render_mode is not None and not (isinstance(render_mode, str) and render_mode in RENDER_MODES):
            raise unknown_option("render mode", render_mode, RENDER_MODES)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = _mode(autoreset_mode)
        self.render_mode = render_mode
        self.fps = require_number("fps", fps, above=0)
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            # One image a step, or one for every action: videos keep the pace of the scene in both.
            "render_fps": self.fps / action_space.shape[0] if render_mode == "rgb_array" else self.fps,
            "autoreset_mode": self.autoreset_mode,
        }
        seen: dict[str, gym.Space] = {"image": gym.spaces.Box(0, 255, (*frame_size, 3), dtype=np.uint8)}
        if proprioception:
            seen["gripper_position"] = GRIPPER_SPACE
        self.single_action_space = action_space
        self.single_observation_space = gym.spaces.Dict(seen)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.usage = Usage()
        self._rows = [Row() for _ in range(num_envs)]
        self._queue: deque[Turn] | None = None
        self._started = False
        self._spec: EnvSpec | None = None

    @abstractmethod
    def _plan(self, options: Mapping[str, Any] | None) -> dict[int, Any]:
        """Return the sub-environments to reset, each with its plan, checked before anything changes.

        Autoreset asks with `options=None` and uses the plans of those that ended.
        """

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
    def spec(self) -> EnvSpec | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How `gym.make_vec` made the env, in plain data that JSON can carry; None where it did not."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = plain_spec(spec)

    @property
    def elapsed(self) -> tuple[int, ...]:
        """Chunks that each episode has run."""
        return tuple(row.elapsed for row in self._rows)

    @property
    def waiting(self) -> int:
        """Initial states of `options["queue"]` that wait for a sub-environment."""
        return 0 if self._queue is None else len(self._queue)

    @property
    def finished(self) -> bool:
        """Whether every episode has ended and none follows: autoreset is DISABLED, or the queue is empty."""
        absorbing = self._queue is not None or self.autoreset_mode == AutoresetMode.DISABLED
        return self._started and absorbing and not self.waiting and all(row.ended for row in self._rows)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """One generator per sub-environment, from which everything random in it is drawn."""
        return tuple(self._row_random(row) for row in range(self.num_envs))

    @np_random.setter
    def np_random(self, value: Sequence[np.random.Generator]) -> None:
        if len(value) != self.num_envs or not all(isinstance(each, np.random.Generator) for each in value):
            raise ValueError(f"np_random needs one Generator for each of num_envs={self.num_envs}, got {value!r}")
        for row, generator in zip(self._rows, value, strict=True):
            row.np_random, row.seed = generator, -1

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """The seed of each generator; -1, as in Gymnasium, where it came from elsewhere."""
        for row in range(self.num_envs):
            self._row_random(row)
        return tuple(row.seed for row in self._rows)

    def check_reset(self, options: Mapping[str, Any] | None) -> None:
        """Raise what `reset(options=options)` would raise, and change nothing."""
        if self._plan_queue(options) is None:
            self._plan(options)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
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
            turns = [Turn(index, *both) for index, both in enumerate(zip(queued, seeds, strict=True))]
            with self._whole():
                self.usage, self._queue, self._started = Usage(), deque(turns), True
                everyone = self._restart(range(self.num_envs))
                return self._observe(), self._start_infos(everyone)
        plans = self._plan(options)
        if not self._started and len(plans) < self.num_envs:
            raise gym.error.ResetNeeded("the first reset must be of all sub-environments; leave out 'reset_mask'")
        seeds = row_seeds(seed, self.num_envs)
        with self._whole():
            self._seed({row: seeds[row] for row in plans})
            if len(plans) == self.num_envs:
                self.usage, self._queue = Usage(), None
            self._start(plans)
            self._started = True
            return self._observe(), self._start_infos(list(plans))

    def step(self, actions: ArrayLike) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Run one chunk in every sub-environment.

        After an error, even one of the world model or of the reward model, every episode is as it was, and the step
        can be taken again.

        Args:
            actions: (num_envs, k, a), finite and within the action space.

        Raises:
            InvalidActionError: The actions are no such array.
            ClosedEnvironmentError: The env was closed.
        """
        require_open(self, "step")
        if not self._started:
            raise gym.error.ResetNeeded("call reset before step")
        checked = require_actions(actions, self.action_space)
        with self._whole():
            return self._step(checked)

    def _step(self, checked: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        # Ended episodes rest: `_advance` is not called on them, so they cost nothing.
        live = [row for row in range(self.num_envs) if not self._rows[row].ended]
        over = [row for row in range(self.num_envs) if self._rows[row].ended]
        self.usage = self.usage.after(self.num_envs, len(live))
        outcomes = self._advance(live, checked) if live else {}
        outcomes = {row: replace(outcome, info=NOTHING_RUN | outcome.info) for row, outcome in outcomes.items()}
        for row, outcome in outcomes.items():
            self._rows[row].ended = outcome.terminated or outcome.truncated
        # NEXT_STEP restarts those that ended before this step; SAME_STEP those that end in it, see `_collect`.
        again = self._restart(over) if self.autoreset_mode == AutoresetMode.NEXT_STEP else []
        outcomes |= {row: Outcome(self._rows[row].start_info()) for row in again}
        outcomes |= {row: self._absorbed(row) for row in over if row not in again}
        infos = self._collect(outcomes)
        ordered = [outcomes[row] for row in range(self.num_envs)]
        rewards = np.array([outcome.reward for outcome in ordered], dtype=np.float64)
        terminations = np.array([outcome.terminated for outcome in ordered], dtype=np.bool_)
        truncations = np.array([outcome.truncated for outcome in ordered], dtype=np.bool_)
        return self._observe(), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return the last frame of each sub-environment, or all its frames since the last `render` or `reset`."""
        require_open(self, "render")
        if self.render_mode is None:
            gym.logger.warn(f"render does nothing without a render mode; pass render_mode= one of {RENDER_MODES}")
            return None
        if not self._started:
            raise gym.error.ResetNeeded("call reset before render")
        if self.render_mode == "rgb_array":
            return tuple(as_array(row.image) for row in self._rows)
        rendered = tuple([as_array(frame) for frame in row.unseen] for row in self._rows)
        for row in self._rows:
            row.show()
        return rendered

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Restore everything where an error comes from within: from a world or reward model, or an interrupt."""
        fields, rows = self._fields(), list(self._rows)
        put_back = [row.keep() for row in rows]
        try:
            yield
        except BaseException:  # an interrupt too: a notebook keeps using the env after it
            vars(self).update(fields)
            self._rows[:] = rows
            for each in put_back:
                each()
            raise

    def _fields(self) -> dict[str, Any]:
        """Return what `reset` and `step` replace, beside the sub-environments."""
        queue = None if self._queue is None else self._queue.copy()
        return {"usage": self.usage, "_queue": queue, "_started": self._started}

    def _start(self, plans: Mapping[int, Any]) -> None:
        self._begin(plans)
        if self.render_mode == "rgb_array_list":
            for row in plans:
                self._rows[row].show(self._rows[row].image)

    def _restart(self, rows: Sequence[int]) -> list[int]:
        """Start the next episodes in these sub-environments; return those for which there was one."""
        if not rows:
            return []
        if self._queue is None:
            plans = self._plan(None)
            self._start({row: plans[row] for row in rows})
            return list(rows)
        turns = {row: self._queue.popleft() for row in rows[: len(self._queue)]}
        self._seed({row: turn.seed for row, turn in turns.items()})
        self._start({row: turn.plan for row, turn in turns.items()})
        for row, turn in turns.items():
            self._rows[row].queue_index = turn.index
        return list(turns)

    def _seed(self, seeds: Mapping[int, int | None]) -> None:
        # All generators are made before any is used: a seed that NumPy refuses then changes nothing.
        seeded = {row: seeding.np_random(seed) for row, seed in seeds.items() if seed is not None}
        for row, made in seeded.items():
            self._rows[row].np_random, self._rows[row].seed = made

    def _start_infos(self, rows: Sequence[int]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for row in rows:
            infos = self._add_info(infos, self._rows[row].start_info(), row)
        return infos

    def _at_horizon(self, row: int) -> bool:
        return self.max_episode_steps is not None and self._rows[row].elapsed >= self.max_episode_steps

    def _absorbed(self, row: int) -> Outcome:
        return Outcome(self._rows[row].start_info() | NOTHING_RUN)

    def _collect(self, outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
        """Return the infos of all; under SAME_STEP ended episodes restart here and leave their last step behind."""
        ended = [row for row in range(self.num_envs) if outcomes[row].terminated or outcomes[row].truncated]
        leaving = ended if self.autoreset_mode == AutoresetMode.SAME_STEP else []
        # The last observation must be read before the restart replaces it.
        final = {row: self._observe_row(row) for row in leaving}
        again = self._restart(leaving)
        infos: dict[str, Any] = {}
        for row in range(self.num_envs):
            info = outcomes[row].info
            if row in final:
                infos = self._add_info(infos, {"final_obs": final[row], "final_info": info}, row)
                info = self._rows[row].start_info() if row in again else self._absorbed(row).info
            infos = self._add_info(infos, info, row)
        return infos

    def _observe(self) -> Observation:
        return {"image": np.stack([as_array(row.image) for row in self._rows])}

    def _observe_row(self, row: int) -> Observation:
        return {"image": as_array(self._rows[row].image)}

    def _row_random(self, row: int) -> np.random.Generator:
        if self._rows[row].np_random is None:
            self._rows[row].np_random, self._rows[row].seed = seeding.np_random()
        generator = self._rows[row].np_random
        assert generator is not None
        return generator


def chunk_box(spec: ActionSpec, steps: int) -> gym.spaces.Box:
    """Return the action space of chunks (steps, a) of a robot's actions."""
    low, high = (np.tile(np.asarray(bound, np.float32), (steps, 1)) for bound in (spec.low, spec.high))
    return gym.spaces.Box(low, high, dtype=np.float32)


def _mode(given: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(given)
    except ValueError as error:
        raise unknown_option("autoreset mode", given, [mode.value for mode in AutoresetMode]) from error


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
