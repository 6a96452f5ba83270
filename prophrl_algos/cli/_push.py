"""`prophrl push`: check a policy, and publish it on the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from prophet_gym.cli.hub._options import PushOptions, publish, show_facts


@dataclass(frozen=True)
class Args(PushOptions):
    """Publish a policy on the Hub, with its adapters and tokenizer, for `load_policy` and `--policy owner/repo`.

    It is loaded and acts once before anything is sent, and one commit holds all of it. The token is that of
    `hf auth login`, or `HF_TOKEN`.
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Folder of a policy, or of a run of `prophrl train` or `prophrl sft`."""


def main(args: Args) -> dict[str, Any]:
    """Run the command."""
    from prophet_gym._io.hub import POLICY, require_repo
    from prophrl_algos._publishing import package, policy_folder

    require_repo(args.repo)
    with policy_folder(args.folder) as folder:
        files, left_out, checked = package(args.folder, folder, args.repo, license=args.license)
        show_facts(checked.facts)
        tried = "the policy was loaded and acts"
        sent = publish(args, files, left_out, kind=POLICY, tried=tried, use='load_policy("{}")')
        return sent | {"facts": checked.facts}
