"""`prophet push`: check a checkpoint, and publish it on the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from prophet_gym._arguments import Arguments, DeviceOrAuto, resolved_device


@dataclass(frozen=True)
class Args(Arguments):
    """Publish a checkpoint on the Hub, as weights for `gym.make` and as an environment for LeRobot (EnvHub).

    Everything is loaded and tried before anything is sent, and one commit holds all of it. The token is that of
    `hf auth login`, or `HF_TOKEN`.
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Checkpoint's folder: networks, initial states, and where there are any success head, object reader and card."""
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
    device: DeviceOrAuto = "auto"
    """Device to try the checkpoint on, for example `cpu` or `cuda:1`; `auto` is the GPU if there is one."""


def main(args: Args) -> None:
    from prophet_gym._io.hub import push_files, require_repo, sent
    from prophet_gym.interop.publishing import package

    require_repo(args.repo)
    files, left_out, checked = package(
        args.folder, args.repo, device=resolved_device(args.device), license=args.license
    )
    for name, fact in checked.facts.items():
        print(f"  {name:<14}  {fact}")
    for lack in checked.lacks:
        print(f"  note: {lack}")
    print(sent(files, left_out))
    if args.dry_run:
        print(f"dry run: everything can be loaded, and nothing was sent to {args.repo}")
        return
    pushed = push_files(files, args.repo, revision=args.revision, private=args.private or None)
    for name in pushed.removed:
        print(f"  removed there  {name}")
    print(f'{pushed.url}\ngym.make(..., weights="{args.repo}@{pushed.commit}")')
