"""Load a policy by the name of its folder or repository."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch

from prophet_gym._checks import listed, shown
from prophet_gym._io.hub import fetch, parse_hub_name, resolve
from prophet_gym.errors import CheckpointError, ProphetError
from prophrl_algos.flow import FlowPolicy
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla.io._weights import read_json, tensor_names

FAMILIES = {
    "pi05": "prophrl_algos.vla._experts:Pi05Policy",
    "pi0": "prophrl_algos.vla._experts:Pi0Policy",
    "smolvla": "prophrl_algos.vla._experts:SmolVLAPolicy",
    "vla_adapter": "prophrl_algos.vla.prismatic:VLAAdapter",
    "openvla_oft": "prophrl_algos.vla.prismatic:OpenVLAOFT",
    "small": "prophrl_algos.vla.small:SmallVLA",
}
"""The registered families, tried in this order; each class is a `Family`. A new one needs a line here and a module."""
_BY_TENSORS = {
    "pi05": (
        {"paligemma_with_expert.gemma_expert.model.norm.dense.weight", "action_in_proj.weight"},
        "paligemma_with_expert with a time modulation (norm.dense), as openpi and RLinf write pi0.5",
    ),
    "pi0": (
        {"paligemma_with_expert.gemma_expert.model.norm.weight", "state_proj.weight"},
        "paligemma_with_expert with a state_proj and no time modulation, as openpi writes pi0",
    ),
}
"""Families that are also published without a `config.json` -> names of tensors, and what these tell."""
BUNDLED = {name: Path(__file__).parent / name for name in ("SmallVLA-LIBERO-object-sft",)}
"""Policies that are installed with the package, and their folders."""
_FETCHED = ("*.json", "*.safetensors", "*.model", "*.txt", "action_head--*.pt", "proprio_projector--*.pt")
"""Files of a repository that are downloaded; never optimizer states, images or code."""

_log = logging.getLogger(__name__)


@runtime_checkable
class Family(Protocol):
    """Describe what a class of `FAMILIES` offers."""

    LAYOUT: str
    """One line that names the files it reads, for error messages."""

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> str | None:
        """Return why a folder with this `config.json` is of this family, or None if it is not."""
        ...

    @classmethod
    def load(cls, folder: Path, options: LoadOptions) -> FlowPolicy:
        """Return the policy on the CPU in eval mode; raise CheckpointError unless every tensor is accounted for."""
        ...


@dataclass(frozen=True)
class Choice:
    """Hold which family reads a folder, and what it was recognised by."""

    adapter: str
    reason: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.folder} is read as {self.adapter}: {self.reason}"


def load_policy(
    source: str | Path, options: LoadOptions | None = None, *, device: str | torch.device = "cpu"
) -> FlowPolicy:
    """Load a policy that is ready to act and to be trained.

    The chosen family and the reason are logged at level INFO.

    Args:
        source: A local folder, a bundled name, or a Hub repository `owner/repo`, optionally with `@revision`.
        options: How the policy is used; the defaults of `LoadOptions` if not given.
        device: The device that it computes on.

    Raises:
        CheckpointError: The layout is unknown (the message lists the known ones), or tensors are missing, unexpected
            or of another shape.
        MissingWeightsError: There is no such folder or repository.
    """
    choice = choose(source)
    _log.info("%s", choice)
    with _naming_errors(choice):
        policy = cast(Any, _family(choice.adapter).load(choice.folder, options or LoadOptions()))
    return policy.to(device).eval()


def choose(source: str | Path) -> Choice:
    """Return which family reads a source, without reading its weights; arguments and errors as in `load_policy`."""
    folder = _folder(source)
    files = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    config = read_json(folder / "config.json")
    for name in FAMILIES:
        if (reason := _family(name).recognises(config)) is not None:
            return Choice(name, reason, folder)
    names = tensor_names(folder)
    for name, (needed, reason) in _BY_TENSORS.items():
        if needed <= names:
            return Choice(name, reason, folder)
    raise _unknown_layout(source, files, config)


def _folder(source: str | Path) -> Path:
    """Return the local folder of a source, which is downloaded first if it is a repository."""
    name, path = str(source), Path(source).expanduser()
    if path.is_file() and name not in BUNDLED:
        raise CheckpointError(f"{path} is a file; give the folder that it lies in")
    # A bundled name wins over a folder of that name, as for world models; such a folder is reached as ./NAME.
    if name in BUNDLED or path.exists() or name.startswith(("/", ".", "~")) or "/" not in name:
        return resolve(name, BUNDLED)
    return fetch(parse_hub_name(name), only=_FETCHED)


@contextmanager
def _naming_errors(choice: Choice) -> Iterator[None]:
    """Turn the errors that damaged files cause in other libraries into one that names the folder."""
    try:
        yield
    except (ProphetError, ImportError, NotImplementedError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(choice.folder) in str(error):
            raise
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        # Our own checks raise ValueError with a complete sentence; other types come from libraries on damaged files.
        if not isinstance(error, ValueError):
            kind = type(error).__name__
            reason = f"{kind}, {reason}; its config.json or another of its files is damaged: fetch or save it again"
        raise CheckpointError(f"{choice.folder} cannot be read as {choice.adapter}: {reason}") from error


def _unknown_layout(source: str | Path, files: list[str], config: Mapping[str, Any]) -> CheckpointError:
    """Make the error for a folder that no family reads."""
    said = {name: shown(str(config[name])) for name in ("type", "model_type") if name in config}
    known = "; ".join(f"{name} ({_family(name).LAYOUT})" for name in FAMILIES)
    return CheckpointError(
        f"{source} has no layout that is known. It holds {listed(files) or 'no files'}, config.json says "
        f"{said or 'nothing'}. Known are: {known}"
    )


def _family(name: str) -> Family:
    module, _, kind = FAMILIES[name].partition(":")
    return getattr(import_module(module), kind)
