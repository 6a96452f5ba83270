"""Put what a machine without network needs beside this repository into one folder, to be carried there.

    python benchmarks/gpu/pack.py --latents outputs/train/latents.npz

Wheels that such a machine is not likely to have (pure Python, of the versions installed here) and the training latents.
Weights to begin with are in the repository. `unpack.py` is the other end.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tyro
from latent_codec import NAMES, compress

WHEELS = (
    *("diffusers", "importlib-metadata", "zipp", "requests", "urllib3", "certifi", "idna", "charset-normalizer"),
    *("gymnasium", "farama-notifications", "cloudpickle"),
    *("jaxtyping", "wadler-lindig"),
    *("tyro", "typeguard", "docstring-parser"),
)
"""Pack what training and benchmarks import beside torch, transformers and numpy, and its dependencies."""


@dataclass(frozen=True)
class Args:
    latents: Path = Path("outputs/train/latents.npz")
    """Pack this file, which `prophet train --stage latents` wrote."""
    out: Path = Path("outputs/gpu_pack")
    python: str = "3.12"
    """Pack wheels for the other machine's Python version."""
    wheels: tuple[str, ...] = WHEELS


def main(args: Args) -> None:
    if args.out.exists():
        shutil.rmtree(args.out)
    args.out.mkdir(parents=True)
    with np.load(args.latents) as stored:
        packed = compress({name: stored[name] for name in NAMES})
    (args.out / "latents.npz.xz").write_bytes(packed)
    if args.wheels:
        download(args.wheels, args.out / "wheels", args.python)
    for path in sorted(path for path in args.out.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(args.out)}")
    total = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{total / 1e6:8.2f} MB  in {args.out}")


def download(names: tuple[str, ...], folder: Path, python: str) -> None:
    """Fetch wheels for another Python, of the versions installed here, without what they depend on."""
    wanted = [f"{name}=={version(name)}" for name in names]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--python-version", python, "-d", str(folder), *wanted], check=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
