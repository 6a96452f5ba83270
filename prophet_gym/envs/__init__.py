"""Prophet behind the standard Gymnasium interface: environments, initial states, wrappers."""

from prophet_gym.envs._episodes import sub_env_info
from prophet_gym.envs._initial_states import InitialStates, read_initial_states, read_jsonl_states, write_initial_states
from prophet_gym.envs._sub_env import Usage
from prophet_gym.envs.shortened_chunk import ShortenedChunk
from prophet_gym.envs.single_env import ProphetEnv
from prophet_gym.envs.torch_env import ProphetTorchVectorEnv
from prophet_gym.envs.vector_env import ProphetVectorEnv
from prophet_gym.envs.wrappers.actions import (
    OneActionPerChunk,
    OneActionPerChunkVector,
    OneActionPerStep,
    OneActionPerStepVector,
)
from prophet_gym.envs.wrappers.views import EmbedInstruction, StackFrames, View, Viewed, ViewedVector, one_hot_table

__all__ = [
    "EmbedInstruction",
    "InitialStates",
    "OneActionPerChunk",
    "OneActionPerChunkVector",
    "OneActionPerStep",
    "OneActionPerStepVector",
    "ProphetEnv",
    "ProphetTorchVectorEnv",
    "ProphetVectorEnv",
    "ShortenedChunk",
    "StackFrames",
    "Usage",
    "View",
    "Viewed",
    "ViewedVector",
    "one_hot_table",
    "read_initial_states",
    "read_jsonl_states",
    "sub_env_info",
    "write_initial_states",
]
