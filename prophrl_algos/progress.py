"""How far the work inside an update or an evaluation has come, for whoever waits for it."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], object]
"""`progress(stage, done, total)`, e.g. `progress("rollouts, chunk", 12, 30)`.

The total is the most that there may be, since episodes can end sooner; None where there is no bound.
"""


def silent(stage: str, done: int, total: int | None) -> None:
    """Tell nobody."""
    del stage, done, total
