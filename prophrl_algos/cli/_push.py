"""`prophrl push`: check a policy, and publish it on the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from prophet_gym._arguments import Arguments


@dataclass(frozen=True)
class Args(Arguments):
    """Publish a policy on the Hub, with its adapters and tokenizer, for `load_policy` and `--policy owner/repo`.

    It is loaded and acts once before anything is sent, and one commit holds all of it. The token is that of
    `hf auth login`, or `HF_TOKEN`.
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Folder of a policy, or of a run of `prophrl train` or `prophrl sft`."""
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


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym._io.hub import POLICY, push_files, require_repo, sent
    from prophrl_algos._publishing import package, policy_folder

    require_repo(args.repo)
    with policy_folder(args.folder) as folder:
        files, left_out, checked = package(args.folder, folder, args.repo, license=args.license)
        for name, fact in checked.facts.items():
            print(f"  {name:<15}  {fact}")
        print(sent(files, left_out))
        if args.dry_run:
            print(f"dry run: the policy was loaded and acts, and nothing was sent to {args.repo}")
            return
        pushed = push_files(files, args.repo, kind=POLICY, revision=args.revision, private=args.private or None)
    for name in pushed.removed:
        print(f"  removed there  {name}")
    print(f'{pushed.url}\nload_policy("{args.repo}@{pushed.commit}")')
