"""Groups of rollouts from any vector env: how they begin, which are kept, and what is stored of them."""

from prophrl_algos.rollout._collect import Rollouts, collect
from prophrl_algos.rollout._groups import Grouping, GroupPlan, begin_by_seed, begin_from_starts

__all__ = ["GroupPlan", "Grouping", "Rollouts", "begin_by_seed", "begin_from_starts", "collect"]
