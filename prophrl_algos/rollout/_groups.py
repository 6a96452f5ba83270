"""How groups of rollouts begin, which of them are kept, and what an env must be for that."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from prophet_gym.errors import InvalidStartError
from prophrl_algos.flow import FlowPolicy

Begin = Callable[[VectorEnv, Sequence[int], Sequence[int], Sequence[int], int], tuple[Any, dict[str, Any]]]
"""`begin(env, rows, groups, numbers, seed)` resets sub-environments; those of a group share their initial state.

Row `rows[i]` begins an episode of the group `groups[i]`, number `numbers[i]` of all in the collection.
"""


def begin_by_seed(
    env: VectorEnv, rows: Sequence[int], groups: Sequence[int], numbers: Sequence[int], seed: int
) -> tuple[Any, dict[str, Any]]:
    """Give the members of a group one seed, and so one initial state, in any env; a dream's noise is shared too."""
    del numbers
    return _reset(env, rows, [random_number(seed, 0, group) for group in groups], {})


def begin_from_starts(
    env: VectorEnv, rows: Sequence[int], groups: Sequence[int], numbers: Sequence[int], seed: int
) -> tuple[Any, dict[str, Any]]:
    """Give the members of a group one of the env's own initial states, and each a seed: a dream's noise is fresh.

    An env that has no list of them, such as a simulator, begins by seed.
    """
    known = getattr(env.unwrapped, "starts", None)
    if known is None or isinstance(known, str):
        return begin_by_seed(env, rows, groups, numbers, seed)
    starts = [known[0]] * env.num_envs
    for row, group in zip(rows, groups, strict=True):
        starts[row] = known[random_number(seed, 0, group) % len(known)]
    return _reset(env, rows, [random_number(seed, 1, number) for number in numbers], {"starts": starts})


@dataclass(frozen=True)
class Grouping:
    """Say how groups begin and end.

    A group whose mean success lies outside `keep` is replaced, until twice as many groups were begun as are kept: the
    dynamic sampling of DAPO and SimpleVLA-RL, since a group that always or never succeeds teaches nothing. The reward
    of chunk n, counted from 0, has the weight discount^n: below 1 a success is worth more the sooner it comes, and a
    group whose rollouts all succeed still teaches something.
    """

    begin: Begin = begin_by_seed
    keep: tuple[float | int, float | int] = (0, 1)
    discount: float | int = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.keep[0] <= self.keep[1] <= 1:
            raise ValueError(f"keep must be low and high, 0 <= low <= high <= 1, got {self.keep}: no group fits")
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
        """Return the number of groups that may be begun."""
        return self.groups if self.grouping.keep == (0, 1) else 2 * self.groups

    def number(self, group: int) -> int:
        """Return the number of a group among those of all plans, by its index in this one."""
        return self.first + group * self.stride

    def part(self, index: int, count: int) -> "GroupPlan":
        """Return one of `count` plans that share these groups; the numbers of replacements do not collide either."""
        first, stride = self.first + index * self.stride, self.stride * count
        return replace(self, groups=self.groups // count, first=first, stride=stride)

    def check(self, env: VectorEnv) -> None:
        """Raise ValueError where the env cannot give such groups."""
        size, groups, count = self.group_size, self.groups, env.num_envs
        if size < 2 or groups < 1:
            raise ValueError(f"a group needs at least 2 rollouts and there must be 1 group, got {size} and {groups}")
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


def _reset(
    env: VectorEnv, rows: Sequence[int], seeds: Sequence[int], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    # Gymnasium annotates int, and documents one seed per sub-environment.
    per_row: Any = [None] * env.num_envs
    for row, seed in zip(rows, seeds, strict=True):
        per_row[row] = seed
    # Without a mask where all begin: envs that cannot reset in part can still be collected from.
    if len(rows) < env.num_envs:
        options = options | {"reset_mask": np.isin(np.arange(env.num_envs), rows)}
    return env.reset(seed=per_row, options=options or None)
