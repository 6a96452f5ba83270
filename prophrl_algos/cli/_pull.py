"""`prophrl pull`: fetch a policy from the Hub, and check it."""

from dataclasses import dataclass
from typing import Any

from prophet_gym.cli.hub._options import PullOptions, show_facts


@dataclass(frozen=True)
class Args(PullOptions):
    """Fetch a policy into the Hub's cache, where `--policy owner/repo` finds it, and print its folder."""


def main(args: Args) -> dict[str, Any]:
    """Run the command."""
    from prophrl_algos._publishing import pull

    folder, checked = pull(args.name, verify=args.verify, again=args.again)
    if checked is not None:
        show_facts(checked.facts)
        print("verified: every file is the one that was pushed, and the policy acts")
    print(folder)
    return {"folder": folder, "verified": checked is not None, "facts": {} if checked is None else checked.facts}
