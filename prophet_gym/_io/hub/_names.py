"""Names of Hub repositories and of their files: what is understood, and what is refused."""

import re
from dataclasses import dataclass
from pathlib import Path

from prophet_gym.errors import MissingWeightsError

# What the authors of ProphRL released: robot -> file.
PUBLISHED = "Fleurrr/Prophet-World-Model"
PUBLISHED_FILES = {"libero": "prophet-libero.pt", "bridge": "prophet-bridge.pt"}
# Public; the same VAE is in the subfolder `vae` of the gated `nvidia/Cosmos-Predict2-2B-Video2World`.
WAN_VAE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAN_VAE_FILES = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")
FORMS = "'owner/repo', 'owner/repo:file.pt' or either with '@revision'"

_REPO = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(
    rf"(?P<repo>{_REPO}/{_REPO})(?::(?P<file>[^@:\\\s]+))?(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?", re.ASCII
)


@dataclass(frozen=True)
class HubName:
    """Name a repository, or one file of it, at a revision (branch, tag or commit) or at the newest."""

    repo: str
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        file = "" if self.file is None else f":{self.file}"
        return f"{self.repo}{file}" + ("" if self.revision is None else f"@{self.revision}")


def parse_hub_name(name: str) -> HubName:
    """Read `owner/repo` or `owner/repo:file.pt`, either with `@revision`; raise MissingWeightsError for other text."""
    match = _NAME.fullmatch(name)
    found = HubName(**match.groupdict()) if match else None
    texts = [] if found is None else [found.repo, found.file or "-", found.revision or "-"]
    outside = any(part in ("", ".", "..") for text in texts for part in text.split("/"))
    if found is None or outside or any(".." in text for text in (texts[0], texts[2])):
        raise MissingWeightsError(f"{name!r} names no Hub repository; it must be {FORMS}")
    return found


def published_file(weights: str, robot: str) -> str:
    """Return the Hub name of the released file for a robot where `weights` is the authors' repository, else `weights`.

    Example:
        >>> published_file("Fleurrr/Prophet-World-Model@main", "bridge")
        'Fleurrr/Prophet-World-Model:prophet-bridge.pt@main'
    """
    if weights.split("@")[0] != PUBLISHED or robot not in PUBLISHED_FILES or Path(weights).exists():
        return weights
    name = parse_hub_name(weights)
    return str(HubName(name.repo, PUBLISHED_FILES[robot], name.revision))
