"""Find the files that a name of weights stands for: a bundled checkpoint, a local path, a Hub repository's revision."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from prophet_gym._checks import first_line
from prophet_gym._io.hub._manifest import MANIFEST, names_in, require_hashes, verified
from prophet_gym._io.hub._names import FORMS, HubName, parse_hub_name
from prophet_gym.errors import MissingWeightsError


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
    return fetch(name, needs=needs, sought=True)


def fetch(
    name: HubName,
    only: Sequence[str] | None = None,
    needs: str | None = None,
    *,
    again: bool = False,
    sought: bool = False,
) -> Path:
    """Fetch a repository, or one file of it, into the Hub's cache and return where it lies.

    `only` has patterns of the files wanted, e.g. `vae/*`. A whole repository must have the file `needs`, which is
    looked for before the rest is fetched. With `again` what the cache has of it is replaced. `sought` says that a
    folder or file of this name was looked for first, which an error then tells. MissingWeightsError where it cannot be
    reached, does not exist or asks for a licence or token; CheckpointError where a file is not the one that the
    manifest names.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        if name.file is not None:
            found = Path(hf_hub_download(name.repo, name.file, revision=name.revision, force_download=again))
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
            got = snapshot_download(name.repo, revision=name.revision, allow_patterns=patterns, force_download=again)
            found = folder = Path(got)
            names = None if only is None else names_in(folder)
    except MissingWeightsError:
        raise
    except Exception as error:
        what = f"the file {name.file} of the Hub repository" if name.file else "the Hub repository"
        at = f"revision {name.revision}" if name.revision else "its newest revision"
        here = f"there is no folder or file {name} here, and we " if sought else ""
        raise MissingWeightsError(
            f"{here}could not get {what} {name.repo} at {at}: {first_line(error)}; neither the Hub nor its local cache "
            "has it for us: check the name, the network (HF_HUB_OFFLINE) and, for a gated repository, its licence and "
            "your token (hf auth login); weights='bundled' works without a network"
        ) from error
    require_hashes(folder, names)
    return found


def fetch_data_set(name: str) -> Path:
    """Fetch a data set `owner/repo` into the Hub's cache; FileNotFoundError where neither Hub nor cache has it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:
        raise FileNotFoundError(
            f"no data set at {name}: there is no such folder here. If it is on the Hub, check the name, the network "
            "(HF_HUB_OFFLINE) and, for a gated data set, your token (hf auth login); the Hub says: "
            f"{first_line(error)}"
        ) from error
