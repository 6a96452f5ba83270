"""The dream behind the standard Gymnasium interface.

Names are imported when they are first used, so that registering the ids does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prophet_gym.envs.chunking import (
        FlattenChunk,
        FlattenChunkVector,
        OneActionPerChunk,
        OneActionPerChunkVector,
        OneActionPerStep,
        OneActionPerStepVector,
    )
    from prophet_gym.envs.doubt import TruncateOnDoubt
    from prophet_gym.envs.episodes import row_info
    from prophet_gym.envs.films import RecordEveryFrame
    from prophet_gym.envs.held_chunk import HeldChunk
    from prophet_gym.envs.jsonl_starts import read_jsonl_starts
    from prophet_gym.envs.refill import Usage
    from prophet_gym.envs.single_env import ProphetEnv
    from prophet_gym.envs.starts import StartSet, read_start_set, write_start_set
    from prophet_gym.envs.torch_env import ProphetTorchVectorEnv
    from prophet_gym.envs.vector_env import ProphetVectorEnv
    from prophet_gym.envs.views import EmbedInstruction, StackFrames, View, Viewed, ViewedVector, one_hot_table

__all__ = [
    "EmbedInstruction",
    "FlattenChunk",
    "FlattenChunkVector",
    "HeldChunk",
    "OneActionPerChunk",
    "OneActionPerChunkVector",
    "OneActionPerStep",
    "OneActionPerStepVector",
    "ProphetEnv",
    "ProphetTorchVectorEnv",
    "ProphetVectorEnv",
    "RecordEveryFrame",
    "StackFrames",
    "StartSet",
    "TruncateOnDoubt",
    "Usage",
    "View",
    "Viewed",
    "ViewedVector",
    "one_hot_table",
    "read_jsonl_starts",
    "read_start_set",
    "row_info",
    "write_start_set",
]

_MODULES = {
    "EmbedInstruction": "views",
    "FlattenChunk": "chunking",
    "FlattenChunkVector": "chunking",
    "HeldChunk": "held_chunk",
    "OneActionPerChunk": "chunking",
    "OneActionPerChunkVector": "chunking",
    "OneActionPerStep": "chunking",
    "OneActionPerStepVector": "chunking",
    "ProphetEnv": "single_env",
    "ProphetTorchVectorEnv": "torch_env",
    "ProphetVectorEnv": "vector_env",
    "RecordEveryFrame": "films",
    "StackFrames": "views",
    "StartSet": "starts",
    "TruncateOnDoubt": "doubt",
    "Usage": "refill",
    "View": "views",
    "Viewed": "views",
    "ViewedVector": "views",
    "one_hot_table": "views",
    "read_jsonl_starts": "jsonl_starts",
    "read_start_set": "starts",
    "row_info": "episodes",
    "write_start_set": "starts",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
