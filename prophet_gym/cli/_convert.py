"""`prophet convert`: turn released weights into a checkpoint folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from prophet_gym._arguments import Arguments, Items, OutFolder
from prophet_gym._io.hub import PUBLISHED_FILES, WAN_VAE, WAN_VAE_FILES
from prophet_gym.errors import MissingWeightsError


@dataclass(frozen=True)
class Args(Arguments):
    """Turn released weights, such as Fleurrr/Prophet-World-Model:prophet-libero.pt, into a checkpoint folder.

    No code of the file is executed, the weights keep their dtype, and after an error no folder is left.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """File of weights (`.pt`, `.safetensors`), on the Hub as `owner/repo:file.pt` or `owner/repo:file.pt@revision`."""
    target: Annotated[OutFolder, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """New folder for the checkpoint, which `weights=` and `--world-model` read."""
    vae: str = WAN_VAE
    """Wan VAE: a folder, a Hub repository with a subfolder `vae`, or `none` to put it into TARGET/autoencoder later."""
    embodiment: str | None = None
    """Robot whose actions the model takes; by default `bridge` for prophet-bridge.pt and `libero` otherwise."""
    frame_size: tuple[Items, Items] | None = None
    """Height and width of the frames that the model generates; the robot's own by default."""
    draw_tools: bool = False
    """Draw action frames for the model; every initial state must then have the poses of the tools."""
    action_dim: Items | None = None
    """Number of dimensions of a model action; by default that of the file's layout, 14 for Prophet."""
    drop_text: bool = False
    """Leave out the cross-attention to text, a fifth of the weights; its output is zero while text is off."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym._io.companions import env_id
    from prophet_gym._io.hub import fetch, parse_hub_name, resolve
    from prophet_gym.prophet.convert import Conversion, convert_file

    source = resolve(args.source, {})
    if source.is_dir():
        raise MissingWeightsError(f"{args.source} is a folder; name the file, as in owner/repo:file.pt")
    vae = None if args.vae == "none" else Path(args.vae).expanduser()
    if vae is not None and not vae.exists():
        vae = fetch(parse_hub_name(args.vae), only=WAN_VAE_FILES)
    published = {file: robot for robot, file in PUBLISHED_FILES.items()}
    how = Conversion(
        args.frame_size,
        args.action_dim,
        keep_text=not args.drop_text,
        embodiment=args.embodiment or published.get(source.name, "libero"),
        draw_tools=args.draw_tools,
    )
    config = convert_file(source, args.target, vae, how)
    height, width = config.frame_size
    print(
        f"{args.target}: a Prophet of {config.embodiment}, chunks of {config.chunk} actions and {height}x{width} frames"
    )
    print(f'  gym.make("{env_id(config.embodiment)}", weights="{args.target}", starts=PATH)')
    return {
        "checkpoint": args.target,
        "embodiment": config.embodiment,
        "chunk": config.chunk,
        "frame_size": config.frame_size,
    }
