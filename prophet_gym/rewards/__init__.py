"""Who judges the dream: anything that satisfies `prophet_gym.world_model.RewardModel`."""

from prophet_gym.rewards.function import FunctionReward
from prophet_gym.rewards.judgements import JudgementLog
from prophet_gym.rewards.local import LocalVlm
from prophet_gym.rewards.prompt import Prompt
from prophet_gym.rewards.remote import Patience, RemoteVlm
from prophet_gym.rewards.success_head import SuccessHead, SuccessHeadConfig
from prophet_gym.rewards.vlm import AnswerModel, Question, Reply, VlmReward
from prophet_gym.rewards.voting import Votes, parse_answer

__all__ = [
    "AnswerModel",
    "FunctionReward",
    "JudgementLog",
    "LocalVlm",
    "Patience",
    "Prompt",
    "Question",
    "RemoteVlm",
    "Reply",
    "SuccessHead",
    "SuccessHeadConfig",
    "VlmReward",
    "Votes",
    "parse_answer",
]
