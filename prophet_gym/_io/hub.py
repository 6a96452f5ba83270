"""Find the files that a name of weights stands for: a bundled checkpoint, a local path, a Hub repository's revision."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from prophet_gym._checks import first_line, listed, shown
from prophet_gym._io.atomic import atomic_write, is_aside
from prophet_gym._io.files import read_json, reading
from prophet_gym.errors import CheckpointError, MissingWeightsError

# Beside the files of a checkpoint: each file's name -> its sha-256.
MANIFEST = "manifest.json"
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


def resolve(weights: str, bundled: Mapping[str, Path], needs: str | None = None) -> Path:
    """Return the local folder, or file, of a key of `bundled`, a path or a Hub name, whose files are as its manifest.

    `needs` is as in `fetch`, and so are the errors.
    """
    if weights in bundled:
        return verified(bundled[weights])
    path = Path(weights).expanduser()
    if path.exists():
        return verified(path)
    known = f"{f'one of {sorted(bundled)}, ' if bundled else ''}a local path, or a Hub name ({FORMS})"
    missing = MissingWeightsError(f"weights={weights!r} must be {known}; found no folder or file")
    if "/" not in weights or weights.startswith(("/", ".", "~")):
        raise missing
    try:
        name = parse_hub_name(weights)
    except MissingWeightsError:
        raise missing from None
    return fetch(name, needs=needs)


def fetch(name: HubName, only: Sequence[str] | None = None, needs: str | None = None) -> Path:
    """Fetch a repository, or one file of it, into the Hub's cache and return where it lies.

    `only` has patterns of the files wanted, e.g. `vae/*`. A whole repository must have the file `needs`, which is
    looked for before the rest is fetched. MissingWeightsError where it cannot be reached, does not exist or asks for a
    licence or token; CheckpointError where a file is not the one that the manifest names.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        if name.file is not None:
            found = Path(hf_hub_download(name.repo, name.file, revision=name.revision))
            folder, names = found.parents[name.file.count("/")], {name.file}
            with suppress(EntryNotFoundError):
                hf_hub_download(name.repo, MANIFEST, revision=name.revision)
        else:
            try:
                if needs is not None:
                    hf_hub_download(name.repo, needs, revision=name.revision)
            except LocalEntryNotFoundError:
                pass  # Without a network only what is there counts, and the caller looks at it.
            except EntryNotFoundError as error:
                raise MissingWeightsError(
                    f"the Hub repository {name.repo} has no {needs}, so it holds no checkpoint: name a file of it, as "
                    f"in {name.repo}:file.pt, or give another repository"
                ) from error
            patterns = None if only is None else [MANIFEST, *only]
            found = folder = Path(snapshot_download(name.repo, revision=name.revision, allow_patterns=patterns))
            names = None if only is None else _names(folder)
    except MissingWeightsError:
        raise
    except Exception as error:
        what = f"the file {name.file} of the Hub repository" if name.file else "the Hub repository"
        at = f"revision {name.revision}" if name.revision else "its newest revision"
        raise MissingWeightsError(
            f"could not get {what} {name.repo} at {at}: {first_line(error)}; neither the Hub nor its local cache has "
            "it for us: check the name, the network (HF_HUB_OFFLINE) and, for a gated repository, its licence and your "
            "token (hf auth login); weights='bundled' works without a network"
        ) from error
    _require_hashes(folder, names)
    return found


def fetch_data_set(name: str) -> Path:
    """Fetch a data set `owner/repo` into the Hub's cache; FileNotFoundError where neither Hub nor cache has it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:
        raise FileNotFoundError(
            f"no data set at {name}: it is no folder here, and the Hub says: {first_line(error)}; check the name, the "
            "network (HF_HUB_OFFLINE) and, for a gated data set, your token (hf auth login)"
        ) from error


def verified(path: Path) -> Path:
    """Return `path` if its folder has no manifest or its files are those the manifest names; CheckpointError if not."""
    if path.is_dir():
        _require_hashes(path, None)
    elif path.is_file():
        _require_hashes(path.parent, {path.name})
    return path


def write_manifest(folder: Path) -> None:
    """Write the sha-256 of every file under `folder` beside them."""
    hashes = {name: _hash(folder / name) for name in sorted(_names(folder) - {MANIFEST})}
    atomic_write(folder / MANIFEST, json.dumps(hashes, indent=2) + "\n")


def push_folder(folder: Path, repo: str, *, revision: str | None = None, private: bool | None = None) -> str:
    """Upload a folder with its manifest and return the address of the commit."""
    from huggingface_hub import HfApi

    name = parse_hub_name(repo)
    if name.file is not None or name.revision is not None:
        raise MissingWeightsError(f"{repo!r} must be 'owner/repo'; give the branch as revision")
    write_manifest(folder)
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, revision=revision)
    except Exception as error:
        raise MissingWeightsError(f"cannot write to the Hub repository {repo}: {first_line(error)}") from error
    return str(commit.commit_url)


def _names(folder: Path) -> set[str]:
    """Return the names of all files, but for locks and temporary files of a run."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix() for path in found if not any(map(is_aside, path.parts))}


def _require_hashes(folder: Path, only: set[str] | None) -> None:
    """Raise CheckpointError unless all files that the manifest names, or those of `only`, are there and unchanged."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    with reading(f"{manifest} is damaged", "it must map file names to sha-256 sums", CheckpointError):
        hashes = read_json(manifest)
    if not all(isinstance(value, str) for value in hashes.values()):
        raise CheckpointError(f"{manifest} must map file names to sha-256 sums")
    outside = [name for name in hashes if not _is_inside(name)]
    if outside:
        raise CheckpointError(f"{manifest} must name files of its own folder, got {listed(outside)}")
    chosen = {name: value for name, value in hashes.items() if only is None or name in only}
    missing = [name for name in chosen if not (folder / name).is_file()]
    changed = [name for name, value in chosen.items() if name not in missing and _hash(folder / name) != value.lower()]
    if missing or changed:
        problems = [f"{shown(name)} is missing" for name in missing]
        problems += [f"{shown(name)} has another sha-256" for name in changed]
        raise CheckpointError(f"{folder} is not what {MANIFEST} names: {listed(problems, 200)}; fetch it again")


def _is_inside(name: str) -> bool:
    """Return whether a file's name stays in its folder, as everything that `write_manifest` writes does."""
    parts = name.split("/")
    return not set(name) & {*"\\:\0"} and all(p not in ("", ".", "..") and len(p.encode()) < 256 for p in parts)


def _hash(path: Path) -> str:
    stat = path.stat()
    return _hash_of_version(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_of_version(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 (the key of the cache)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
