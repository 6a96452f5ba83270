"""`prophet pull`: fetch a checkpoint from the Hub, and check it."""

from dataclasses import dataclass
from typing import Any

from prophet_gym._arguments import DeviceOrAuto, resolved_device
from prophet_gym.cli.hub._options import PullOptions, show_facts


@dataclass(frozen=True)
class Args(PullOptions):
    """Fetch a checkpoint into the Hub's cache, where `weights="owner/repo"` finds it, and print its folder."""

    device: DeviceOrAuto = "auto"
    """Device to try the checkpoint on, for example `cpu` or `cuda:1`; `auto` is the GPU if there is one."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym.interop._publishing import pull

    folder, checked = pull(args.name, verify=args.verify, again=args.again, device=resolved_device(args.device))
    if checked is not None:
        show_facts(checked.facts)
        print("verified: every file is the one that was pushed, and everything can be loaded")
    print(folder)
    return {"folder": folder, "verified": checked is not None, "facts": {} if checked is None else checked.facts}
