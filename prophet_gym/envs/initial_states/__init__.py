"""Initial states, where episodes start: sequences of them in memory, and their files."""

from prophet_gym.envs.initial_states._jsonl import read_jsonl_states
from prophet_gym.envs.initial_states._sheets import INDEX_NAME, read_initial_states, write_initial_states
from prophet_gym.envs.initial_states._states import InitialStates, require_frames, require_start

__all__ = [
    "INDEX_NAME",
    "InitialStates",
    "read_initial_states",
    "read_jsonl_states",
    "require_frames",
    "require_start",
    "write_initial_states",
]
