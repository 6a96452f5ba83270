"""Load a policy by the name of its folder or repository."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from prophet_gym._checks import listed, shown
from prophet_gym._io.hub import fetch, parse_hub_name, resolve
from prophet_gym.errors import CheckpointError, ProphetError
from prophrl_algos.flow import FlowPolicy
from prophrl_algos.vla._experts import Pi0Policy, Pi05Policy, SmolVLAPolicy
from prophrl_algos.vla._options import LoadOptions
from prophrl_algos.vla.io._weights import CONFIG, read_json, tensor_names
from prophrl_algos.vla.prismatic import OpenVLAOFT, VLAAdapter
from prophrl_algos.vla.small import SmallVLA

FAMILIES = {
    "pi05": Pi05Policy,
    "pi0": Pi0Policy,
    "smolvla": SmolVLAPolicy,
    "vla_adapter": VLAAdapter,
    "openvla_oft": OpenVLAOFT,
    "small": SmallVLA,
}
"""The families, tried in this order; a new one needs a line here and a class with `LAYOUT`, `recognises` and `load`."""
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
FETCHED = ("*.json", "*.safetensors", "*.model", "*.txt", "action_head--*.pt", "proprio_projector--*.pt")
"""Files of a repository that are downloaded; never optimizer states, images or code."""

_log = logging.getLogger(__name__)


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
    """Load a policy that is ready to act and to be trained, from a folder, a bundled name or a Hub repository.

    A repository is `owner/repo`, optionally with `@revision`. The recognised model family and the reason are logged at
    level INFO.

    Raises:
        CheckpointError: The layout is unknown (the message lists the known ones), or tensors are missing, unexpected
            or of another shape.
        MissingWeightsError: There is no such folder or repository.
    """
    choice = choose(source)
    if str(source) not in BUNDLED:  # what those are is known
        _log.info("%s", choice)
    try:
        policy = cast(Any, FAMILIES[choice.adapter].load(choice.folder, options or LoadOptions()))
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
    return policy.to(device).eval()


def choose(source: str | Path) -> Choice:
    """Return which family reads a source, without reading its weights; arguments and errors as in `load_policy`."""
    name, path = str(source), Path(source).expanduser()
    if path.is_file() and name not in BUNDLED:
        raise CheckpointError(f"{path} is a file; give the folder that it lies in")
    # A bundled name wins over a folder of that name, as for world models; such a folder is reached as ./NAME.
    if name in BUNDLED or path.exists() or name.startswith(("/", ".", "~")) or "/" not in name:
        folder = resolve(name, BUNDLED)
    else:
        folder = fetch(parse_hub_name(name), only=FETCHED, sought=True)
    config = read_json(folder / CONFIG)
    for adapter, family in FAMILIES.items():
        if (reason := family.recognises(config)) is not None:
            return Choice(adapter, reason, folder)
    tensors = tensor_names(folder)
    for adapter, (needed, reason) in _BY_TENSORS.items():
        if needed <= tensors:
            return Choice(adapter, reason, folder)
    files = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    said = {name: shown(str(config[name])) for name in ("type", "model_type") if name in config}
    known = "; ".join(f"{name} ({family.LAYOUT})" for name, family in FAMILIES.items())
    raise CheckpointError(
        f"{source} has no layout that is known. It holds {listed(files) or 'no files'}, config.json says "
        f"{said or 'nothing'}. Known are: {known}"
    )
