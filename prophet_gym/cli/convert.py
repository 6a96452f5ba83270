"""`prophet convert`: turn released weights into a checkpoint folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from prophet_gym._io.hub import PUBLISHED_FILES, WAN_VAE, WAN_VAE_FILES
from prophet_gym.arguments import Arguments, Items, WriteFolder
from prophet_gym.errors import MissingWeightsError


@dataclass(frozen=True)
class Args(Arguments):
    """Turn released weights, e.g. Fleurrr/Prophet-World-Model:prophet-libero.pt, into a checkpoint folder.

    Nothing of the file is executed, the weights keep their dtype, and after an error there is no folder.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A `.pt` or `.safetensors` file, or one of the Hub: `owner/repo:file.pt`, `owner/repo:file.pt@revision`."""
    target: Annotated[Path, tyro.conf.Positional, WriteFolder()]
    """New folder; `Prophet.from_pretrained` and `weights=` read it."""
    vae: str = WAN_VAE
    """The Wan VAE: a folder, a Hub repository with a subfolder `vae`, or `none` to put it into TARGET/autoencoder
    yourself."""
    embodiment: str | None = None
    """The robot whose commands it takes, e.g. `bridge`; if not given, `bridge` for prophet-bridge.pt, else `libero`."""
    frame_size: tuple[Items, Items] | None = None
    """Height and width of the frames it dreams; the robot's own if not given."""
    draw_tools: bool = False
    """Feed the action-frame conditioner our pictures of the tools; every start must then say where they are."""
    action_dim: Items | None = None
    """Numbers per action, if not the layout's own (Prophet 14, Cosmos' action-conditioned sample 7)."""
    drop_text: bool = False
    """Leave out the cross-attentions, a fifth of the weights, which put out zero while text is off."""
    starting_point: bool = False
    """SOURCE is a Cosmos-Predict2 model: add the parts of a Prophet it lacks, silent, to train from."""
    chunk: Items = 20
    """Actions per chunk of a starting point whose model has none."""


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym._io.hub import fetch, parse_hub_name, resolve
    from prophet_gym.prophet.convert import PROPHET_ACTION_DIM, Conversion, NewParts, convert_file

    source = resolve(args.source, {})
    if source.is_dir():
        raise MissingWeightsError(f"{args.source} is a folder; name the file, as in owner/repo:file.pt")
    vae = None if args.vae == "none" else Path(args.vae).expanduser()
    if vae is not None and not vae.exists():
        vae = fetch(parse_hub_name(args.vae), only=WAN_VAE_FILES)
    new = NewParts(args.action_dim or PROPHET_ACTION_DIM, args.chunk) if args.starting_point else None
    published = {file: robot for robot, file in PUBLISHED_FILES.items()}
    how = Conversion(
        args.frame_size,
        args.action_dim,
        new,
        keep_text=not args.drop_text,
        embodiment=args.embodiment or published.get(source.name, "libero"),
        draw_tools=args.draw_tools,
    )
    config = convert_file(source, args.target, vae, how)
    height, width = config.frame_size
    print(
        f"{args.target}: a Prophet of {config.embodiment}, chunks of {config.chunk} actions and {height}x{width} frames"
    )
    if args.starting_point:
        print("It is a starting point for training: it does not follow actions yet.")


if __name__ == "__main__":
    main(tyro.cli(Args))
