"""Groups of rollouts from any vector env: how they begin, which are kept, and what is stored of them."""

from prophrl_algos.rollout._collect import Progress, Rollouts, collect
from prophrl_algos.rollout._groups import BeginFromStarts, Grouping, GroupPlan, KeepWithin, begin_by_seed, keep_all

__all__ = ["BeginFromStarts", "GroupPlan", "Grouping", "KeepWithin", "Progress", "Rollouts", "begin_by_seed", "collect"]
__all__ += ["keep_all"]
