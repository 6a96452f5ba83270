"""Write to a repository of the Hub: everything in one commit, and only where nothing of another kind is lost."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

from prophet_gym._checks import first_line, listed
from prophet_gym._io.files import read_json
from prophet_gym._io.hub._manifest import MANIFEST, WORLD_MODEL, manifest, names_in, read_manifest
from prophet_gym._io.hub._names import parse_hub_name
from prophet_gym.errors import CheckpointError, MissingWeightsError

# What a new repository holds before anybody writes to it.
_EMPTY = {".gitattributes", "README.md", "LICENSE", "LICENSE.md"}
# What commands measured, and on which files: nobody else needs to know where those lie.
_REPORTS = ("evaluation*.json", "calibration*.json", "metrics*.json")
_PLACE = re.compile(r"(?P<before>(?:^|,)(?:\w+[:=])?)(?P<place>[^,]+)")


@dataclass(frozen=True)
class Pushed:
    """Hold where the files are now: the address and the name of the commit, and what of an earlier push it removed."""

    url: str
    commit: str
    removed: tuple[str, ...] = ()


def require_repo(repo: str) -> str:
    """Return `owner/repo`; raise MissingWeightsError for a name with a file or a revision, or for none at all."""
    name = parse_hub_name(repo)
    if name.file is not None or name.revision is not None:
        raise MissingWeightsError(f"{repo!r} must be 'owner/repo'; give the branch as revision")
    return repo


def push_folder(folder: Path, repo: str, *, revision: str | None = None, private: bool | None = None) -> str:
    """Upload all files of a checkpoint's folder with a manifest of them, and return the address of the commit."""
    require_repo(repo)
    files: dict[str, Path | bytes] = {name: folder / name for name in names_in(folder) - {MANIFEST}}
    return push_files(files, repo, revision=revision, private=private).url


def push_files(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    kind: str = WORLD_MODEL,
    revision: str | None = None,
    private: bool | None = None,
    message: str = "Upload with prophet-gym",
) -> Pushed:
    """Upload files, by their names in the repository, with a manifest; the repository is made if there is none.

    Large files are sent first and belong to no revision until the one commit names all of them: whatever is broken off
    before leaves the revision as it was. Files of an earlier push that are not among these are removed by that commit.

    Raises:
        MissingWeightsError: The Hub cannot be reached, does not know the token or does not let it write there; the
            repository holds something else; or somebody wrote to it meanwhile.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    require_repo(repo)
    api = HfApi()
    listing = manifest(files, kind).encode()
    try:
        api.whoami()
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        before = api.model_info(repo, revision=revision)
    except Exception as error:
        _refused(error, repo)
    there = {file.rfilename for file in before.siblings or ()}
    gone = sorted(_earlier(repo, there, before.sha, kind) & there - files.keys() - {MANIFEST})
    content = {**files, MANIFEST: listing}
    operations: list[Any] = [CommitOperationAdd(name, content[name]) for name in sorted(content)]
    operations += [CommitOperationDelete(name) for name in gone]
    try:
        # Only onto the commit that was looked at: nobody's push is overwritten unseen.
        found = api.create_commit(repo, operations, commit_message=message, revision=revision, parent_commit=before.sha)
    except Exception as error:
        _refused(error, repo)
    return Pushed(str(found.commit_url), str(found.oid), tuple(gone))


def _earlier(repo: str, there: set[str], revision: str | None, kind: str) -> set[str]:
    """Return the names in the manifest of an earlier push; MissingWeightsError if something else is there."""
    from huggingface_hub import hf_hub_download

    if MANIFEST not in there:
        if others := sorted(there - _EMPTY):
            _refuse_kind(repo, f"it holds {listed(others)} and no {MANIFEST}", kind)
        return set()
    try:
        path = Path(hf_hub_download(repo, MANIFEST, revision=revision))
    except Exception as error:
        _refused(error, repo)
    own, files = read_manifest(path)
    if (own or WORLD_MODEL) != kind:  # earlier versions wrote one for world models alone
        _refuse_kind(repo, f"its {MANIFEST} says that it holds a {own or WORLD_MODEL}", kind)
    return set(files)


def _refuse_kind(repo: str, why: str, kind: str) -> NoReturn:
    raise MissingWeightsError(
        f"the Hub repository {repo} must be new, empty, or an earlier push of a {kind}; {why}: nothing was written "
        "there, give another name"
    )


def _refused(error: Exception, repo: str) -> NoReturn:
    """Raise MissingWeightsError, which says what the caller can put right."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    said = f"cannot write to the Hub repository {repo}"
    if isinstance(error, LocalTokenNotFoundError):
        why = "no token is here: log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    elif status == 401:
        why = "the Hub does not know this token: log in again with `hf auth login`, or mend HF_TOKEN"
    elif status == 403:
        why = (
            f"this token may not write there: make one with write access to {repo.split('/')[0]} "
            "(huggingface.co/settings/tokens), then `hf auth login`"
        )
    elif status == 412:
        why = "somebody wrote to it in the meantime; look at what is there, and push again"
    else:
        why = f"{_reason(error)}; check the name and the network (HF_HUB_OFFLINE), and push again"
    raise MissingWeightsError(f"{said}: {why}") from error


def _reason(error: Exception) -> str:
    """Return the first line of what the Hub said, else of the error."""
    return str(getattr(error, "server_message", None) or first_line(error)).splitlines()[0]


def offered(folder: Path, endings: Sequence[str]) -> tuple[dict[str, Path | bytes], list[str]]:
    """Return the files of a folder that are published, by name, and the names of those that are left out."""
    names = sorted(names_in(folder) - {MANIFEST})
    kept = {name for name in names if name.endswith(tuple(endings)) and not any(p[0] == "." for p in name.split("/"))}
    return {name: folder / name for name in names if name in kept}, [name for name in names if name not in kept]


def without_places(files: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """Return the files with reports that do not say where files lie on this machine: of a path its last part stays.

    Raises:
        CheckpointError: A report is damaged.
    """
    cut: dict[str, Path | bytes] = {}
    for name, content in files.items():
        if isinstance(content, Path) and any(fnmatch(content.name, pattern) for pattern in _REPORTS):
            report = read_json(content, CheckpointError)
            if (told := _cut(report)) != report:
                cut[name] = (json.dumps(told, indent=2) + "\n").encode()
    return {**files, **cut}


def _cut(value: Any) -> Any:
    """Return what a report says with every path in it, `lerobot:PATH,option=PATH` too, as its last part."""
    if isinstance(value, Mapping):
        return {name: _cut(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_cut(each) for each in value]
    return _PLACE.sub(lambda found: found["before"] + _last(found["place"]), value) if isinstance(value, str) else value


def _last(place: str) -> str:
    if place[0] not in "/~.\\" and not os.path.exists(place):
        return place
    return re.split(r"[/\\]", place.rstrip("/\\"))[-1] or place


def sent(files: Mapping[str, Path | bytes], left_out: Sequence[str]) -> str:
    """Return a list of files with their sizes, and of those left out, as text."""
    sizes = {name: each.stat().st_size if isinstance(each, Path) else len(each) for name, each in files.items()}
    lines = [f"  {size / 1e3:10,.1f} kB  {name}" for name, size in sorted(sizes.items())]
    lines += [f"  left out       {name}" for name in left_out]
    return "\n".join([*lines, f"  {sum(sizes.values()) / 1e3:10,.1f} kB in {len(sizes)} files"])
