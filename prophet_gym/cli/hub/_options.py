"""Give the options of `push` and `pull` in both programs, and print what they did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from prophet_gym._arguments import Arguments


@dataclass(frozen=True)
class PushOptions(Arguments):
    """Choose what is published, and where."""

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Folder that is published."""
    repo: Annotated[str, Positional, arg(metavar="REPO")]
    """Repository, `owner/repo`; it is made if there is none."""
    dry_run: bool = False
    """Check everything and show what would be sent, without a word to the Hub."""
    revision: str | None = None
    """Branch to write to, made if there is none; the main one by default."""
    private: bool = False
    """Make a new repository private."""
    license: str | None = None
    """License that the card names, for example `apache-2.0`, unless a card of yours names one."""


@dataclass(frozen=True)
class PullOptions(Arguments):
    """Choose what is fetched, and how it is checked."""

    name: Annotated[str, Positional, arg(metavar="NAME")]
    """Repository, `owner/repo` or `owner/repo@revision`."""
    verify: bool = False
    """Require a manifest, compare size and sha-256 of every file with it, load everything and try it once."""
    again: bool = False
    """Fetch what the cache has of it once more, for example where a file there is damaged."""


def publish(
    options: PushOptions, files: Mapping[str, Path | bytes], left_out: Sequence[str], *, kind: str, tried: str, use: str
) -> dict[str, Any]:
    """Print what is sent and send it, or stop before in a dry run; `use` is how the commit is named in Python."""
    from prophet_gym._io.hub import push_files, sent

    print(sent(files, left_out))
    about = {"repo": options.repo, "files": list(files), "left_out": list(left_out), "commit": None}
    if options.dry_run:
        print(f"dry run: {tried}, and nothing was sent to {options.repo}")
        return about
    pushed = push_files(files, options.repo, kind=kind, revision=options.revision, private=options.private or None)
    for name in pushed.removed:
        print(f"  removed there  {name}")
    print(f"{pushed.url}\n{use.format(f'{options.repo}@{pushed.commit}')}")
    return about | {"commit": pushed.commit, "url": pushed.url, "removed": list(pushed.removed)}


def show_facts(facts: Mapping[str, str]) -> None:
    """Print what was found when everything was loaded."""
    for name, fact in facts.items():
        print(f"  {name:<15}  {fact}")
