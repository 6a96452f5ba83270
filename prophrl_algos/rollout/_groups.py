"""How groups of rollouts begin, which of them are kept, and what an env must be for that."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Int

from prophet_gym.errors import InvalidStartError
from prophet_gym.specs import InitialState
from prophrl_algos.flow import FlowPolicy


@dataclass(frozen=True)
class Draw:
    """Which sub-environments begin an episode, in which group each, and as which of all rollouts of the collection."""

    rows: Int[np.ndarray, " r"]
    groups: Sequence[int]
    trajectories: Sequence[int]


Begin = Callable[[VectorEnv, Draw, int], tuple[Any, dict[str, Any]]]
"""`begin(env, draw, seed)` resets the drawn sub-environments so that those of one group share their initial state."""

Keep = Callable[[float], bool]
"""`keep(mean_success)`: whether a group is kept."""


def begin_by_seed(env: VectorEnv, draw: Draw, seed: int) -> tuple[Any, dict[str, Any]]:
    """Give the members of a group one seed, and so one initial state, in any env; a dream's noise is shared too."""
    return _reset(env, draw, [random_number(seed, 0, group) for group in draw.groups], {})


@dataclass(frozen=True)
class BeginFromStarts:
    """Give the members of a group one initial state of a list, and each a seed of its own: a dream's noise is fresh.

    For `ProphetVectorEnv`: `BeginFromStarts(env.starts)`; InvalidStartError if a start is of the split `official`.
    """

    starts: Sequence[InitialState]

    def __post_init__(self) -> None:
        refuse_official({start.split for start in self.starts})

    def __call__(self, env: VectorEnv, draw: Draw, seed: int) -> tuple[Any, dict[str, Any]]:
        """Reset the sub-environments of the draw."""
        chosen = [self.starts[random_number(seed, 0, group) % len(self.starts)] for group in draw.groups]
        starts = [self.starts[0]] * env.num_envs
        for row, start in zip(draw.rows.tolist(), chosen, strict=True):
            starts[row] = start
        return _reset(env, draw, [random_number(seed, 1, number) for number in draw.trajectories], {"starts": starts})


@dataclass(frozen=True)
class KeepWithin:
    """Keep groups whose mean success lies within, and so can teach: the dynamic sampling of DAPO and SimpleVLA-RL."""

    low: float | int = 0.1
    high: float | int = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"it must be that 0 <= low <= high <= 1, got {self.low} and {self.high}: no group fits")

    def __call__(self, success: float | int) -> bool:
        """Return whether the mean success lies within."""
        return self.low <= success <= self.high


def keep_all(success: float | int) -> bool:
    """Keep every group."""
    del success
    return True


@dataclass(frozen=True)
class Grouping:
    """How groups begin and end.

    A group that `keep` does not keep is replaced, until `budget` groups were begun in one collection: as many as are
    kept if it is not given in `collect`, twice as many in the trainer. The reward of chunk n, counted from 0, has the
    weight discount^n: below 1 a success is worth more the sooner it comes, and a group whose rollouts all succeed still
    teaches something.
    """

    begin: Begin = begin_by_seed
    keep: Keep = keep_all
    budget: int | None = None
    discount: float | int = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount must be above 0 and at most 1, got {self.discount}")


@dataclass(frozen=True)
class GroupPlan:
    """Keep `groups` groups of `group_size` rollouts, numbered first, first + stride, ...

    Processes that share a seed count past each other.
    """

    groups: int
    group_size: int
    grouping: Grouping = Grouping()
    first: int = 0
    stride: int = 1

    @property
    def limit(self) -> int:
        """Number of groups that may be begun."""
        return self.groups if self.grouping.budget is None else self.grouping.budget

    def check(self, env: VectorEnv) -> None:
        """Raise ValueError where the env cannot give such groups."""
        size, groups, count = self.group_size, self.groups, env.num_envs
        if size < 2 or groups < 1:
            raise ValueError(f"a group needs at least 2 rollouts and there must be 1 group, got {size} and {groups}")
        if self.limit < groups:
            raise ValueError(f"budget={self.limit} must be at least groups={groups}: groups must be begun to be kept")
        # A group lives in neighbouring sub-environments, its place, so that one reset begins it whole.
        if count % size:
            raise ValueError(
                f"num_envs={count} must be a multiple of group_size={size}: make the env with "
                f"{max(count // size, 1) * size} sub-environments or change group_size"
            )
        if groups * size < count:
            raise ValueError(
                f"groups={groups} of {size} leave some of num_envs={count} unused: make the env with {groups * size} "
                f"sub-environments or ask for {count // size} groups"
            )
        require_autoreset_disabled(env)
        if getattr(env.unwrapped, "max_episode_steps", 1) is None:
            raise ValueError("episodes must end: give the env max_episode_steps (chunks), it has None")


def require_autoreset_disabled(env: VectorEnv) -> None:
    """Raise ValueError where ended sub-environments would begin again by themselves."""
    mode = env.metadata.get("autoreset_mode")
    if mode is None or AutoresetMode(mode) != AutoresetMode.DISABLED:
        raise ValueError(f"the env must not reset by itself, got autoreset_mode={mode}; make it with 'Disabled'")


def require_chunk(policy: FlowPolicy, env: VectorEnv) -> None:
    """Raise ValueError unless the policy executes as many actions as the env's chunk has."""
    spec, space = policy.spec, env.single_action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"the env must take action chunks, Box (actions, dimensions), got {space}")
    chunk = space.shape[0]
    if spec.horizon < chunk:
        raise ValueError(
            f"the policy's horizon={spec.horizon} is shorter than the env's chunk of {chunk} actions: "
            "make the env with a shorter chunk or the policy with a longer horizon"
        )
    if spec.exec_steps != chunk:
        raise ValueError(
            f"the policy executes exec_steps={spec.exec_steps} actions, the env's chunk has {chunk}: make them equal"
        )


def refuse_official(splits: Iterable[object]) -> None:
    """Raise InvalidStartError if the split `official` is among them: it is for evaluation and demo only."""
    if "official" in splits:
        raise InvalidStartError(
            "nothing is trained from the official starts, they are for evaluation and demo: "
            "make the env with starts='train'"
        )


def splits_of(env: VectorEnv) -> set[object]:
    """Return the splits that an env says it draws from; what it does not say shows at its first reset."""
    starts = getattr(env.unwrapped, "starts", ())
    if isinstance(starts, str) or not isinstance(starts, Sequence):
        return {getattr(env.unwrapped, "split", None), starts if isinstance(starts, str) else None}
    return {getattr(start, "split", None) for start in (env.unwrapped, *starts)}


def random_number(*key: int) -> int:
    """Return a random 31-bit number that is a function of the key."""
    # Keys are (seed, purpose, number): 0 and 1 begin episodes, 2 and 3 are the policy's noise in rollouts and
    # evaluations, 10 to 12 the trainer's, 20 cloning's. No two purposes share a stream.
    return int(np.random.SeedSequence(key).generate_state(1)[0] >> 1)


def _reset(env: VectorEnv, draw: Draw, seeds: Sequence[int], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    per_env = dict(zip(draw.rows.tolist(), seeds, strict=True))
    # Without a mask where all begin: envs that cannot reset in part can still be collected from.
    if len(draw.rows) < env.num_envs:
        options = options | {"reset_mask": np.isin(np.arange(env.num_envs), draw.rows)}
    # Gymnasium annotates int, and documents one seed per sub-environment.
    per_row: Any = [per_env.get(row) for row in range(env.num_envs)]
    return env.reset(seed=per_row, options=options or None)
