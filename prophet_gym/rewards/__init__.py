"""Who judges the dream: anything that satisfies `prophet_gym.world_model.RewardModel`."""

from prophet_gym.rewards.oracle import FunctionReward
from prophet_gym.rewards.success_head import SuccessHead, SuccessHeadConfig

__all__ = ["FunctionReward", "SuccessHead", "SuccessHeadConfig"]
