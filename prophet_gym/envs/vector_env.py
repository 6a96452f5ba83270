"""A batch of episodes that one world model generates together, as a Gymnasium vector environment."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from jaxtyping import UInt8

from prophet_gym._batches import concat_batches, scatter_batch, select_batch
from prophet_gym._checks import require_count, require_different
from prophet_gym.envs._episodes import EVERY_FRAME, FPS, EpisodeVectorEnv, Info, Observation, Outcome, chunk_box
from prophet_gym.envs._initial_states import InitialStates, require_frames
from prophet_gym.envs._on_demand import as_choosing, footage, look, require_render
from prophet_gym.envs._options import plan_queue, plan_reset, row_seeds
from prophet_gym.envs._plain import Cameras
from prophet_gym.envs._require import (
    read_rewards,
    require_abilities,
    require_chunk,
    require_open,
    require_reward_model,
    require_threshold,
    require_world_model,
)
from prophet_gym.envs._snapshots import pack_row, unpack_row
from prophet_gym.envs._sub_env import Row
from prophet_gym.errors import InvalidRewardError, InvalidStartError
from prophet_gym.specs import CAMERAS, FIRST_CAMERA, WRIST_CAMERA, ActionSpec, InitialState
from prophet_gym.world_model import (
    DecodesOnDemand,
    RewardModel,
    ShowsWrist,
    State,
    TracksGripper,
    WorldModel,
    encode_initial_states,
)

_NOISE_SEEDS = 2**63 - 1
_BYTES = bytes | bytearray | memoryview


class ProphetVectorEnv(EpisodeVectorEnv):
    """Simulate a batch of episodes of `ProphetEnv` with one copy of the world model.

    ## Spaces, rewards, info
    As in `ProphetEnv`, with a leading axis of `num_envs`. As everywhere in Gymnasium, `info["_key"]` says which
    sub-environments have an entry `key`; `sub_env_info(info, i)` returns the info of sub-environment i. An episode is a
    function of weights, initial state, actions and seed, independent of the batch around it.

    ## Autoreset
    All three of Gymnasium's modes are supported. Under `DISABLED` a sub-environment whose episode has ended costs
    nothing until it is reset: its reward is 0, its flags and `info["live"]` are False.

    ## Options of reset
    `task`, `start` and `starts` as in `ProphetEnv`, one for all sub-environments or one for each; and
    - `reset_mask`: bool `(num_envs,)`, the sub-environments to reset.
    - `queue`: initial states, one episode for each. A sub-environment whose episode ends takes the next state
      (`info["queue_index"]`) and idles when none is left. `finished` says when all are done, `usage` how full the
      batch was.

    Example:
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> envs = ProphetVectorEnv(CountingWorldModel(chunk=4), counting_starts(), num_envs=3)
        >>> observation, info = envs.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        >>> info["frames"].shape, info["executed"].tolist()
        ((3, 4, 8, 8, 3), [4, 4, 4])
    """

    _replaced = (*EpisodeVectorEnv._replaced, "_state")

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
        render: str = "step",
        cameras: Cameras = (FIRST_CAMERA,),
    ) -> None:
        """Build the env; nothing is generated yet.

        Args:
            world_model: Generates the frames; shared between envs, which never change it.
            starts: The initial states that `reset` draws from.
            num_envs: Number of sub-environments, at least 1.
            reward_model: Scores the generated frames; None makes every reward 0 and `info["scored"]` False.
            max_episode_steps: Number of chunks until an episode is truncated; None for no limit.
            autoreset_mode: Any of Gymnasium's three.
            render_mode: `rgb_array` (the last frame), `rgb_array_list` (all since the last render), `human` (a page).
            action_spec: Bounds of one action; [-1, 1] in every dimension by default.
            proprioception: Adds `gripper_position`, float32 (b, 3), the world model's estimate in metres.
            max_uncertainty: Truncates an episode above this uncertainty; `when="end"` reward models do not score it.
            fps: Number of actions, and so of frames, per second; videos are played at this rate.
            render: `step` decodes every frame. `chunk` decodes the last frame of each step and those that the reward
                model reads: there is no `info["frames"]` then, and `info["uncertainty"]` only with `max_uncertainty`.
            cameras: `("agentview", "wrist")` adds `wrist_image` and `state`, where the world model `ShowsWrist`.

        Raises:
            ValueError: `world_model` or `reward_model` does not fit its protocol, or the gripper is not tracked.
            InvalidStartError: An initial state does not fit the world model's frames.
        """
        self.world_model = world_model = require_world_model(world_model)
        self._frame_size = (int(world_model.frame_size[0]), int(world_model.frame_size[1]))
        self._reads_gripper, cameras = require_abilities(world_model, proprioception, cameras)
        super().__init__(
            num_envs,
            _action_space(world_model, action_spec),
            self._frame_size,
            max_episode_steps=max_episode_steps,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
            fps=fps,
            proprioception=self._reads_gripper,
            cameras=cameras,
        )
        self.reward_model = require_reward_model(reward_model)
        self.starts = starts if isinstance(starts, InitialStates) else InitialStates(starts)
        for start in self.starts:
            require_frames(start.frames, self._frame_size)
        self.max_uncertainty = require_threshold("max_uncertainty", max_uncertainty)
        self._state: State | None = None
        self._every_frame = require_render(render, render_mode) == "step"

    def get_state(self, index: int = 0) -> bytes:
        """Return a snapshot of one sub-environment (episode, step count and generator) as safetensors bytes.

        After `set_state` the same actions give the same frames: to the bit on one CPU with one batch size.

        Raises:
            ResetNeeded: The env was not reset yet.
            ValueError: There is no such sub-environment.
        """
        self._require_started("get_state")
        if require_count("index", index, 0) >= self.num_envs:
            raise ValueError(f"index must be in 0..{self.num_envs - 1}, got {index}")
        assert self._state is not None
        self._row_random(index)
        if self._on_demand is not None:
            self._look({index: self._rows[index].window})
        return pack_row(self._rows[index], select_batch(self._state, [index]))

    def set_state(
        self,
        states: bytes | bytearray | memoryview | Sequence[bytes],
        indices: Sequence[int] | None = None,
        *,
        seed: int | Sequence[int | None] | None = None,
    ) -> tuple[Observation, Info]:
        """Continue saved episodes in place of the current ones; an error leaves every episode unchanged.

        Args:
            states: Snapshots of `get_state`, from here or another process: one for each of `indices`, or one for all
                of them (a group of rollouts that begins at the same moment).
            indices: The sub-environments to set; by default all, as the first call must.
            seed: Seed of new generators: `seed + i` for the i-th of `indices`, or one entry each. None keeps the saved
                generators: sub-environments set from the same snapshot then do the same under the same actions.

        Returns:
            Observation and info as from `reset`.

        Raises:
            InvalidStartError: A state is no snapshot, or was saved under another world model or reward model.
        """
        require_open(self, "set_state")
        everyone = list(range(self.num_envs))
        chosen = everyone if indices is None else require_different("indices", indices, self.num_envs)
        if not self._started and len(chosen) < self.num_envs:
            raise gym.error.ResetNeeded("the first set_state must be of all sub-environments; leave out indices")
        if not isinstance(states, _BYTES | Sequence):
            raise InvalidStartError(f"a snapshot must be the bytes of get_state, got {type(states).__name__}")
        data = [bytes(states)] * len(chosen) if isinstance(states, _BYTES) else list(states)
        if len(data) != len(chosen):
            raise ValueError(f"states must be one for all or one each, {len(chosen)}, got {len(data)}")
        seeds = row_seeds(seed, len(chosen), "sub-environment to set, length")
        state = self._blank() if self._state is None else self._state
        found = [unpack_row(item, state, self._frame_size, self.reward_model) for item in data]
        with self._whole():
            self._state = state
            self._place(chosen, [row for row, _ in found], concat_batches([state for _, state in found]))
            self._seed(dict(zip(chosen, seeds, strict=True)))
            for row in (row for row, new in zip(chosen, seeds, strict=True) if new is not None):
                self._rows[row].generator.manual_seed(int(self._row_random(row).integers(_NOISE_SEEDS)))
            self._started = True
            return self._begun(chosen)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProphetVectorEnv":
        """Copy the episodes; models and initial states, which no env changes, are shared as between any two envs."""
        memo |= {id(shared): shared for shared in (self.world_model, self.reward_model, self.starts)}
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        vars(other).update(copy.deepcopy(vars(self), memo))
        return other

    def close_extras(self, **kwargs: Any) -> None:
        """Forget the episodes."""
        del kwargs
        self._started = False
        self._state = None

    def _place(self, targets: Sequence[int], rows: Sequence[Row], state: State) -> None:
        assert self._state is not None
        self._state = scatter_batch(self._state, targets, state)
        for target, row in zip(targets, rows, strict=True):
            row.image = self._keep(torch.as_tensor(row.image))
            window = [self._keep(torch.as_tensor(row.kept[number])) for number in row.window]
            row.recall(window, row.frames, self.reward_model)
            self._rows[target] = row

    def _blank(self) -> State:
        """Return a state of the right form, for others to be put into."""
        start = self.starts[0]
        one = encode_initial_states(self.world_model, torch.from_numpy(np.array(start.frames[None])), [start])
        return select_batch(one, [0] * self.num_envs)

    def _plan(self, options: Mapping[str, Any] | None) -> dict[int, InitialStates]:
        return plan_reset(options, self.starts, self.num_envs, self._frame_size)

    def _plan_queue(self, options: Mapping[str, Any] | None) -> list[InitialStates] | None:
        return plan_queue(options, self.starts, self.num_envs, self._frame_size, self.autoreset_mode)

    def _begin(self, plans: Mapping[int, InitialStates]) -> None:
        rows = list(plans)
        # The noise seed is drawn first, so that naming an initial state leaves the noise as it would have been.
        noise_seeds = [int(self._row_random(row).integers(_NOISE_SEEDS)) for row in rows]
        starts = [plans[row].sample(self._row_random(row)) for row in rows]
        # Initial states of one to four frames: those of equal length are encoded in one batch.
        for length in {len(start.frames): None for start in starts}:
            chosen = [place for place, start in enumerate(starts) if len(start.frames) == length]
            frames = torch.from_numpy(np.stack([starts[place].frames for place in chosen]))
            part = encode_initial_states(self.world_model, frames, [starts[place] for place in chosen])
            targets = [rows[place] for place in chosen]
            if self._state is None:
                self._state = {name: value.new_zeros((self.num_envs, *value.shape[1:])) for name, value in part.items()}
            whole = targets == list(range(self.num_envs))
            self._state = part if whole else scatter_batch(self._state, targets, part)
        for row, start, noise_seed in zip(rows, starts, noise_seeds, strict=True):
            first = self._keep(torch.from_numpy(start.frames[-1].copy()))
            self._rows[row].begin(start, noise_seed, self.reward_model, first)

    def _observation(self, rows: Sequence[int]) -> Observation:
        seen = super()._observation(rows)
        if self._reads_gripper:
            seen["gripper_position"] = self._read_gripper(rows).cpu().numpy().astype(np.float32)
        return seen | {name: part.cpu().numpy() for name, part in self._read_hand(rows).items()}

    def _read_hand(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the parts of the observation that come with a second camera."""
        if len(self.cameras) == 1:
            return {}
        assert self._state is not None
        assert isinstance(self.world_model, ShowsWrist)
        state = select_batch(self._state, list(rows))
        own = self.world_model.read_robot_state(state).float()
        return {CAMERAS[WRIST_CAMERA]: self.world_model.read_wrist(state), "state": own}

    def _read_state_errors(self, rows: Sequence[int]) -> np.ndarray | None:
        if len(self.cameras) == 1:
            return None
        assert self._state is not None
        assert isinstance(self.world_model, ShowsWrist)
        errors = self.world_model.read_state_error(select_batch(self._state, list(rows)))
        return None if errors is None else errors.float().cpu().numpy()

    def _read_gripper(self, rows: Sequence[int]) -> torch.Tensor:
        assert self._state is not None
        assert isinstance(self.world_model, TracksGripper)
        return self.world_model.read_gripper(select_batch(self._state, list(rows)))

    def _advance(self, live: Sequence[int], actions: np.ndarray) -> dict[int, Outcome]:
        assert self._state is not None
        # Ended episodes are not generated further: a batch costs what its live part costs.
        everyone = len(live) == self.num_envs
        state = self._state if everyone else select_batch(self._state, live)
        generators = [self._rows[row].generator for row in live]
        following, dreamt, unsure, approximate = self._dream(state, torch.from_numpy(actions[list(live)]), generators)
        self._state = following if everyone else scatter_batch(self._state, live, following)
        frames = None if dreamt is None else self._keep(dreamt)
        for place, row in enumerate(live):
            if frames is None:
                self._rows[row].skip(self.world_model.chunk)
            else:
                self._rows[row].extend(frames[place], collect=self.render_mode in EVERY_FRAME)
        if frames is None:
            chooses = as_choosing(self.reward_model, self._on_demand) is not None
            self._look({row: self._rows[row].due(chooses=chooses) for row in live})
            for row in live:
                self._rows[row].image = self._rows[row].kept[self._rows[row].frames - 1]
        rewards = self._score(live)
        uncertainties = [None] * len(live) if unsure is None else unsure.tolist()
        state_errors = self._read_state_errors(live)
        outcomes = {}
        for place, (row, uncertainty) in enumerate(zip(live, uncertainties, strict=True)):
            self._rows[row].forget()
            reward, scored, success = rewards.get(row, (0.0, False, False))
            info = self._rows[row].start_info() | {
                "executed": self.world_model.chunk,
                "scored": scored,
                "success": success,
                "live": True,
                "approximate": approximate,
            }
            truncated = self._at_horizon(row)
            if self._every_frame and frames is not None:
                info["frames"] = frames[place]
            if state_errors is not None:
                info["state_error"] = state_errors[place]
            if uncertainty is not None:
                info["uncertainty"] = uncertainty
                # NaN is no certainty: it is not within the limit either.
                truncated |= self.max_uncertainty is not None and not uncertainty <= self.max_uncertainty
            outcomes[row] = Outcome(info, reward, success, truncated)
        return outcomes

    def _dream(
        self, state: State, actions: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[State, torch.Tensor | None, torch.Tensor | None, bool]:
        """Run a chunk: state, frames (None if they are decoded later), uncertainty, and whether it is approximate."""
        model, on_demand, wanted = self.world_model, self._on_demand, self.max_uncertainty is not None
        if on_demand is not None:
            state, frames, approximate = on_demand.advance(state, actions, generators=generators), None, False
            unsure = on_demand.uncertainty(state) if wanted else None
        else:
            chunk = require_chunk(model.rollout(state, actions, generators=generators), model, len(generators))
            state, frames, approximate = chunk.state, chunk.frames, chunk.approximate
            unsure = chunk.uncertainty if wanted or self._every_frame else None
        if unsure is None and wanted:
            needed = "max_uncertainty needs a world model that estimates its uncertainty"
            raise ValueError(f"{needed}, and this one gave None; leave it out")
        return state, frames, unsure, approximate

    @property
    def _on_demand(self) -> DecodesOnDemand | None:
        """Return the world model if its frames are decoded only on request and it keeps every frame of a chunk."""
        model = self.world_model
        if self._every_frame or not isinstance(model, DecodesOnDemand) or model.decodable < model.chunk:
            return None
        return model

    def _look(self, wanted: Mapping[int, Sequence[int]]) -> None:
        decoder = self._on_demand
        assert decoder is not None
        assert self._state is not None
        look(decoder, self._state, self._rows, wanted, self._keep)

    def _keep(self, frames: UInt8[torch.Tensor, "*_ h w 3"]) -> Any:
        """Return frames in the form in which the env keeps and shows them."""
        return frames.cpu().numpy()

    def _score(self, rows: Sequence[int]) -> Mapping[int, tuple[float, bool, bool]]:
        model, chooses = self.reward_model, as_choosing(self.reward_model, self._on_demand)
        asked = [] if model is None else [row for row in rows if model.when == "chunk" or self._at_horizon(row)]
        if model is None or not asked:
            return {}
        instructions = [self._rows[row].start_info()["instruction"] for row in asked]
        try:
            if chooses is not None:
                output = chooses.score_on_demand(footage(self._rows, asked, self._look), instructions)
            else:
                videos = [self._rows[row].take(self._rows[row].video) for row in asked]
                output = model.score([torch.as_tensor(video) for video in videos], instructions)
        except InvalidRewardError as error:  # the reward model knows its videos by their number alone
            who = f"this {type(model).__name__} scored the sub-environments {asked}"
            raise InvalidRewardError(f"{who}: {error}; the step was not taken") from error
        return read_rewards(model, output, asked)


def _action_space(world_model: WorldModel, action_spec: ActionSpec | None) -> gym.spaces.Box:
    if action_spec is None:
        return gym.spaces.Box(-1.0, 1.0, (int(world_model.chunk), int(world_model.action_dim)), dtype=np.float32)
    if not isinstance(action_spec, ActionSpec):
        raise ValueError(f"action_spec must be an ActionSpec, or None for [-1, 1], got {action_spec!r}")
    if action_spec.dim != world_model.action_dim:
        raise ValueError(f"action_spec has {action_spec.dim} dimensions, the world model's {world_model.action_dim}")
    return chunk_box(action_spec, world_model.chunk)
