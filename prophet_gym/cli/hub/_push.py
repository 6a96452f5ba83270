"""`prophet push`: check a checkpoint, and publish it on the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from prophet_gym._arguments import DeviceOrAuto, resolved_device
from prophet_gym.cli.hub._options import PushOptions, publish, show_facts


@dataclass(frozen=True)
class Args(PushOptions):
    """Publish a checkpoint on the Hub, as weights for `gym.make` and as an environment for LeRobot (EnvHub).

    Everything is loaded and tried before anything is sent, and one commit holds all of it. The token is that of
    `hf auth login`, or `HF_TOKEN`.
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Checkpoint's folder: networks, initial states, and where there are any success head, object reader and card."""
    device: DeviceOrAuto = "auto"
    """Device to try the checkpoint on, for example `cpu` or `cuda:1`; `auto` is the GPU if there is one."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym._io.hub import WORLD_MODEL, require_repo
    from prophet_gym.interop._publishing import package

    require_repo(args.repo)
    files, left_out, checked = package(
        args.folder, args.repo, device=resolved_device(args.device), license=args.license
    )
    show_facts(checked.facts)
    for lack in checked.lacks:
        print(f"  note: {lack}")
    tried = "everything can be loaded"
    sent = publish(args, files, left_out, kind=WORLD_MODEL, tried=tried, use='gym.make(..., weights="{}")')
    return sent | {"facts": checked.facts, "lacks": list(checked.lacks)}
