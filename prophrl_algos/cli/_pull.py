"""`prophrl pull`: fetch a policy from the Hub, and check it."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from prophet_gym._arguments import Arguments


@dataclass(frozen=True)
class Args(Arguments):
    """Fetch a policy into the Hub's cache, where `--policy owner/repo` finds it, and print its folder."""

    name: Annotated[str, Positional, arg(metavar="NAME")]
    """Repository, `owner/repo` or `owner/repo@revision`."""
    verify: bool = False
    """Require a manifest, compare size and sha-256 of every file with it, load everything and act once."""
    again: bool = False
    """Fetch what the cache has of it once more, for example where a file there is damaged."""


def main(args: Args) -> None:
    """Run the command."""
    from prophrl_algos._publishing import pull

    folder, checked = pull(args.name, verify=args.verify, again=args.again)
    if checked is not None:
        for name, fact in checked.facts.items():
            print(f"  {name:<15}  {fact}")
        print("verified: every file is the one that was pushed, and the policy acts")
    print(folder)
