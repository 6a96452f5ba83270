"""Reward the dream: anything that satisfies `prophet_gym.world_model.RewardModel`."""

from prophet_gym.rewards._classifier import RelativeReward, SuccessHead, SuccessHeadConfig
from prophet_gym.rewards._function import FunctionReward
from prophet_gym.rewards._monitor import PrecisionMonitor
from prophet_gym.rewards._named import make_reward_model
from prophet_gym.rewards._object_reader import ObjectReader, ObjectReaderConfig
from prophet_gym.rewards._reach import FindGripper, ReachReward, mark_of, reach_instruction
from prophet_gym.rewards._vlm.likelihood import LikelihoodConfig, LikelihoodReward
from prophet_gym.rewards._vlm.local import LocalVlm
from prophet_gym.rewards._vlm.prompt import Prompt
from prophet_gym.rewards._vlm.remote import Patience, RemoteVlm
from prophet_gym.rewards._vlm.votes import AnswerModel, Question, Reply, VlmReward

__all__ = [
    "AnswerModel",
    "FindGripper",
    "FunctionReward",
    "LikelihoodConfig",
    "LikelihoodReward",
    "LocalVlm",
    "ObjectReader",
    "ObjectReaderConfig",
    "Patience",
    "PrecisionMonitor",
    "Prompt",
    "Question",
    "ReachReward",
    "RelativeReward",
    "RemoteVlm",
    "Reply",
    "SuccessHead",
    "SuccessHeadConfig",
    "VlmReward",
    "make_reward_model",
    "mark_of",
    "reach_instruction",
]
