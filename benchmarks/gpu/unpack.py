"""Unpack what `pack.py` made, on a machine without network:

    python benchmarks/gpu/unpack.py --pack outputs/gpu_pack --site /tmp/site --out outputs/gpu
    export PYTHONPATH=/tmp/site:$PWD
    python -m prophet_gym train --stage transformer --base prophet_gym/checkpoints/libero_small --out outputs/gpu ...

The wheels go into a folder of their own, so that nothing installed there changes; the latents to `OUT/latents.npz`.
Standard library and numpy alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from latent_codec import decompress


def main() -> None:
    parser = argparse.ArgumentParser(description="Unpack what pack.py made.")
    parser.add_argument("--pack", type=Path, default=Path("outputs/gpu_pack"))
    parser.add_argument("--site", type=Path, default=Path("/tmp/site"), help="folder for the packages")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder of the training")
    args = parser.parse_args()
    wheels = sorted(args.pack.glob("wheels/*.whl"))
    if wheels:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-cache-dir",
            "--upgrade",
        ]
        subprocess.run([*command, "--target", str(args.site), *map(str, wheels)], check=True)
    arrays = decompress((args.pack / "latents.npz.xz").read_bytes())
    args.out.mkdir(parents=True, exist_ok=True)
    temporary = args.out / "latents.part.npz"
    np.savez(temporary, **arrays)
    temporary.replace(args.out / "latents.npz")
    episodes, frames = len(arrays["starts"]) - 1, len(arrays["latents"])
    print(
        f"{len(wheels)} packages in {args.site}, {frames} frames of {episodes} episodes in {args.out / 'latents.npz'}"
    )


if __name__ == "__main__":
    main()
