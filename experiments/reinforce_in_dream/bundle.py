"""Put a cloned policy into the package, where `--policy-weights SmallVLA-LIBERO-object-sft` finds it.

python -m experiments.reinforce_in_dream.bundle --size cpu --out outputs/reinforce_cpu
"""

from pathlib import Path
from typing import Literal

import tyro

from experiments.reinforce_in_dream.files import Place, read_policy
from experiments.reinforce_in_dream.protocol import CLONED, SIZES
from prophrl_algos.vla import SmallVLA
from prophrl_algos.vla._load import BUNDLED

Name = Literal["short", "cpu", "full"]


def main(size: Name, out: Path, logs: Path | None = None, folder: Path = BUNDLED[CLONED]) -> None:
    """Write its configuration and its weights in half precision.

    Raises:
        FileNotFoundError: Nothing is cloned yet.
    """
    place = Place(SIZES[size], (), out, logs or out / "logs")
    policy = read_policy(place, place.initial_weights())
    assert isinstance(policy, SmallVLA)
    policy.half().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    print(folder)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
