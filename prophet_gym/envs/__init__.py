"""The dream behind the standard Gymnasium interface."""

from prophet_gym.envs.chunking import OneActionPerStep
from prophet_gym.envs.single_env import ProphetEnv
from prophet_gym.envs.starts import StartSet, read_start_set, write_start_set
from prophet_gym.envs.vector_env import ProphetVectorEnv, row_info

__all__ = [
    "OneActionPerStep",
    "ProphetEnv",
    "ProphetVectorEnv",
    "StartSet",
    "read_start_set",
    "row_info",
    "write_start_set",
]
