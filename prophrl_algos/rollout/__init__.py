"""Groups of rollouts from any vector env: how they begin, which are kept, and what is stored of them."""

from prophrl_algos.rollout._cluster import RayOptions
from prophrl_algos.rollout._collect import Rollouts, collect
from prophrl_algos.rollout._collector import Collector, LocalRollouts
from prophrl_algos.rollout._groups import Grouping, GroupPlan, begin_by_seed, begin_from_starts
from prophrl_algos.rollout._ray import RayRollouts

__all__ = [
    "Collector",
    "GroupPlan",
    "Grouping",
    "LocalRollouts",
    "RayOptions",
    "RayRollouts",
    "Rollouts",
    "begin_by_seed",
    "begin_from_starts",
    "collect",
]
