"""A published policy by the name of its repository: which adapter reads it, and why."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch

from prophet_gym.errors import CheckpointError, ProphetError, listed, shown, unknown_option
from prophet_gym.hub import fetch, parse_hub_name, resolve
from prophrl_algos.flow.policy import FlowPolicy
from prophrl_algos.vla.io._weights import WEIGHTS, instead, read_json, tensor_names

ADAPTERS = {
    "pi05": "pi._pi05",
    "pi0": "pi._pi0",
    "smolvla": "smolvla",
    "vla_adapter": "prismatic._vla_adapter",
    "openvla_oft": "prismatic._openvla_oft",
    "small": "small._policy",
}
"""Modules of this package by family, asked in this order; each is an `Adapter`."""
BUNDLED = {name: Path(__file__).parent / name for name in ("SmallVLA-LIBERO-object-sft",)}
"""Policies that are installed with the package, and where."""
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "action_head--*.pt", "proprio_projector--*.pt")
"""What is fetched of a repository; never an optimiser's state, pictures or code."""

_HEAD = "action_head--0_checkpoint.pt"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadOptions:
    """How a published policy is to be used.

    Attributes:
        benchmark: what it acts in, a name of `prophrl_algos.vla.conventions`.
        exec_steps: actions of a chunk that are executed; the convention's if not given.
        num_steps: K, denoising steps; the checkpoint's if not given.
        train: `expert` (the action expert or flow head, whole), `lora` (adapters in what `vla/lora.py` says), `full`,
            or `none`.
        language: whether `lora` is also put into the language model, where the family leaves that open.
        dtype: of the weights that are not trained; what is trained stays in float32.
        statistics: a file of normalisation statistics, where the checkpoint has none or others are wanted.
        unnorm_key: which data set's statistics, where a file holds several.
        tokenizer: a Hugging Face tokenizer, or a folder or Hub name of one; for pi0, pi0.5 and SmolVLA also a function
            of texts to the numbers of their tokens. The family's own if not given.
        without_state: what to do where an observation has no `state` (a dream has none) and the policy reads one:
            `refuse`, or `mean`, the middle of what it was trained on.
        head: `flow`, or `l1`, the published head of VLA-Adapter and OpenVLA-OFT as it is; other families have a flow.
    """

    benchmark: str = "libero"
    exec_steps: int | None = None
    num_steps: int | None = None
    train: str = "expert"
    language: bool = False
    dtype: torch.dtype = torch.bfloat16
    statistics: Path | None = None
    unnorm_key: str | None = None
    tokenizer: Any = None
    without_state: str = "refuse"
    head: str = "flow"

    def __post_init__(self) -> None:
        for name in ("exec_steps", "num_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")
        known = {
            "train": ("expert", "lora", "full", "none"),
            "without_state": ("refuse", "mean"),
            "head": ("flow", "l1"),
        }
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise unknown_option(name, getattr(self, name), choices)


@runtime_checkable
class Adapter(Protocol):
    """What a module of `ADAPTERS` offers."""

    LAYOUT: str
    """The files and names that it reads, in a line."""

    def recognises(self, files: Collection[str], config: Mapping[str, Any]) -> str | None:
        """Why these files (paths inside the folder) and this `config.json` are its layout; None if they are not."""
        ...

    def load(self, folder: Path, options: LoadOptions) -> FlowPolicy:
        """The policy, on the CPU, in eval mode; CheckpointError unless every tensor is accounted for."""
        ...


@dataclass(frozen=True)
class Choice:
    """Which adapter reads a folder.

    Attributes:
        adapter: its name.
        reason: what it was recognised by.
        folder: where the files lie.
    """

    adapter: str
    reason: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.folder} is read as {self.adapter}: {self.reason}"


def load_policy(
    source: str | Path, options: LoadOptions | None = None, *, device: str | torch.device = "cpu"
) -> FlowPolicy:
    """A published policy, ready to act and to be trained; what was chosen and why is logged at level INFO.

    Args:
        source: a local folder, a name of `BUNDLED`, or a repository of the Hub, `owner/repo` perhaps with `@revision`.
        options: how it is to be used.
        device: where it computes.

    Raises:
        CheckpointError: no adapter knows the layout (the message lists those that there are), or tensors are missing,
            unexpected or of another shape.
        MissingWeightsError: there is no such folder or repository.
    """
    choice = choose(source)
    _log.info("%s", choice)
    with _reading(choice.folder, choice.adapter):
        policy = cast(Any, _adapter(choice.adapter).load(choice.folder, LoadOptions() if options is None else options))
    return policy.to(device).eval()


@contextmanager
def _reading(folder: Path, adapter: str) -> Iterator[None]:
    """Errors of a damaged config or file, from whatever library reads it, become one that names the folder."""
    try:
        yield
    except (ProphetError, ImportError, NotImplementedError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(folder) in str(error):
            raise
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        if not isinstance(error, ValueError):
            kind = type(error).__name__
            reason = f"{kind}, {reason}; its config.json or another of its files is damaged: fetch or save it again"
        raise CheckpointError(f"{folder} cannot be read as {adapter}: {reason}") from error


def choose(source: str | Path) -> Choice:
    """Which adapter reads a source, without reading its weights; as `load_policy`."""
    path = Path(source).expanduser()
    if str(source) in BUNDLED:  # before a folder of that name, as for a world model; such a folder is ./NAME
        folder = resolve(str(source), BUNDLED)
    elif path.is_dir():
        folder = resolve(str(path), {})
    elif path.exists():
        raise CheckpointError(f"{path} is a file; give the folder that it lies in")
    elif str(source).startswith(("/", ".", "~")) or "/" not in str(source):
        folder = resolve(str(source), BUNDLED)
    else:
        folder = fetch(parse_hub_name(str(source)), only=WANTED)
    files = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    config = read_json(folder / "config.json")
    reasons = {name: _adapter(name).recognises(files, config) for name in ADAPTERS}
    for name, reason in reasons.items():
        if reason is not None:
            return Choice(name, reason, folder)
    for name, asked in _asked_by_tensors():
        reason = asked(tensor_names(folder))
        if reason is not None:
            return Choice(name, reason, folder)
    raise _unknown_layout(source, files, config)


def _unknown_layout(source: str | Path, files: list[str], config: Mapping[str, Any]) -> CheckpointError:
    """Make the error for a folder that no adapter reads: what one lacks, where it nearly does; else what is known."""
    for lacking in ((WEIGHTS,), (_HEAD,), (WEIGHTS, _HEAD)):
        for name in ADAPTERS:
            if _adapter(name).recognises([*files, *lacking], config) is not None:
                parts = " and no ".join("action_head--*.pt" if each == _HEAD else each for each in lacking)
                return CheckpointError(
                    f"{source} has no layout that is known: its config.json is that of {name}, but it holds no {parts}"
                    f"{instead(files)}"
                )
    said = {name: shown(str(config[name])) for name in ("type", "model_type") if name in config}
    known = "; ".join(f"{name} ({_adapter(name).LAYOUT})" for name in ADAPTERS)
    return CheckpointError(
        f"{source} has no layout that is known. It holds {listed(files) or 'no files'}, config.json says "
        f"{said or 'nothing'}. Known are: {known}"
    )


def _asked_by_tensors() -> list[tuple[str, Callable[[Collection[str]], str | None]]]:
    """Some layouts have no `config.json`: their adapters have `recognises_tensors`, of the names of the tensors."""
    found = [(name, getattr(_adapter(name), "recognises_tensors", None)) for name in ADAPTERS]
    return [(name, asked) for name, asked in found if asked is not None]


def _adapter(name: str) -> Adapter:
    return cast(Adapter, import_module(f"prophrl_algos.vla.{ADAPTERS[name]}"))
