"""The dream behind Gymnasium: a batch of episodes that one world model dreams together, chunk by chunk."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from prophet_gym.envs.episodes import EpisodeVectorEnv, Outcome
from prophet_gym.envs.options import plan_reset
from prophet_gym.envs.rows import batch_frames
from prophet_gym.envs.starts import StartSet, require_frames
from prophet_gym.specs import ActionSpec, InitialState
from prophet_gym.world_model import RewardModel, State, WorldModel, scatter_rows, select_rows

NOISE_SEEDS = 2**63 - 1


class ProphetVectorEnv(EpisodeVectorEnv):
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
        super().__init__(
            num_envs,
            _action_space(world_model, action_spec),
            (int(world_model.frame_size[0]), int(world_model.frame_size[1])),
            max_episode_steps=max_episode_steps,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
        )
        self.world_model = world_model
        self.reward_model = reward_model
        self.starts = starts if isinstance(starts, StartSet) else StartSet(starts)
        self._frame_size = (int(world_model.frame_size[0]), int(world_model.frame_size[1]))
        for start in self.starts:
            require_frames(start, self._frame_size)
        self._state: State | None = None

    def close_extras(self, **kwargs: Any) -> None:
        """Forget the episodes."""
        del kwargs
        self._started = False
        self._state = None

    def _plan(self, options: Mapping[str, Any] | None) -> dict[int, StartSet]:
        return plan_reset(options, self.starts, self.num_envs, self._frame_size)

    def _begin(self, plans: Mapping[int, StartSet]) -> None:
        rows = list(plans)
        noise_seeds = [int(self._row_random(row).integers(NOISE_SEEDS)) for row in rows]
        starts = [plans[row].sample(self._row_random(row)) for row in rows]
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

    def _advance(self, live: Sequence[int], actions: np.ndarray) -> dict[int, Outcome]:
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
            reward, valid, success = verdicts.get(row, (0.0, False, False))
            info = self._rows[row].start_info() | {
                "frames": frames[position],
                "executed": len(frames[position]),
                "reward_valid": valid,
                "success": success,
                "live": True,
            }
            if doubts is not None:
                info["doubt"] = doubts[position]
            outcomes[row] = Outcome(info, reward, success, self._at_horizon(row))
        return outcomes

    def _judge(self, rows: Sequence[int]) -> dict[int, tuple[float, bool, bool]]:
        judge = self.reward_model
        if judge is None:
            return {}
        judged = [row for row in rows if judge.when == "chunk" or self._at_horizon(row)]
        if not judged:
            return {}
        videos = [torch.from_numpy(self._rows[row].video(judge)) for row in judged]
        verdict = judge.score(videos, [self._rows[row].start_info()["instruction"] for row in judged])
        columns = (verdict.reward.tolist(), verdict.valid.tolist(), verdict.success.tolist())
        return dict(zip(judged, zip(*columns, strict=True), strict=True))


def _action_space(world_model: WorldModel, action_spec: ActionSpec | None) -> gym.spaces.Box:
    shape = (int(world_model.chunk), int(world_model.action_dim))
    if action_spec is not None and action_spec.dim != world_model.action_dim:
        raise ValueError(f"action_spec has {action_spec.dim} numbers, the world model's {world_model.action_dim}")
    if action_spec is None:
        return gym.spaces.Box(-1.0, 1.0, shape, dtype=np.float32)
    low = np.broadcast_to(np.asarray(action_spec.low, np.float32), shape)
    high = np.broadcast_to(np.asarray(action_spec.high, np.float32), shape)
    return gym.spaces.Box(low, high, dtype=np.float32)
