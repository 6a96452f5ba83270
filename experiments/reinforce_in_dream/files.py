"""Files of the experiment: its logs, and the weights on the way."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv
from safetensors.torch import save_file
from torch import nn

from experiments.reinforce_in_dream.protocol import DREAM, SFT, Size
from prophet_gym._io.atomic import atomic_write
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.evaluation._report import machine, write_json
from prophrl_algos._loggers import Logger
from prophrl_algos._named import make_env, make_policy
from prophrl_algos.flow import FlowPolicy
from prophrl_algos.trainer import Metrics
from prophrl_algos.vla._load import BUNDLED

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parent / "images"
EVALUATIONS, TRIES, SUMMARY = "evaluations.jsonl", "tries.jsonl", "summary.json"
CHOICE, PROTOCOL, CLONED_FROM = "choice.json", "protocol.json", "cloned.json"


def add_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append an object, on a line of its own even where a kill cut the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.is_file() and not path.read_text(encoding="utf-8").endswith("\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut + json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log; a kill may have cut the last one."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


class JsonLines(Logger):
    """Log one object per update, with six significant digits; lines that a killed run logged too far are dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, metrics: Metrics, update: int) -> None:
        """Write the whole file again, with this update as its last."""
        new = {"update": update} | {name: _rounded(value) for name, value in metrics.items()}
        rows = [*(row for row in read_lines(self.path) if row["update"] < update), new]
        atomic_write(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def _rounded(value: float) -> float | None:
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None  # JSON has no NaN


def read_summary(size: str) -> dict[str, Any] | None:
    """Return the committed summary of a size, None where nothing is measured yet."""
    path = RESULTS / size / SUMMARY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def columns(episodes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn episodes into a list per key: a line of the log holds hundreds of them."""
    return {key: [each[key] for each in episodes] for key in episodes[0]}


def learning_log(logs: Path, run: str) -> Path:
    """Return where a run of reinforcement learning is logged: a folder for its arm, a file for its seed."""
    return logs / "learning" / ("/s".join(run.rsplit("-s", 1)) + ".jsonl")


@dataclass(frozen=True)
class Place:
    """Say where the files of an experiment are, and how it computes.

    Attributes:
        size: What is run.
        data: Recordings of demonstrations.
        out: Folder of weights.
        logs: Folder of everything else.
        device: Of policies and dreams.
        workers: Processes of the simulator.
        dream: The checkpoint that dreams; the bundled one if empty.
    """

    size: Size
    data: tuple[Path, ...]
    out: Path
    logs: Path
    device: str = "cpu"
    workers: int = 2
    dream: str = ""

    def snapshot(self, run: str, update: int) -> Path:
        """Return where the weights of a run after an update lie."""
        return self.out / run / "snapshots" / f"{update:05d}.safetensors"

    def initial_weights(self) -> Path:
        """Return the weights that learning starts from: a path, or the name of bundled ones.

        Raises:
            FileNotFoundError: Nothing is cloned yet.
        """
        if self.size.cloned:
            return Path(self.size.cloned)
        path = self.snapshot(SFT, self.size.sft_steps)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: clone a policy with --stage sft")
        return path


def write_weights(policy: nn.Module, path: Path, *, half: bool = False) -> None:
    """Write a policy's weights; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    state = {name: tensor.half() if half else tensor for name, tensor in policy.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
    temporary.replace(path)


def read_policy(place: Place, weights: Path) -> FlowPolicy:
    """Load a policy of the experiment."""
    return make_policy(place.size.policy, spaces(), weights, place.device)


@cache
def spaces() -> VectorEnv:
    """Return an env that says what actions are; it is never stepped."""
    return make_env(DREAM, 1, starts="train")


def claim(place: Place) -> None:
    """Write the protocol before the first run, or check that logs and weights are of the same one.

    Raises:
        ValueError: They are of another size, another dream or another bundled policy.
    """
    asked = json.loads(json.dumps({**asdict(place.size), "files": files_of(place.size, place.dream)}))
    for folder in sorted({place.logs, place.out}):
        path = folder / PROTOCOL
        if not path.is_file():
            write_json(path, {"size": asked, "machine": machine()})
            continue
        found = json.loads(path.read_text(encoding="utf-8"))["size"]
        changed = [key for key in asked if found.get(key) != asked[key]]
        if changed:
            raise ValueError(
                f"{path} is of a protocol with other {', '.join(changed)}: give other --logs and --out, or delete both"
            )


def files_of(size: Size, dream: str = "") -> dict[str, str]:
    """Return a short SHA-256 of every file that a run begins with, since bundled ones are replaced at times."""
    folders = [
        Checkpoint.named(dream or "bundled").folder,
        *(BUNDLED[name] for name in [size.cloned] if name in BUNDLED),
    ]
    files = [path for folder in folders for path in folder.rglob("*.safetensors")]
    return {f"{path.parent.name}/{path.name}": short_sha(path) for path in sorted(files)}


def short_sha(path: Path) -> str:
    """Return the first twelve hex digits of a file's SHA-256."""
    return sha256(path.read_bytes()).hexdigest()[:12]


def claim_cloned(place: Place, weights: Path) -> None:
    """Log which cloned policy the runs begin from, or check it; a bundled one is in the protocol.

    Raises:
        ValueError: The logs are of another one.
    """
    if place.size.cloned:
        return
    asked, path = {"weights": short_sha(weights)}, place.logs / CLONED_FROM
    if not path.is_file():
        write_json(path, asked)
    elif json.loads(path.read_text(encoding="utf-8")) != asked:
        raise ValueError(f"{path} is of another cloned policy than {weights}: give other --logs, or delete them")
