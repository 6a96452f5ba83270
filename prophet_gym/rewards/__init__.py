"""Who judges the dream: anything that satisfies `prophet_gym.world_model.RewardModel`."""

from prophet_gym.rewards.classifier import RelativeReward
from prophet_gym.rewards.degraded import DegradedOracle, degrade, false_positive_rate
from prophet_gym.rewards.function import FunctionReward
from prophet_gym.rewards.likelihood import LikelihoodConfig, LikelihoodReward
from prophet_gym.rewards.local import LocalVlm
from prophet_gym.rewards.monitor import PrecisionMonitor
from prophet_gym.rewards.named import make_reward_model
from prophet_gym.rewards.oracle import OracleReward
from prophet_gym.rewards.prompt import Prompt
from prophet_gym.rewards.reach import ReachReward, mark_of, reach_instruction
from prophet_gym.rewards.remote import Patience, RemoteVlm
from prophet_gym.rewards.reward_log import RewardLog
from prophet_gym.rewards.success_head import SuccessHead, SuccessHeadConfig
from prophet_gym.rewards.vlm import AnswerModel, Question, Reply, VlmReward
from prophet_gym.rewards.voting import Votes, parse_answer

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
