"""The trainer: collect groups of rollouts, improve the policy on them, repeat."""

from prophrl_algos.trainer._config import TrainerConfig
from prophrl_algos.trainer._learner import Learner
from prophrl_algos.trainer._metrics import Metrics
from prophrl_algos.trainer._trainer import Batch, Trainer

__all__ = ["Batch", "Learner", "Metrics", "Trainer", "TrainerConfig"]
