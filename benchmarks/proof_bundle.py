"""Put a proof's cloned policy into the package, where `--weights SmallVLA-LIBERO-object-sft` finds it.

python benchmarks/proof_bundle.py --size cpu --out outputs/proof_cpu
"""

from pathlib import Path
from typing import Literal

import tyro
from proof import begins_from
from proof_files import Place, read_policy
from proof_sizes import CLONED, SIZES

from prophrl_algos.vla import SmallVLA
from prophrl_algos.vla._load import BUNDLED

Name = Literal["short", "cpu", "full"]


def main(size: Name, out: Path, logs: Path | None = None, folder: Path = BUNDLED[CLONED]) -> None:
    """Write its configuration and its weights in half precision.

    Raises:
        FileNotFoundError: nothing is cloned yet.
    """
    place = Place(SIZES[size], (), out, logs or out / "logs")
    policy = read_policy(place, begins_from(place))
    assert isinstance(policy, SmallVLA)
    policy.half().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    print(folder)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
