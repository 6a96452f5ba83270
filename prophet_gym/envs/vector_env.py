"""The dream behind Gymnasium: a batch of episodes that one world model dreams together, chunk by chunk."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from jaxtyping import UInt8

from prophet_gym.envs._episodes import FPS, GRIPPER_SPACE, EpisodeVectorEnv, Observation, Outcome, require_open
from prophet_gym.envs._options import plan_queue, plan_reset, row_seeds
from prophet_gym.envs._plain import require_flag
from prophet_gym.envs._require import (
    read_rewards,
    require_chunk,
    require_reward_model,
    require_threshold,
    require_world_model,
)
from prophet_gym.envs._snapshots import pack_row, unpack_row
from prophet_gym.envs._sub_env import Frame, Row, batch_frames
from prophet_gym.envs.initial_states import InitialStates, require_frames
from prophet_gym.errors import InvalidRewardError, InvalidStartError, require_count, require_different
from prophet_gym.specs import ActionSpec, InitialState
from prophet_gym.world_model import (
    Chunk,
    RewardModel,
    State,
    WorldModel,
    concat_batches,
    encode_initial_states,
    scatter_batch,
    select_batch,
)

NOISE_SEEDS = 2**63 - 1
BYTES = bytes | bytearray | memoryview

Clips: TypeAlias = UInt8[np.ndarray, "b k h w 3"] | UInt8[torch.Tensor, "b k h w 3"]


class ProphetVectorEnv(EpisodeVectorEnv):
    """A batch of dreams as a Gymnasium vector environment.

    One step is one action chunk per row, in the embodiment's command units. The observation is the last frame,
    `{"image": uint8 (b, h, w, 3)}`; `info["frames"]` has all frames (b, k, h, w, 3) of the step, `"executed"` how
    many actions were run (a dream runs whole chunks), `"scored"` whether the reward was judged, `"success"`,
    `"live"` whether the row dreamt, `"approximate"` whether it dreamt what its model was not trained for (see
    `ShortenedChunk`), `"uncertainty"` how unsure the world model is, where it tells (larger is less sure), and
    `"instruction"`, `"suite"`, `"task"`, `"start"`, `"split"`. As everywhere in Gymnasium, `info["_key"]` says which
    rows have an entry, and what an ended row saw moves to `info["final_info"]` under SAME_STEP.

    With autoreset DISABLED, ended rows absorb: their flags are reported once, then they are False with reward 0
    and `info["live"]` False, and the world model does not see them, until `reset(options={"reset_mask": ...})`.

    `reset(options={"queue": starts})` dreams every start once: a row that ends takes the next that waits
    (`info["queue_index"]`), and absorbs when none is left; `finished` says when all are done and `usage` how full
    the batch was. The j-th episode is seeded with `seed + j`, so it is the same dream in a batch of any size.

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
        proprioception: bool = False,
        max_uncertainty: float | None = None,
        fps: float = FPS,
    ) -> None:
        """Build the env; nothing is dreamt yet.

        Args:
            world_model: Dreams all rows; shared, never mutated by the env.
            starts: Where episodes start when `reset` is not told otherwise.
            num_envs: Rows, at least 1.
            reward_model: Judges the dream; without one every reward is 0 and `scored` False.
            max_episode_steps: Chunks until an episode is truncated, None for no horizon.
            autoreset_mode: Any of Gymnasium's three.
            render_mode: `rgb_array` (last frame) or `rgb_array_list` (all frames since the last render).
            action_spec: Bounds of one action; [-1, 1] for every number if not given.
            proprioception: Adds `gripper_position` to the observation, float32 (b, 3) in metres: where the world
                model's own tracker has the gripper. It is an estimate, as all else in a dream.
            max_uncertainty: A row is truncated when the chunk's `info["uncertainty"]` is larger; a reward model
                with `when="end"` is not asked about it then, so it stays unscored.
            fps: Actions, and so frames, per second of the scene: how fast films are played.

        Raises:
            ValueError: If `world_model` is not a WorldModel or `reward_model` not a RewardModel, or if the world model
                has no tracker, for `proprioception`.
            InvalidStartError: If a start is not an InitialState, or of another size than the world model's frames.
        """
        world_model = require_world_model(world_model)
        super().__init__(
            num_envs,
            _action_space(world_model, action_spec),
            (int(world_model.frame_size[0]), int(world_model.frame_size[1])),
            max_episode_steps=max_episode_steps,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
            fps=fps,
        )
        self.world_model = world_model
        self.reward_model = require_reward_model(reward_model)
        self.starts = starts if isinstance(starts, InitialStates) else InitialStates(starts)
        self._frame_size = (int(world_model.frame_size[0]), int(world_model.frame_size[1]))
        for start in self.starts:
            require_frames(start.frames, self._frame_size)
        self._state: State | None = None
        self._reads_gripper = require_flag("proprioception", proprioception)
        self.max_uncertainty = (
            None if max_uncertainty is None else require_threshold("max_uncertainty", max_uncertainty)
        )
        if self._reads_gripper:
            if not hasattr(world_model, "read_gripper"):
                raise ValueError(
                    f"proprioception needs a world model that tracks the gripper (read_gripper), and this "
                    f"{type(world_model).__name__} does not; leave it out"
                )
            image = gym.spaces.Box(0, 255, (*self._frame_size, 3), dtype=np.uint8)
            self.single_observation_space = gym.spaces.Dict(gripper_position=GRIPPER_SPACE, image=image)
            self.observation_space = batch_space(self.single_observation_space, num_envs)

    def get_state(self, row: int = 0) -> bytes:
        """One row as safetensors bytes: its dream, its randomness, its place in the episode.

        The bytes and the actions that follow are a saved dream: `set_state` and the same actions give it again, to
        the bit on one CPU with one batch size.

        Raises:
            ResetNeeded: Before the first reset.
            ValueError: If there is no such row.
        """
        require_open(self, "get_state")
        if not self._started:
            raise gym.error.ResetNeeded("call reset before get_state")
        if require_count("row", row, 0) >= self.num_envs:
            raise ValueError(f"row must be in 0..{self.num_envs - 1}, got {row}")
        assert self._state is not None
        self._row_random(row)
        return pack_row(self._rows[row], select_batch(self._state, [row]))

    def set_state(
        self,
        states: bytes | bytearray | memoryview | Sequence[bytes],
        rows: Sequence[int] | None = None,
        *,
        seed: int | Sequence[int | None] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Go on from saved rows; what was running in these rows is forgotten. Errors leave every row as it was.

        Args:
            states: From `get_state`, here or in another process: one for all of `rows` (a group that begins at the
                same moment), or one per row.
            rows: Which rows; all of them if not given, and at first.
            seed: New randomness, `seed + i` for the i-th of `rows` or one entry each. Without it the saved one goes
                on: rows that were set from the same bytes dream the same under the same actions.

        Returns:
            Observation and info as from `reset`.

        Raises:
            InvalidStartError: If a state is none, or was saved under another world model or judge.
        """
        require_open(self, "set_state")
        chosen = list(range(self.num_envs)) if rows is None else require_different("rows", rows, self.num_envs)
        if not self._started and len(chosen) < self.num_envs:
            raise gym.error.ResetNeeded("the first set_state must be of all rows; leave out rows")
        if not isinstance(states, BYTES | Sequence):
            raise InvalidStartError(f"a saved row must be the bytes of get_state, got {type(states).__name__}")
        data = [bytes(states)] * len(chosen) if isinstance(states, BYTES) else list(states)
        if len(data) != len(chosen):
            raise ValueError(f"states must be one for all or one per row, {len(chosen)}, got {len(data)}")
        seeds = row_seeds(seed, len(chosen), "row to set, length")
        state = self._blank() if self._state is None else self._state
        found = [unpack_row(item, state, self._frame_size, self.reward_model) for item in data]
        with self._whole():
            self._state = state
            self._place(chosen, [row for row, _ in found], concat_batches([state for _, state in found]))
            self._seed(dict(zip(chosen, seeds, strict=True)))
            for row in (row for row, new in zip(chosen, seeds, strict=True) if new is not None):
                self._rows[row].generator.manual_seed(int(self._row_random(row).integers(NOISE_SEEDS)))
            self._started = True
            return self._observe(), self._start_infos(chosen)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProphetVectorEnv":
        """Copy the episodes; the models and the starts, which no env changes, are shared, as between any two envs."""
        memo |= {id(shared): shared for shared in (self.world_model, self.reward_model, self.starts)}
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

    def _fields(self) -> dict[str, Any]:
        return super()._fields() | {"_state": self._state}

    def _place(self, targets: Sequence[int], rows: Sequence[Row], state: State) -> None:
        assert self._state is not None
        self._state = scatter_batch(self._state, targets, state)
        for target, row in zip(targets, rows, strict=True):
            self._rows[target] = row

    def _blank(self) -> State:
        """A state of the right form, for rows to be put into."""
        start = self.starts[0]
        one = encode_initial_states(self.world_model, torch.from_numpy(np.array(start.frames[None])), [start])
        return select_batch(one, [0] * self.num_envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Forget the episodes."""
        del kwargs
        self._started = False
        self._state = None

    def _plan(self, options: Mapping[str, Any] | None) -> dict[int, InitialStates]:
        return plan_reset(options, self.starts, self.num_envs, self._frame_size)

    def _plan_queue(self, options: Mapping[str, Any] | None) -> list[InitialStates] | None:
        return plan_queue(options, self.starts, self.num_envs, self._frame_size, self.autoreset_mode)

    def _begin(self, plans: Mapping[int, InitialStates]) -> None:
        rows = list(plans)
        noise_seeds = [int(self._row_random(row).integers(NOISE_SEEDS)) for row in rows]
        starts = [plans[row].sample(self._row_random(row)) for row in rows]
        for positions, frames in batch_frames(starts):
            part = encode_initial_states(self.world_model, frames, [starts[position] for position in positions])
            targets = [rows[position] for position in positions]
            if self._state is None:
                self._state = {
                    name: tensor.new_zeros((self.num_envs, *tensor.shape[1:])) for name, tensor in part.items()
                }
            whole = targets == list(range(self.num_envs))
            self._state = part if whole else scatter_batch(self._state, targets, part)
        for row, start, noise_seed in zip(rows, starts, noise_seeds, strict=True):
            self._rows[row].begin(start, noise_seed, self.reward_model, self._first_frame(start))

    def _observe(self) -> Observation:
        return super()._observe() | self._proprioception(range(self.num_envs))

    def _observe_row(self, row: int) -> Observation:
        return super()._observe_row(row) | {name: value[0] for name, value in self._proprioception([row]).items()}

    def _proprioception(self, rows: Sequence[int]) -> Observation:
        if not self._reads_gripper:
            return {}
        assert self._state is not None
        position = getattr(self.world_model, "read_gripper")(select_batch(self._state, list(rows)))  # noqa: B009
        return {"gripper_position": position.cpu().numpy().astype(np.float32)}

    def _advance(self, live: Sequence[int], actions: np.ndarray) -> dict[int, Outcome]:
        assert self._state is not None
        everyone = len(live) == self.num_envs
        state = self._state if everyone else select_batch(self._state, live)
        generators = [self._rows[row].generator for row in live]
        chunk = self.world_model.rollout(state, torch.from_numpy(actions[list(live)]), generators=generators)
        require_chunk(chunk, self.world_model, len(live))
        if chunk.uncertainty is None and self.max_uncertainty is not None:
            raise ValueError(
                "max_uncertainty needs a world model that tells its doubt, and this one gave None; leave it out"
            )
        self._state = chunk.state if everyone else scatter_batch(self._state, live, chunk.state)
        frames = self._frames(chunk)
        uncertainties = None if chunk.uncertainty is None else chunk.uncertainty.tolist()
        for row, clip in zip(live, frames, strict=True):
            self._rows[row].extend(clip, self.reward_model, collect=self.render_mode == "rgb_array_list")
        outputs = self._judge(live)
        outcomes = {}
        for position, row in enumerate(live):
            reward, scored, success = outputs.get(row, (0.0, False, False))
            info = self._rows[row].start_info() | {
                "frames": frames[position],
                "executed": len(frames[position]),
                "scored": scored,
                "success": success,
                "live": True,
                "approximate": chunk.approximate,
            }
            truncated = self._at_horizon(row)
            if uncertainties is not None:
                info["uncertainty"] = uncertainties[position]
                truncated = truncated or (
                    self.max_uncertainty is not None and not uncertainties[position] <= self.max_uncertainty
                )
            outcomes[row] = Outcome(info, reward, success, truncated)
        return outcomes

    def _frames(self, chunk: Chunk) -> Clips:
        """The frames as they go into `info`."""
        return chunk.frames.cpu().numpy()

    def _first_frame(self, start: InitialState) -> Frame:
        """The first frame of an episode, as all others are kept."""
        return start.frames[-1].copy()

    def _judge(self, rows: Sequence[int]) -> dict[int, tuple[float, bool, bool]]:
        reward_model = self.reward_model
        if reward_model is None:
            return {}
        scored = [row for row in rows if reward_model.when == "chunk" or self._at_horizon(row)]
        if not scored:
            return {}
        videos = [torch.as_tensor(self._rows[row].video(reward_model)) for row in scored]
        try:
            output = reward_model.score(videos, [self._rows[row].start_info()["instruction"] for row in scored])
        except InvalidRewardError as error:  # it knows its videos by their number alone
            kind = type(reward_model).__name__
            raise InvalidRewardError(
                f"this {kind} scored the sub-environments {scored}: {error}; the step was not taken"
            ) from error
        return read_rewards(reward_model, output, scored)


def _action_space(world_model: WorldModel, action_spec: ActionSpec | None) -> gym.spaces.Box:
    shape = (int(world_model.chunk), int(world_model.action_dim))
    if action_spec is not None and not isinstance(action_spec, ActionSpec):
        raise ValueError(f"action_spec must be an ActionSpec, or None for [-1, 1], got {action_spec!r}")
    if action_spec is not None and action_spec.dim != world_model.action_dim:
        raise ValueError(f"action_spec has {action_spec.dim} numbers, the world model's {world_model.action_dim}")
    if action_spec is None:
        return gym.spaces.Box(-1.0, 1.0, shape, dtype=np.float32)
    low = np.broadcast_to(np.asarray(action_spec.low, np.float32), shape)
    high = np.broadcast_to(np.asarray(action_spec.high, np.float32), shape)
    return gym.spaces.Box(low, high, dtype=np.float32)
