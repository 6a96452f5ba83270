"""How a learner fares under judges of every quality: the grid, the runs, the table.

What learns is a function of the caller's: it gets a judge's error rates and a seed, trains, and returns how good the
policy really is. The paper leaves this question open (its Fig. 14).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from prophet_gym.estimates import bootstrap
from prophet_gym.rewards.degraded import false_positive_rate


@dataclass(frozen=True)
class Cell:
    """A judge of the grid.

    Attributes:
        recall: Share of the successes that it sees.
        precision: Share of its alarms that are right, at the success rate that the grid was made for.
        false_positive_rate: Share of the failures that it takes for successes; this is what stays fixed in a run.
    """

    recall: float
    precision: float
    false_positive_rate: float


Run = Callable[[Cell, int], float]
"""`run(cell, seed)`: train under that judge, return the policy's true success rate."""


def grid(recalls: Sequence[float], precisions: Sequence[float], successes: float) -> list[Cell]:
    """All judges that can exist; with many successes, low precision is out of reach.

    Args:
        recalls: In (0, 1].
        precisions: In (0, 1].
        successes: The success rate of the policy that training begins with.

    Example:
        >>> [(cell.recall, cell.precision) for cell in grid([0.5, 1.0], [0.4, 1.0], successes=0.5)]
        [(0.5, 0.4), (0.5, 1.0), (1.0, 1.0)]
    """
    cells = []
    for recall in recalls:
        for precision in precisions:
            try:
                cells.append(Cell(recall, precision, false_positive_rate(recall, precision, successes)))
            except ValueError:
                if not (0 <= recall <= 1 and 0 < precision <= 1 and 0 < successes < 1):
                    raise
    return cells


def study(run: Run, cells: Sequence[Cell], seeds: Sequence[int], *, progress: bool = False) -> list[dict[str, Any]]:
    """Run every cell with every seed.

    Returns:
        For each cell its numbers, `outcomes` (one per seed) and their `mean`, `low`, `high` (95% bootstrap over seeds).
    """
    found = []
    for cell in tqdm(cells, desc="judges", disable=not progress):
        outcomes = [float(run(cell, seed)) for seed in seeds]
        estimate = bootstrap(np.array(outcomes))
        found.append(
            asdict(cell) | {"outcomes": outcomes, "mean": estimate.mean, "low": estimate.low, "high": estimate.high}
        )
    return found
