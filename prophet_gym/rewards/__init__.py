"""Who judges the dream: anything that satisfies `prophet_gym.world_model.RewardModel`."""

from prophet_gym.rewards.oracle import FunctionReward
from prophet_gym.rewards.reach import ReachReward, mark_of, reach_instruction
from prophet_gym.rewards.success_head import SuccessHead, SuccessHeadConfig

__all__ = ["FunctionReward", "ReachReward", "SuccessHead", "SuccessHeadConfig", "mark_of", "reach_instruction"]
