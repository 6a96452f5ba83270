"""The files of a proof: its logs and the weights on the way."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv
from proof_sizes import DREAM, Size
from safetensors.torch import save_file
from torch import nn

from prophrl_algos.cli.common import make_env, make_policy
from prophrl_algos.flow.policy import FlowPolicy

EVALUATIONS, TRIES = "evaluations.jsonl", "tries.jsonl"
CHOICE, PROTOCOL, CLONED_FROM = "choice.json", "protocol.json", "cloned.json"


def add_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append an object, on a line of its own even where the last one was cut by a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.is_file() and not path.read_text().endswith("\n")
    with path.open("a") as file:
        file.write("\n" * cut + json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last may have been cut by a kill."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def columns(episodes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A list per key: a line of the log holds hundreds of episodes."""
    return {key: [each[key] for each in episodes] for key in episodes[0]}


@dataclass(frozen=True)
class Place:
    """Where a proof's files are, and how it computes.

    Attributes:
        size: what is proven.
        data: recordings of experts.
        out: weights.
        logs: everything else.
        device: of policies and dreams.
        workers: processes of the simulator.
        dream: the checkpoint that dreams; the bundled one if empty.
    """

    size: Size
    data: tuple[Path, ...]
    out: Path
    logs: Path
    device: str = "cpu"
    workers: int = 2
    dream: str = ""

    def snapshot(self, run: str, update: int) -> Path:
        return self.out / run / "snapshots" / f"{update:05d}.safetensors"


def write_weights(policy: nn.Module, path: Path, *, half: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.part")
    state = {name: tensor.half() if half else tensor for name, tensor in policy.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, draft)
    draft.replace(path)


def read_policy(place: Place, weights: Path) -> FlowPolicy:
    return make_policy(place.size.policy, spaces(), weights, place.device)


@cache
def spaces() -> VectorEnv:
    """An env that says what actions are; nothing is run in it."""
    return make_env(DREAM, 1, starts="train")
