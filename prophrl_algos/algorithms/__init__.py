"""The algorithms by name; each is a file beside this one, and this is the only list of them."""

from collections.abc import Mapping

from prophrl_algos.algorithms._advantages import group_advantages, leave_one_out_advantages, per_entry, per_trajectory
from prophrl_algos.algorithms._algorithm import Algorithm
from prophrl_algos.algorithms._flow_grpo import FLOW_GRPO, FLOW_GRPO_CPS, FLOW_GRPO_FORWARD, GRPO_GUARD
from prophrl_algos.algorithms._pi_rl import PI_RL
from prophrl_algos.algorithms._reinflow import REINFLOW, LearnedNoise
from prophrl_algos.algorithms.fa_grpo import FA_GRPO, FA_GRPO_CPS, FA_GRPO_FORWARD
from prophrl_algos.algorithms.flowscale import FlowScale

__all__ = ["ALGORITHMS", "Algorithm", "FlowScale", "LearnedNoise"]
__all__ += ["FA_GRPO", "FA_GRPO_CPS", "FA_GRPO_FORWARD", "FLOW_GRPO", "FLOW_GRPO_CPS", "FLOW_GRPO_FORWARD"]
__all__ += ["GRPO_GUARD", "PI_RL", "REINFLOW"]
__all__ += ["group_advantages", "leave_one_out_advantages", "per_entry", "per_trajectory"]

_ALL = (FA_GRPO, FA_GRPO_CPS, FA_GRPO_FORWARD, FLOW_GRPO, FLOW_GRPO_CPS, FLOW_GRPO_FORWARD, GRPO_GUARD, PI_RL, REINFLOW)

ALGORITHMS: Mapping[str, Algorithm] = {algorithm.name: algorithm for algorithm in _ALL}
"""List every algorithm by its name; `prophrl train --algo` and the command's overview read it."""
