"""Groups of rollouts from any vector env: how they begin, which are kept, and what is stored of them."""

from prophrl_algos.rollout._collect import Progress, Rollouts, collect
from prophrl_algos.rollout._groups import (
    Begin,
    BeginFromStarts,
    Draw,
    Grouping,
    GroupPlan,
    Keep,
    KeepWithin,
    begin_by_seed,
    keep_all,
)

__all__ = [
    "Begin",
    "BeginFromStarts",
    "Draw",
    "GroupPlan",
    "Grouping",
    "Keep",
    "KeepWithin",
    "Progress",
    "Rollouts",
    "begin_by_seed",
    "collect",
    "keep_all",
]
