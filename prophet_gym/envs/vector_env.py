"""The dream behind Gymnasium: a batch of episodes that one world model dreams together, chunk by chunk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from prophet_gym.envs.chunking import require_actions
from prophet_gym.envs.options import plan_reset, row_seeds
from prophet_gym.envs.rows import Row, batch_frames
from prophet_gym.envs.starts import StartSet, require_frames
from prophet_gym.errors import unknown_option
from prophet_gym.specs import ActionSpec, InitialState
from prophet_gym.world_model import RewardModel, State, WorldModel, scatter_rows, select_rows

RENDER_MODES = ("rgb_array", "rgb_array_list")
RENDER_FPS = 20
NOISE_SEEDS = 2**63 - 1

Observation = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Outcome:
    """What one step did to one row."""

    info: dict[str, Any]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


class ProphetVectorEnv(VectorEnv):
    """A batch of dreams as a Gymnasium vector environment.

    One step is one action chunk per row, in the embodiment's command units. The observation is the last frame,
    `{"image": uint8 (b, h, w, 3)}`; `info["frames"]` has all frames (b, k, h, w, 3) of the step, `"executed"` how
    many actions were run (a dream runs whole chunks), `"reward_valid"` whether the reward was judged, `"success"`,
    `"live"` whether the row dreamt, and `"instruction"`, `"suite"`, `"task"`, `"start"`, `"start_set"`. As
    everywhere in Gymnasium, `info["_key"]` says which rows have an entry, and what an ended row saw moves to
    `info["final_info"]` under SAME_STEP.

    With autoreset DISABLED, ended rows absorb: their flags are reported once, then they are False with reward 0
    and `info["live"]` False, and the world model does not see them, until `reset(options={"reset_mask": ...})`.

    Example:
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> envs = ProphetVectorEnv(CountingWorldModel(chunk=4), counting_starts(), num_envs=3)
        >>> observation, info = envs.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        >>> info["frames"].shape, info["executed"].tolist()
        ((3, 4, 8, 8, 3), [4, 4, 4])
    """

    def __init__(
        self,
        world_model: WorldModel,
        starts: Sequence[InitialState],
        num_envs: int = 1,
        *,
        reward_model: RewardModel | None = None,
        max_episode_steps: int | None = 30,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        action_spec: ActionSpec | None = None,
    ) -> None:
        """Build the env; nothing is dreamt yet.

        Args:
            world_model: Dreams all rows; shared, never mutated by the env.
            starts: Where episodes start when `reset` is not told otherwise.
            num_envs: Rows, at least 1.
            reward_model: Judges the dream; without one every reward is 0 and `reward_valid` False.
            max_episode_steps: Chunks until an episode is truncated, None for no horizon.
            autoreset_mode: Any of Gymnasium's three.
            render_mode: `rgb_array` (last frame) or `rgb_array_list` (all frames since the last render).
            action_spec: Bounds of one action; [-1, 1] for every number if not given.
        """
        super().__init__()
        _require_arguments(num_envs, max_episode_steps, render_mode, world_model, action_spec)
        self.world_model = world_model
        self.reward_model = reward_model
        self.starts = starts if isinstance(starts, StartSet) else StartSet(starts)
        self._frame_size = (int(world_model.frame_size[0]), int(world_model.frame_size[1]))
        for start in self.starts:
            require_frames(start, self._frame_size)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_action_space = _action_space(world_model, action_spec)
        self.single_observation_space = gym.spaces.Dict(
            image=gym.spaces.Box(0, 255, (*self._frame_size, 3), dtype=np.uint8)
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rows = [Row() for _ in range(num_envs)]
        self._state: State | None = None

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """One generator per row, from which starts and the noise of dreams are drawn."""
        return tuple(self._row_random(row) for row in self._rows)

    @np_random.setter
    def np_random(self, value: Sequence[np.random.Generator]) -> None:
        if len(value) != self.num_envs:
            raise ValueError(f"np_random needs one generator per row, num_envs={self.num_envs}, got {len(value)}")
        for row, generator in zip(self._rows, value, strict=True):
            row.np_random = generator

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start episodes; see `prophet_gym.envs.options.plan_reset` for the options.

        Row i is seeded with `seed + i`, or with entry i of a sequence. Rows outside `reset_mask` go on as they
        are; their entries of `seed` are ignored. Errors leave every row as it was.
        """
        plan = plan_reset(options, self.starts, self.num_envs, self._frame_size)
        if self._state is None and len(plan.rows) < self.num_envs:
            raise gym.error.ResetNeeded("the first reset must be of all rows; leave out options['reset_mask']")
        seeds = row_seeds(seed, self.num_envs)
        seeded = {row: seeding.np_random(seeds[row])[0] for row in plan.rows if seeds[row] is not None}
        for row, generator in seeded.items():
            self._rows[row].np_random = generator
        self._begin(plan.rows, plan.candidates)
        infos: dict[str, Any] = {}
        for row in plan.rows:
            infos = self._add_info(infos, self._rows[row].start_info(), row)
        return self._observe(), infos

    def step(self, actions: ArrayLike) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Run one chunk per row.

        Args:
            actions: (num_envs, k, a), finite and within the action space, for every row.

        Raises:
            InvalidActionError: Before anything has changed.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset before step")
        checked = require_actions(actions, self.action_space)
        live = [row for row in range(self.num_envs) if not self._rows[row].ended]
        over = [row for row in range(self.num_envs) if self._rows[row].ended]
        outcomes = self._dream(live, checked) if live else {}
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._restart(over)
            outcomes |= {row: _Outcome(self._rows[row].start_info()) for row in over}
        else:
            outcomes |= {row: self._absorbed(row) for row in over}
        infos = self._collect(outcomes)
        rewards = np.array([outcomes[row].reward for row in range(self.num_envs)], dtype=np.float64)
        terminations = np.array([outcomes[row].terminated for row in range(self.num_envs)], dtype=np.bool_)
        truncations = np.array([outcomes[row].truncated for row in range(self.num_envs)], dtype=np.bool_)
        return self._observe(), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """Per row: the last frame, or the frames since the last `render` or `reset`."""
        if self.render_mode is None:
            gym.logger.warn(f"render does nothing without a render mode; pass render_mode= one of {RENDER_MODES}")
            return None
        if self._state is None:
            raise gym.error.ResetNeeded("call reset before render")
        if self.render_mode == "rgb_array":
            return tuple(row.image.copy() for row in self._rows)
        rendered = tuple([frame.copy() for frame in row.unseen] for row in self._rows)
        for row in self._rows:
            row.unseen = []
        return rendered

    def close_extras(self, **kwargs: Any) -> None:
        """Forget the episodes."""
        del kwargs
        self._state = None

    def _begin(self, rows: Sequence[int], candidates: Sequence[StartSet]) -> None:
        noise_seeds = [int(self._row_random(self._rows[row]).integers(NOISE_SEEDS)) for row in rows]
        starts = [pool.sample(self._row_random(self._rows[row])) for row, pool in zip(rows, candidates, strict=True)]
        for positions, frames in batch_frames(starts):
            part = self.world_model.encode(frames)
            targets = [rows[position] for position in positions]
            if self._state is None:
                self._state = {
                    name: tensor.new_zeros((self.num_envs, *tensor.shape[1:])) for name, tensor in part.items()
                }
            whole = targets == list(range(self.num_envs))
            self._state = part if whole else scatter_rows(self._state, targets, part)
        for row, start, noise_seed in zip(rows, starts, noise_seeds, strict=True):
            self._rows[row].begin(start, noise_seed, self.reward_model)
            if self.render_mode == "rgb_array_list":
                self._rows[row].unseen = [self._rows[row].image]

    def _restart(self, rows: Sequence[int]) -> None:
        if rows:
            self._begin(rows, [self.starts] * len(rows))

    def _dream(self, live: Sequence[int], actions: np.ndarray) -> dict[int, _Outcome]:
        assert self._state is not None
        everyone = len(live) == self.num_envs
        state = self._state if everyone else select_rows(self._state, live)
        generators = [self._rows[row].generator for row in live]
        chunk = self.world_model.rollout(state, torch.from_numpy(actions[list(live)]), generators=generators)
        self._state = chunk.state if everyone else scatter_rows(self._state, live, chunk.state)
        frames = chunk.frames.cpu().numpy()
        doubts = None if chunk.doubt is None else chunk.doubt.tolist()
        for row, clip in zip(live, frames, strict=True):
            self._rows[row].extend(clip, self.reward_model, collect=self.render_mode == "rgb_array_list")
        verdicts = self._judge(live)
        outcomes = {}
        for position, row in enumerate(live):
            reward, valid = verdicts.get(row, (0.0, False))
            info = self._step_info(row, frames[position], valid=valid, success=valid and reward >= 1.0)
            if doubts is not None:
                info["doubt"] = doubts[position]
            truncated = self._at_horizon(row)
            outcomes[row] = _Outcome(info, reward, info["success"], truncated)
            self._rows[row].ended = info["success"] or truncated
        return outcomes

    def _judge(self, rows: Sequence[int]) -> dict[int, tuple[float, bool]]:
        judge = self.reward_model
        if judge is None:
            return {}
        judged = [row for row in rows if judge.when == "chunk" or self._at_horizon(row)]
        if not judged:
            return {}
        videos = [torch.from_numpy(self._rows[row].video(judge)) for row in judged]
        verdict = judge.score(videos, [self._rows[row].start_info()["instruction"] for row in judged])
        return dict(zip(judged, zip(verdict.reward.tolist(), verdict.valid.tolist(), strict=True), strict=True))

    def _at_horizon(self, row: int) -> bool:
        return self.max_episode_steps is not None and self._rows[row].elapsed >= self.max_episode_steps

    def _step_info(self, row: int, frames: np.ndarray, *, valid: bool, success: bool) -> dict[str, Any]:
        return self._rows[row].start_info() | {
            "frames": frames,
            "executed": len(frames),
            "reward_valid": valid,
            "success": success,
            "live": True,
        }

    def _absorbed(self, row: int) -> _Outcome:
        info = {"executed": 0, "reward_valid": False, "success": False, "live": False}
        return _Outcome(self._rows[row].start_info() | info)

    def _collect(self, outcomes: Mapping[int, _Outcome]) -> dict[str, Any]:
        """Infos of all rows; under SAME_STEP ended rows restart here and leave their last step behind."""
        ended = [row for row in range(self.num_envs) if self._rows[row].ended]
        restarting = ended if self.autoreset_mode == AutoresetMode.SAME_STEP else []
        final = {row: {"image": self._rows[row].image.copy()} for row in restarting}
        self._restart(restarting)
        infos: dict[str, Any] = {}
        for row in range(self.num_envs):
            info = outcomes[row].info
            if row in final:
                infos = self._add_info(infos, {"final_obs": final[row], "final_info": info}, row)
                info = self._rows[row].start_info()
            infos = self._add_info(infos, info, row)
        return infos

    def _observe(self) -> Observation:
        return {"image": np.stack([row.image for row in self._rows])}

    @staticmethod
    def _row_random(row: Row) -> np.random.Generator:
        generator = row.np_random or seeding.np_random()[0]
        row.np_random = generator
        return generator


def row_info(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """The info of one row, without masks and without the entries that this row does not have."""
    info: dict[str, Any] = {}
    for key, mask in infos.items():
        if not key.startswith("_") or key[1:] not in infos or not mask[row]:
            continue
        value = infos[key[1:]]
        entry = row_info(value, row) if isinstance(value, Mapping) else value[row]
        info[key[1:]] = entry.item() if isinstance(entry, np.generic) else entry
    return info


def _action_space(world_model: WorldModel, action_spec: ActionSpec | None) -> gym.spaces.Box:
    shape = (int(world_model.chunk), int(world_model.action_dim))
    if action_spec is None:
        return gym.spaces.Box(-1.0, 1.0, shape, dtype=np.float32)
    low = np.broadcast_to(np.asarray(action_spec.low, np.float32), shape)
    high = np.broadcast_to(np.asarray(action_spec.high, np.float32), shape)
    return gym.spaces.Box(low, high, dtype=np.float32)


def _require_arguments(
    num_envs: int,
    max_episode_steps: int | None,
    render_mode: str | None,
    world_model: WorldModel,
    action_spec: ActionSpec | None,
) -> None:
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"max_episode_steps counts chunks and must be at least 1 or None, got {max_episode_steps}")
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise unknown_option("render mode", render_mode, RENDER_MODES)
    if action_spec is not None and action_spec.dim != world_model.action_dim:
        raise ValueError(f"action_spec has {action_spec.dim} numbers, the world model's {world_model.action_dim}")
