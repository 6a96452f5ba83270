"""How groups of rollouts begin, which of them are kept, and what an env must be for that."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Int

from prophet_gym.errors import InvalidStartError
from prophet_gym.specs import InitialState


@dataclass(frozen=True)
class Draw:
    """Rows to begin in, the group that each row belongs to, and its number in all rollouts of this collection."""

    rows: Int[np.ndarray, " r"]
    groups: Sequence[int]
    trajectories: Sequence[int]


Begin = Callable[[VectorEnv, Draw, int], tuple[Any, dict[str, Any]]]
"""Resets the rows of a draw so that rows of one group share their start; the last argument seeds everything."""

Keep = Callable[[float], bool]
"""Whether a group with this mean success is kept."""


def begin_by_seed(env: VectorEnv, draw: Draw, seed: int) -> tuple[Any, dict[str, Any]]:
    """Rows of one group get one seed, and so one start, in any env; a dream's own noise is then the same too."""
    seeds = {group: random_number(seed, 0, group) for group in draw.groups}
    return _reset(env, draw, [seeds[group] for group in draw.groups], {})


class BeginFromStarts:
    """Rows of one group share a start of a list and each row has a seed of its own: a dream's noise is fresh.

    For `ProphetVectorEnv`: `BeginFromStarts(env.starts)`.
    """

    def __init__(self, starts: Sequence[InitialState]) -> None:
        """Take the starts; InvalidStartError if one is of the set `official`."""
        refuse_official({start.split for start in starts})
        self.starts = starts

    def __call__(self, env: VectorEnv, draw: Draw, seed: int) -> tuple[Any, dict[str, Any]]:
        """Reset the rows of the draw."""
        chosen = [self.starts[random_number(seed, 0, group) % len(self.starts)] for group in draw.groups]
        per_row = [self.starts[0]] * env.num_envs
        for row, start in zip(draw.rows.tolist(), chosen, strict=True):
            per_row[row] = start
        return _reset(env, draw, [random_number(seed, 1, number) for number in draw.trajectories], {"starts": per_row})


@dataclass(frozen=True)
class KeepWithin:
    """Keeps groups whose mean success can teach: dynamic sampling of DAPO and SimpleVLA-RL."""

    low: float | int = 0.1
    high: float | int = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"it must be that 0 <= low <= high <= 1, got {self.low} and {self.high}: no group would do"
            )

    def __call__(self, success: float | int) -> bool:
        """Whether the mean success lies within."""
        return self.low <= success <= self.high


def keep_all(success: float | int) -> bool:
    """Every group is kept."""
    del success
    return True


def require_env(env: VectorEnv, groups: int, group_size: int, budget: int | None = None) -> None:
    """Raise ValueError where an env, or a budget of groups that may be begun, cannot give such groups."""
    if group_size < 2 or groups < 1:
        raise ValueError(f"a group needs at least 2 rollouts and there must be 1 group, got {group_size} and {groups}")
    if budget is not None and budget < groups:
        raise ValueError(f"budget={budget} must be at least groups={groups}: so many groups must be begun to keep them")
    if env.num_envs % group_size:
        raise ValueError(
            f"num_envs={env.num_envs} must be a multiple of group_size={group_size}: make the env with "
            f"{max(env.num_envs // group_size, 1) * group_size} rows or change group_size"
        )
    if groups * group_size < env.num_envs:
        raise ValueError(
            f"groups={groups} of {group_size} leave rows of num_envs={env.num_envs} unused: "
            f"make the env with {groups * group_size} rows or ask for {env.num_envs // group_size} groups"
        )
    require_autoreset_disabled(env)
    if getattr(env.unwrapped, "max_episode_steps", 1) is None:
        raise ValueError("episodes must end: give the env max_episode_steps (chunks), it has None")


def require_autoreset_disabled(env: VectorEnv) -> None:
    """Raise ValueError where ended rows would begin again by themselves."""
    mode = env.metadata.get("autoreset_mode")
    if mode is None or AutoresetMode(mode) != AutoresetMode.DISABLED:
        raise ValueError(f"the env must not reset by itself, got autoreset_mode={mode}; make it with 'Disabled'")


def refuse_official(splits: Iterable[object]) -> None:
    """Raise InvalidStartError if the set `official` is among them: it is for evaluation and demo only."""
    if "official" in splits:
        raise InvalidStartError(
            "nothing is trained from the official starts, they are for evaluation and demo: "
            "make the env with starts='train'"
        )


def _reset(env: VectorEnv, draw: Draw, seeds: Sequence[int], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    per_row: list[int | None] = [None] * env.num_envs
    for row, seed in zip(draw.rows.tolist(), seeds, strict=True):
        per_row[row] = seed
    if len(draw.rows) < env.num_envs:
        mask = np.zeros(env.num_envs, dtype=np.bool_)
        mask[draw.rows] = True
        options = options | {"reset_mask": mask}
    # Gymnasium annotates int, and documents one seed per row.
    return env.reset(seed=per_row, options=options or None)  # pyright: ignore[reportArgumentType]


def random_number(*key: int) -> int:
    """A random 31-bit number that is a function of the key."""
    return int(np.random.SeedSequence(key).generate_state(1)[0] >> 1)
