"""How the episodes of recordings end: where a policy fails.

    python benchmarks/proof_faults.py --recordings cloned outputs/policy_before learnt outputs/policy_after \
        --json benchmarks/results/proof_faults.json

An object is lifted where it is 5 cm above its first place. Of the episodes without success, it was never lifted; or was
let go, the hand being told to open; or slipped from a hand that was told to close; or is held to the end.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from proof_closing import target_of

from prophet_gym.cli.report import machine, table, write_json
from prophet_gym.data.recording import Episode, list_episodes, read_episode

LIFTED = 0.05
ENDS = ("success", "never lifted", "let go", "slipped", "held to the end")


@dataclass(frozen=True)
class Args:
    """Count."""

    recordings: dict[str, Path]
    """Name -> what `prophet collect` or `prophrl record` wrote."""
    json: Path | None = None


def end_of(episode: Episode) -> str:
    """One of `ENDS`.

    Raises:
        ValueError: the task's target is a fixture, which nobody lifts.
    """
    path = target_of(episode)
    up = path[:, 2] > path[0, 2] + LIFTED
    if episode.success.any():
        return "success"
    if not up.any():
        return "never lifted"
    if up[-1]:
        return "held to the end"
    return "let go" if episode.actions[np.flatnonzero(up)[-1], 6] < 0 else "slipped"


def main(args: Args) -> None:
    found = {}
    for name, folder in args.recordings.items():
        counts = Counter(end_of(read_episode(path)) for path in list_episodes(folder, evaluating=True))
        found[name] = {end: counts[end] for end in ENDS}
    write_json(args.json, {"machine": machine(), "recordings": found})
    print(table(["recording", *ENDS], [[name, *map(str, counts.values())] for name, counts in found.items()]))


if __name__ == "__main__":
    main(tyro.cli(Args))
