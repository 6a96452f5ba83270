"""`prophet merge`: write a checkpoint with its adapters merged in."""

from dataclasses import dataclass
from typing import Any

from prophet_gym._arguments import Arguments, OutFolder


@dataclass(frozen=True)
class Args(Arguments):
    """Merge adapters (LoRA) into the checkpoint that they were trained on; the result is a new folder."""

    base: str
    """Checkpoint that the adapters were trained on: a folder, or a Hub repository such as `owner/repo@revision`."""
    lora: str
    """Adapters: the folder `lora` of a training run, or a Hub repository."""
    out: OutFolder
    """New folder for the merged checkpoint."""
    half: bool = True
    """Store the weights as float16; `--no-half` stores float32."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym.errors import CheckpointError
    from prophet_gym.prophet import Prophet

    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise CheckpointError(f"{args.out} holds something already; give a new or empty folder")
    Prophet.from_pretrained(args.base, lora=args.lora).save_pretrained(args.out, half=args.half)
    print(f"wrote {args.out}; `Prophet.from_pretrained` and `weights=` read it")
    return {"checkpoint": args.out}
