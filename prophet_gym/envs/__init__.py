"""The dream behind the standard Gymnasium interface.

Names are imported when they are first used, so that registering the ids does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prophet_gym.envs.chunking import OneActionPerStep
    from prophet_gym.envs.episodes import row_info
    from prophet_gym.envs.held_chunk import HeldChunk
    from prophet_gym.envs.jsonl_starts import read_jsonl_starts
    from prophet_gym.envs.single_env import ProphetEnv
    from prophet_gym.envs.starts import StartSet, read_start_set, write_start_set
    from prophet_gym.envs.vector_env import ProphetVectorEnv

__all__ = [
    "HeldChunk",
    "OneActionPerStep",
    "ProphetEnv",
    "ProphetVectorEnv",
    "StartSet",
    "read_jsonl_starts",
    "read_start_set",
    "row_info",
    "write_start_set",
]

_MODULES = {
    "HeldChunk": "held_chunk",
    "OneActionPerStep": "chunking",
    "ProphetEnv": "single_env",
    "ProphetVectorEnv": "vector_env",
    "StartSet": "starts",
    "read_jsonl_starts": "jsonl_starts",
    "read_start_set": "starts",
    "row_info": "episodes",
    "write_start_set": "starts",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
