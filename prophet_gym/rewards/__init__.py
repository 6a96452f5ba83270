"""Reward the dream: anything that satisfies `prophet_gym.world_model.RewardModel`."""

from prophet_gym.rewards.classifier import RelativeReward, SuccessHead, SuccessHeadConfig
from prophet_gym.rewards.degraded import DegradedOracle, degrade, false_positive_rate
from prophet_gym.rewards.function import FunctionReward
from prophet_gym.rewards.monitor import PrecisionMonitor
from prophet_gym.rewards.named import make_reward_model
from prophet_gym.rewards.oracle import OracleReward
from prophet_gym.rewards.reach import ReachReward, mark_of, reach_instruction
from prophet_gym.rewards.vlm._voting import Votes, parse_answer
from prophet_gym.rewards.vlm.likelihood import LikelihoodConfig, LikelihoodReward
from prophet_gym.rewards.vlm.local import LocalVlm
from prophet_gym.rewards.vlm.prompt import Prompt
from prophet_gym.rewards.vlm.remote import Patience, RemoteVlm
from prophet_gym.rewards.vlm.reward_log import RewardLog
from prophet_gym.rewards.vlm.votes import AnswerModel, Question, Reply, VlmReward

__all__ = [
    "AnswerModel",
    "DegradedOracle",
    "FunctionReward",
    "LikelihoodConfig",
    "LikelihoodReward",
    "LocalVlm",
    "OracleReward",
    "Patience",
    "PrecisionMonitor",
    "Prompt",
    "Question",
    "ReachReward",
    "RelativeReward",
    "RemoteVlm",
    "Reply",
    "RewardLog",
    "SuccessHead",
    "SuccessHeadConfig",
    "VlmReward",
    "Votes",
    "degrade",
    "false_positive_rate",
    "make_reward_model",
    "mark_of",
    "parse_answer",
    "reach_instruction",
]
