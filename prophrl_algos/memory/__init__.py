"""How much memory a round of learning takes with a published policy, before anything is downloaded."""

from prophrl_algos.memory._full_sizes import FULL_SIZES, FullSize
from prophrl_algos.memory._plan import MemoryPlan, Workload, make_plan

__all__ = ["FULL_SIZES", "FullSize", "MemoryPlan", "Workload", "make_plan"]
