"""`prophet pull`: fetch a checkpoint from the Hub, and check it."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from prophet_gym._arguments import Arguments, DeviceOrAuto, resolved_device


@dataclass(frozen=True)
class Args(Arguments):
    """Fetch a checkpoint into the Hub's cache, where `weights="owner/repo"` finds it, and print its folder."""

    name: Annotated[str, Positional, arg(metavar="NAME")]
    """Repository, `owner/repo` or `owner/repo@revision`."""
    verify: bool = False
    """Require a manifest, compare size and sha-256 of every file with it, load everything and dream one chunk."""
    again: bool = False
    """Fetch what the cache has of it once more, for example where a file there is damaged."""
    device: DeviceOrAuto = "auto"
    """Device to try the checkpoint on, for example `cpu` or `cuda:1`; `auto` is the GPU if there is one."""


def main(args: Args) -> None:
    from prophet_gym.interop.publishing import pull

    folder, checked = pull(args.name, verify=args.verify, again=args.again, device=resolved_device(args.device))
    if checked is not None:
        for name, fact in checked.facts.items():
            print(f"  {name:<14}  {fact}")
        print("verified: every file is the one that was pushed, and everything can be loaded")
    print(folder)
